"""What units do from window to window, whatever is made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.estimators.backpropagation import Backpropagation
from meta_train.estimators.base import fixed_order_sum
from meta_train.estimators.credit import Persistent
from meta_train.estimators.mixture import Mixture
from meta_train.estimators.span import Whole
from meta_train.meta_loss import MetaLoss
from meta_train.perturb import Gaussian
from meta_train.schedules import Curriculum
from meta_train.unroll import fresh_losses
from tests.meta_train.problems import (
    HORIZON,
    TRUNCATED_GRADIENT,
    WINDOW,
    Follow,
    Influence,
    bits,
    init,
    make_estimator,
    strategies,
    window,
)


pytestmark = pytest.mark.usefixtures("quick_compilation")
THETA = jnp.array([0.75])
KEYS = [jax.random.key(i) for i in range(4)]
UNITS, VICTIM = 6, 3
OTHERS = [i for i in range(UNITS) if i != VICTIM]
SIGMA = 0.5
PES = strategies(Persistent(), SIGMA)


def influence(method, **fields):
    return make_estimator(Influence(), Follow(), method, **fields)


# Values that are not finite


def broken_state(estimator, units):
    """After one window, with a parameter of these units made infinite."""
    state = init(estimator, THETA, KEYS[0])
    _, state = window(estimator, THETA, state, KEYS[1])
    late = np.array(state.unrolls.params["late"])
    # Of a pair the minus side alone: a difference of infinities is not the only sign.
    late.reshape(UNITS, -1)[list(units), -1] = np.inf
    params = state.unrolls.params | {"late": jnp.array(late)}
    return state._replace(unrolls=state.unrolls._replace(params=params))


def by_unit(x):
    """`[blocks, block, ...]` to `[units, ...]`."""
    return np.asarray(x).reshape(UNITS, *x.shape[2:])


@pytest.mark.parametrize(
    "method", [PES, Backpropagation()], ids=["evolution", "backpropagation"]
)
def test_a_unit_that_is_not_finite_changes_its_own_contribution_alone(method):
    estimator = influence(method)
    (whole, after), (without, damaged), (alone, _) = (
        window(estimator, THETA, broken_state(estimator, units), KEYS[2])
        for units in ((), [VICTIM], OTHERS)
    )
    assert [int(e.valid) for e in (whole, without, alone)] == [6, 5, 1]
    assert [int(e.non_finite) for e in (whole, without, alone)] == [0, 1, 5]
    # Sums over units: the victim's share, which it has alone, is what is missing.
    np.testing.assert_allclose(
        6 * whole.gradient, 5 * without.gradient + alone.gradient, rtol=1e-5
    )
    assert np.isfinite(without.meta_loss)
    # The other units' problems did not notice.
    kept = [
        jax.tree.map(lambda x: by_unit(x)[OTHERS], s.unrolls.params)
        for s in (after, damaged)
    ]
    assert bits(kept[0]) == bits(kept[1])
    # The victim begins another problem with the next window, and that counts again.
    again, healed = window(estimator, THETA, damaged, KEYS[3])
    assert [int(x) for x in (again.restarts, again.valid)] == [1, 6]
    steps = by_unit(healed.unrolls.step)[:, 0].tolist()
    assert steps == [WINDOW if i == VICTIM else 3 * WINDOW for i in range(UNITS)]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(healed.unrolls.params))


def test_mixture_leaves_out_both_shares_of_such_a_unit():
    estimator = influence(Mixture(Gaussian(SIGMA)))
    without, _ = window(estimator, THETA, broken_state(estimator, [VICTIM]), KEYS[2])
    # Derivatives have no spread here.
    assert float(without.gradient[0]) == TRUNCATED_GRADIENT
    assert [int(x) for x in (without.valid, without.non_finite)] == [5, 1]


def test_below_a_cap_a_pair_that_is_not_finite_counts_as_it_and_begins_anew():
    """As if its minus side had that loss: credit * (plus - cap) / (2 sigma^2)."""
    cap = 100.0
    plain, capped = (influence(PES, meta_loss=MetaLoss(cap=x)) for x in (0.0, cap))
    broken = broken_state(plain, [VICTIM])
    whole, _ = window(plain, THETA, broken_state(plain, ()), KEYS[2])
    without, _ = window(plain, THETA, broken, KEYS[2])
    estimate, damaged = window(capped, THETA, broken, KEYS[2])
    assert [int(x) for x in (estimate.valid, estimate.non_finite)] == [6, 1]
    # One loss of twelve is the cap, and was this:
    minus = 12 * whole.meta_loss - 11 * without.meta_loss
    assert 12 * estimate.meta_loss - 11 * without.meta_loss == pytest.approx(
        cap, rel=1e-5
    )
    credit = by_unit(damaged.memory)[VICTIM]
    np.testing.assert_allclose(
        6 * (estimate.gradient - whole.gradient),
        credit * (minus - cap) / (2 * SIGMA**2),
        rtol=1e-4,
    )
    again, _ = window(capped, THETA, damaged, KEYS[3])
    assert [int(x) for x in (again.restarts, again.valid, again.non_finite)] == [
        1,
        6,
        0,
    ]


def test_below_a_cap_what_is_not_finite_has_no_derivative():
    estimator = influence(Backpropagation(), meta_loss=MetaLoss(cap=100.0))
    state = broken_state(estimator, [VICTIM])
    estimate, _ = window(estimator, THETA, state, KEYS[2])
    assert [int(x) for x in (estimate.valid, estimate.non_finite)] == [6, 1]
    assert float(estimate.gradient[0]) == pytest.approx(5 * TRUNCATED_GRADIENT / 6)


# Meta-losses


def test_losses_after_the_last_step_are_those_of_the_state_that_is_left():
    meta_loss = MetaLoss(reduce="final", held_out=0.25, samples=3)
    estimator = influence(Backpropagation(), meta_loss=meta_loss)
    estimate, state = window(estimator, THETA, init(estimator, THETA, KEYS[0]), KEYS[1])

    def expected(state):
        task = estimator.family.task(state.spec)
        train = jnp.mean(fresh_losses(task, state, "train", 3))
        held_out = jnp.mean(fresh_losses(task, state, "outer_valid", 3))
        return 0.75 * train + 0.25 * held_out

    unrolls = jax.tree.map(lambda x: x.reshape(UNITS, *x.shape[3:]), state.unrolls)
    want = jnp.mean(jax.vmap(expected)(unrolls))
    assert float(estimate.meta_loss) == pytest.approx(float(want), rel=1e-5)
    # Both see theta once in `late` and twice in `now`.
    assert float(estimate.gradient[0]) == -1.0


# Horizons


def lengths(estimator, count):
    """How many windows each unit's problems last, those that end in `count` windows."""
    state = init(estimator, THETA, KEYS[0])
    begun = []
    for i in range(count):
        _, state = window(estimator, THETA, state, jax.random.key(i))
        steps, horizons = (
            np.asarray(x).reshape(estimator.units, -1)[:, 0]
            for x in (state.unrolls.step, state.unrolls.horizon)
        )
        assert (horizons == HORIZON).all()
        begun.append(steps == horizons)
    ends = np.array(begun).T
    return [np.diff(np.flatnonzero(row), prepend=-1).tolist() for row in ends]


def test_staggered_units_end_their_first_problem_early_and_no_other():
    """By a share of at most 3/4 of four windows, rounded down: by 0, 1 or 2 of them.

    Of 40 units, all of these equally likely lengths occur but for a chance of 3e-7.
    """
    estimator = influence(None, pairs=40, block=40, stagger=0.75)
    found = lengths(estimator, 2 * HORIZON // WINDOW)
    assert {row[0] for row in found} == {2, 3, 4}
    assert {row[1] for row in found} == {4}


def test_whole_problems_are_not_staggered():
    with pytest.raises(ValueError, match=r"^stagger must be 0 where .*, got 0\.5$"):
        influence(None, span=Whole, stagger=0.5)


def test_a_schedule_is_told_the_outer_step():
    curriculum = Curriculum(shortest=2, first=2, longest=32, growth=100)
    estimator = influence(None, schedule=curriculum)
    state = init(estimator, THETA, KEYS[0])
    at = jax.jit(lambda estimator, *args: estimator.estimate(*args))
    early, late = (
        np.asarray(
            at(estimator, THETA, state, KEYS[1], jnp.int32(step))[1].unrolls.horizon
        )
        for step in (0, 100)
    )
    assert set(early.ravel().tolist()) == {2}
    assert late.min() >= 2
    assert late.max() > 8


# Keys


def test_fixed_order_sum_adds_one_row_after_another():
    """A plain sum of so many rows is made in another order."""
    rows = np.asarray(jax.random.normal(KEYS[0], (64, 3)))
    total = np.zeros(3, np.float32)
    for row in rows:
        total = total + row
    np.testing.assert_array_equal(fixed_order_sum(jnp.array(rows)), total)
    assert (fixed_order_sum(jnp.array(rows[::-1])) != total).any()
    counts = fixed_order_sum(jnp.array([1, 2, 3], jnp.int32))
    assert (int(counts), counts.dtype) == (6, jnp.int32)


def test_every_unit_has_noise_and_a_problem_of_its_own():
    estimator = influence(PES)
    state = init(estimator, THETA, KEYS[0])
    _, state = window(estimator, THETA, state, KEYS[1])
    assert len(np.unique(state.memory)) == UNITS
    # The two of a pair share theirs.
    spec = np.asarray(state.unrolls.spec)
    assert spec.shape == (3, 2, 2)
    assert len(np.unique(spec)) == UNITS
    np.testing.assert_array_equal(spec[..., 0], spec[..., 1])
