"""The guard: what it decides, what that costs, and that nothing gets past it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training import train_state

import l2o
from l2o.safeguard import GuardState, Mode, guard_summary
from l2o.safeguard.levels import Level, above, add, empty, level_of
from tests.helpers import assert_no_recompile


pytestmark = pytest.mark.usefixtures("quick_compilation")

STEPS = 200
CURVATURES = jnp.logspace(-2, 1, 8)
START = jnp.ones(8)
RATE = 0.15
"""Gradient descent's; it diverges from 0.2 on."""


def bowl(params):
    return 0.5 * jnp.sum(CURVATURES * params**2)


def descent(rate=RATE):
    return optax.with_extra_args_support(optax.sgd(rate))


def of_rates(rates):
    """Gradient descent whose update t has the rate `rates[t]`."""

    def init(params):
        del params
        return jnp.zeros((), jnp.int32)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        return jax.tree.map(lambda g: -rates[state] * g, updates), state + 1

    return optax.GradientTransformationExtraArgs(init, update)


def faulty(factor, rate=0.18):
    """The rates of gradient descent whose update t is multiplied by `factor(t)`."""
    return rate * jax.vmap(factor)(jnp.arange(STEPS)).astype(jnp.float32)


def plain(rate):
    """The same of gradient descent."""
    return jnp.full((STEPS,), rate)


def after(step, value) -> Any:
    """1 at first, then a value, or a function of the steps since."""
    of: Any = value if callable(value) else lambda since: value
    return lambda t: jnp.where(t < step, 1.0, of(jnp.maximum(t - step, 0)))


def steps_of(tx, start=START, steps=STEPS, loss=bowl) -> Any:
    """Losses and parameters before every step and after the last; the last state."""

    def step(carry, _) -> Any:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), (value, params)

    params: Any
    (params, state), (values, path) = jax.lax.scan(
        step, (start, tx.init(start)), None, length=steps
    )
    path = jnp.concatenate([path, params[None]])
    return jnp.append(values, loss(params)), path, state


def guarded(tx, own=None, **settings):
    """With gradient descent, or one of other rates, to fall back to."""
    own = descent() if own is None else of_rates(own)
    return l2o.guard(tx, own, **{"num_steps": STEPS, **settings})


@jax.jit
def bare(rates):
    """What `steps_of` gives of gradient descent at these rates."""
    return steps_of(of_rates(rates))


OWN = plain(RATE)


@jax.jit
def train(rates, own=OWN, num_steps=STEPS):
    """The same of it under a guard, in the program that most tests share."""
    return steps_of(guarded(of_rates(rates), own, num_steps=num_steps))


def decided(state) -> Any:
    return [tuple(event) for event in l2o.guard_events(state)]


@pytest.fixture(scope="module")
def alone():
    """The fallback's losses and parameters."""
    return bare(plain(RATE))[:2]


# The race. A tenth of 200 steps less 6 for the ways is 14: stages of 2, 4 and 8.


def test_one_that_stands_still_costs_its_first_leg_and_the_way_back(alone):
    """Of 7 steps where N is 600. From then on it is the fallback alone, bit for bit."""
    losses, path, state = train(plain(0.0), OWN, 600)
    assert decided(state) == [(15, "lost")]
    np.testing.assert_array_equal(losses[8:], alone[0][:-8])
    np.testing.assert_array_equal(path[8:], alone[1][:-8])
    assert state.mode == Mode.FALLBACK
    assert int(state.events.switches) == 1


def test_one_that_is_slower_costs_its_legs(alone):
    """14 steps and five ways; on the way the parameters are back where they were."""
    losses, path, state = train(plain(0.1))
    assert decided(state) == [(33, "lost")]
    np.testing.assert_allclose(path[33:], alone[1][14:-19], rtol=1e-4)
    np.testing.assert_allclose(path[6], bare(plain(0.1))[1][2], rtol=1e-5)
    assert losses[-1] < losses[33]


def test_one_that_is_better_is_kept_and_costs_what_is_said():
    """Its own course, less the 14 steps of the fallback and six ways."""
    losses, _, state = train(plain(0.18))
    assert decided(state) == [(33, "won")]
    np.testing.assert_allclose(losses[34:], bare(plain(0.18))[0][14:-20], rtol=1e-4)
    assert state.mode == Mode.LEARNED
    assert int(state.events.switches) == 0


def test_an_equal_one_is_kept():
    assert decided(train(plain(RATE))[2]) == [(33, "won")]


@pytest.mark.parametrize(("num_steps", "call"), [(200, 33), (540, 39), (560, 15)])
def test_few_losses_decide_nothing_before_the_end(num_steps, call):
    """Before 4 of them are in a half, which is so in legs of 7 steps."""
    assert decided(train(plain(0.0), OWN, num_steps)[2]) == [(call, "lost")]


def test_an_explosion_does_not_win():
    """Of squares that overflow in float32; every update of it is within proportion."""
    loss = lambda params: 1e-2 * jnp.sum(params**2) ** 4

    def jump(updates, state, params: Any = None, **extra_args) -> Any:
        del updates, extra_args
        return jnp.where(state % 2, 700.0, 900.0) - params, state + 1

    jumps = optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros((), jnp.int32), jump
    )
    tx = l2o.guard(jumps, descent(1e-3), num_steps=300)
    losses, path, state = jax.jit(lambda: steps_of(tx, steps=300, loss=loss))()
    assert np.max(losses) > 1e24
    assert [reason for _, reason in decided(state)] == ["lost"]
    assert np.isfinite(path).all()
    assert losses[-1] < losses[0]


def test_growth_is_not_taken_for_noise():
    """Of losses that grow 8 times a step the deviation is as large as the mean."""
    losses, _, state = jax.jit(
        lambda: steps_of(guarded(of_rates(plain(-0.18)), num_steps=600))
    )()
    assert decided(state) == [(15, "lost")]
    assert losses[6] / losses[5] > 6.5


def test_squares_of_huge_differences_are_finite():
    window = empty()
    for i in range(8):
        window = add(window, jnp.float32(1e38 if i % 2 else 1e30))
    assert all(np.isfinite(x) for x in level_of(window))
    assert above(level_of(window), Level(jnp.float32(1.0), jnp.float32(1.0)), 2.0)


@pytest.mark.parametrize("rate", [jnp.nan, 1e6])
def test_a_fallback_that_breaks_down_has_lost(rate):
    """At the first call of its leg."""
    losses, path, state = train(plain(0.18), plain(rate))
    assert decided(state)[0] == (3, "won")
    assert np.isfinite(path).all()
    assert losses[-1] < losses[3]


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize(
    "update", [0, 1, 3, 5, 10, 13], ids=lambda i: f"stage{(i > 1) + (i > 5)}-{i}"
)
def test_its_losses_are_not_the_winners(update, refused):
    """In whatever leg it breaks down: by an update, or by losses that are no numbers.

    It got far lower by then. What it saw would make a window, and that the best.
    """
    gradient = jnp.max(jnp.abs(CURVATURES * bare(plain(RATE))[1][update]))
    rate = jnp.nan if refused else 300.0 / gradient
    losses, _, state = race_of_two(plain(1e-3), plain(RATE).at[update].set(rate))
    call = update + (3, 9, 19)[(update > 1) + (update > 5)]
    won = call if refused else call + 2
    assert decided(state)[0] == (won, "won")
    assert float(state.best.mean) >= 0.999 * np.min(losses[won + 1 :])


@jax.jit
def race_of_two(rates, own):
    """Where a step of size 300 leads is no loss, though it is in proportion."""
    loss = lambda p: jnp.where(jnp.max(jnp.abs(p)) > 50, jnp.nan, bowl(p))
    return steps_of(guarded(of_rates(rates), own), loss=loss)


def test_the_length_may_be_unknown():
    """Legs of 8, 16 and 40 steps, whatever comes."""

    @jax.jit
    def run(rates):
        return steps_of(guarded(of_rates(rates), num_steps=None))[2]

    assert decided(run(plain(0.0))) == [(17, "lost")]
    assert decided(run(plain(RATE))) == [(133, "won")]


def test_weights_that_begin_at_zero_may_grow():
    """Of which the learned optimizer moves none: the fallback's are no explosion."""
    loss = lambda params: bowl(params - 1.0)
    _, path, state = jax.jit(
        lambda: steps_of(guarded(of_rates(plain(1e-9))), jnp.zeros(8), loss=loss)
    )()
    assert decided(state) == [(33, "lost")]
    np.testing.assert_allclose(path[-1][3:], 1.0, rtol=0.01)


# Between. After the race the learned optimizer's update t is made at call t + 20.


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_planted_nan_is_refused_where_it_is(bad):
    losses, path, state = train(faulty(after(60, bad)))
    assert decided(state) == [(33, "won"), (80, "refused")]
    assert np.isfinite(path).all()
    # Back to a window's end, and then downhill.
    assert losses[81] in losses[34:81]
    assert (np.diff(losses[81:]) < 0).all()


def test_an_update_out_of_proportion_is_refused():
    _, path, state = train(faulty(after(60, 1e9)))
    assert decided(state) == [(33, "won"), (80, "refused")]
    assert np.abs(path).max() <= 1.0


def test_a_rise_leads_back_to_the_best():
    """Within three windows of 8, though the variance rises with the loss."""
    losses, _, state = train(faulty(after(30, -0.5)))
    (_, won), (step, reason) = decided(state)
    assert (won, reason) == ("won", "rose")
    assert 50 < step <= 50 + 3 * 8
    assert losses[step] > losses[0]
    assert np.isclose(losses[34:51], losses[step + 1], rtol=1e-5).any()
    assert losses[-1] < losses[50]


def test_one_that_gets_stuck_is_taken_off():
    losses, _, state = train(faulty(after(60, 0.0)))
    (_, won), (step, reason) = decided(state)
    assert (won, reason) == ("won", "stalled")
    assert losses[step] == losses[80]
    assert losses[-1] < losses[step]


def test_where_the_fallback_only_spoils_it_returns_to_the_best():
    """Gradient descent of a rate that diverges, which won nothing before."""
    losses, _, state = train(faulty(after(60, 0.0)), plain(-0.018))
    assert [reason for _, reason in decided(state)] == ["won", "stalled", "returned"]
    assert decided(state)[-1][0] == STEPS - 1
    np.testing.assert_allclose(losses[-1], losses[81], rtol=1e-5)


def test_a_fallback_that_took_over_just_now_is_measured_by_what_there_is():
    """Less than a window before the end: it is kept where it has not spoiled it."""
    rates = faulty(after(177, jnp.nan))
    losses, _, state = train(rates)
    assert decided(state) == [(33, "won"), (197, "refused")]
    assert losses[-1] < losses[198]
    losses, _, state = train(faulty(after(190, jnp.nan)), plain(-10.0))
    assert decided(state) == [(4, "won"), (193, "refused"), (199, "returned")]
    np.testing.assert_allclose(losses[-1], losses[194], rtol=1e-5)


FAULTS = {
    "still": plain(0.0),
    "ascent": plain(-0.02),
    "unstable": plain(10.0),
    "slow": plain(1e-4),
    "nan": faulty(after(60, jnp.nan)),
    "stuck": faulty(after(30, 0.0)),
    "explodes": faulty(after(66, lambda since: -(1.5**since))),
    "ascends": faulty(after(60, -0.3)),
    "slows": faulty(after(60, 1e-3)),
    "fast": plain(0.18),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_ends_near_the_fallback_or_below_whatever_it_guards(alone, fault):
    """Within 5 % of what the fallback gains, here of exact losses."""
    losses, path, state = train(FAULTS[fault])
    assert np.isfinite(path).all()
    gain = alone[0][0] - alone[0][-1]
    assert losses[-1] - alone[0][-1] <= 0.05 * gain
    # What creeps has neither risen nor stalled.
    assert int(state.events.switches) == (fault not in ("fast", "slows"))


# What comes in


def feed(tx, state, grads, value) -> Any:
    return tx.update(grads, state, START, value=jnp.float32(value))


def test_one_bad_batch_is_skipped_and_leaves_no_trace():
    tx = guarded(optax.adam(0.1))
    grads = jax.grad(bowl)(START)
    state: Any = tx.init(START)
    for bad, value in ((grads.at[0].set(jnp.nan), 1.0), (grads, jnp.nan)):
        updates, skipped = feed(tx, state, bad, value)
        np.testing.assert_array_equal(updates, 0.0)
        jax.tree.map(
            np.testing.assert_array_equal,
            (skipped.learned, skipped.fallback),
            (state.learned, state.fallback),
        )
        assert int(skipped.events.skipped) == 1
        _, state = feed(tx, skipped, grads, 1.0)
        assert decided(state) == []
        state: Any = tx.init(START)


def test_two_bad_batches_are_the_optimizers_fault():
    tx = guarded(optax.adam(0.1))
    grads = jax.grad(bowl)(START)
    state: Any = tx.init(START)
    _, state = feed(tx, state, grads, 1.0)
    updates = None
    for _ in range(2):
        updates, state = tx.update(
            grads, state, START + 1.0, value=jnp.float32(jnp.inf)
        )
    assert decided(state) == [(2, "not_finite")]
    np.testing.assert_array_equal(updates, -jnp.ones(8))


def test_all_arguments_reach_both():
    tx = l2o.guard(l2o.adahessian(0.1), l2o.adahessian(0.2), num_steps=40)
    state, params = tx.init(START), START
    for _ in range(6):
        value, grads = jax.value_and_grad(bowl)(params)
        updates, state = tx.update(grads, state, params, value=value, obj_fn=bowl)
        params = optax.apply_updates(params, updates)
    assert bowl(params) < bowl(START)


@pytest.mark.parametrize("missing", ["params", "value"])
def test_what_it_lacks_is_named(missing):
    tx = l2o.guard(optax.sgd(0.1))
    given = {"params": START, "value": 1.0, missing: None}
    with pytest.raises(ValueError, match=f"guard needs {missing}.*got None") as error:
        tx.update(START, tx.init(START), **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cost", 0.0),
        ("cost", 0.6),
        ("confidence", 0.0),
        ("rise", -1.0),
        ("remembered", 0),
        ("num_steps", 0),
        ("num_steps", 10.5),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        l2o.guard(optax.sgd(0.1), **{field: value})


# The state


def test_it_keeps_one_float_a_parameter_beside_the_states():
    """And 50 numbers, but for the last decisions."""
    params = {"w": jnp.ones((100, 100)), "b": jnp.ones(100)}
    tx, own = optax.adam(0.1), optax.sgd(0.1, momentum=0.9)
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    state = jax.eval_shape(l2o.guard(tx, own, remembered=8).init, params)
    parts = [jax.eval_shape(one.init, params) for one in (tx, own)]
    beside = count(state) - count(parts) - count(params)
    assert beside <= 50 + 2 * 8


def decaying(rate: Any = 0.0) -> Any:
    """Two rates: one that is given, or injected, and one of a schedule inside."""
    return optax.chain(
        optax.sgd(rate), optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, STEPS))
    )


LINE = optax.linear_schedule(0.1, 0.0, STEPS)


@pytest.mark.parametrize(
    ("own", "power"),
    [
        (optax.sgd(LINE), 1),
        (optax.adam(LINE), None),
        (optax.inject_hyperparams(optax.sgd)(LINE), 1),
        (optax.inject_hyperparams(decaying)(0.1), 1),
        (optax.inject_hyperparams(decaying)(LINE), 2),
        (optax.chain(optax.clip(1e9), optax.inject_hyperparams(optax.sgd)(LINE)), 1),
    ],
    ids=["schedule", "adam", "injected", "inside", "both", "chain"],
)
def test_schedules_end_with_the_training(own, power):
    """Of a fallback that takes over, with what it has counted so far or afresh.

    Seen from the steps: the rate at call t is `LINE(t)`.
    """

    @jax.jit
    def run(rates):
        return steps_of(l2o.guard(of_rates(rates), own, num_steps=STEPS))

    for rates in (plain(0.0), faulty(after(60, jnp.nan))):
        _, path, state = run(rates)
        (step, reason), *_ = decided(state)[-1:]
        assert reason in ("lost", "refused")
        if power is None:
            assert np.abs(path[-1] - path[-2]).max() < 0.1 * 2 / STEPS
            continue
        for t in (step + 1, 150, STEPS - 1):
            used = (path[t] - path[t + 1]) / (CURVATURES * path[t])
            wanted = 0.1 * (1 - t / STEPS) ** power
            # The flattest directions, for of the others nothing is left.
            np.testing.assert_allclose(used[:3], wanted, rtol=0.05, atol=1e-5)


def test_guards_are_found_in_wrappers_and_only_there():
    tx = optax.chain(optax.clip(1.0), l2o.guard(optax.sgd(0.1)))
    assert l2o.guard_events(tx.init(START)) == ()
    with pytest.raises(ValueError, match="must hold one guard, got 0"):
        l2o.guard_events(optax.sgd(0.1).init(START))


def test_the_last_decisions_are_remembered():
    tx = guarded(of_rates(faulty(after(60, jnp.nan))), remembered=1)
    state = jax.jit(functools.partial(steps_of, tx))()[2]
    assert decided(state) == [(80, "refused")]
    assert int(guard_summary(state).made) == 2


# In company


def test_same_bits_and_one_program_for_all_lengths():
    rates, own = faulty(after(60, -0.3)), plain(RATE)
    first = train(rates, own, jnp.int32(STEPS))
    with assert_no_recompile():
        again = train(rates, own, jnp.int32(STEPS))
        other = train(rates, own, jnp.int32(150))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert decided(other[2]) != decided(first[2])


def test_many_at_once_are_each_alone():
    tx = guarded(of_rates(faulty(after(60, -0.3))))
    starts = jnp.stack([START, 2 * START, -START])
    together = jax.jit(jax.vmap(functools.partial(steps_of, tx)))(starts)
    one = jax.jit(functools.partial(steps_of, tx))
    for i, start in enumerate(starts):
        losses, _, state = one(start)
        np.testing.assert_allclose(together[0][i], losses, rtol=1e-4)
        kept = jax.tree.map(lambda x, i=i: x[i], together[2])
        assert decided(kept) == decided(state)


def assert_types_are_kept(dtype):
    params = {"w": jnp.ones((4, 2), dtype), "b": jnp.zeros(2, dtype)}
    tx = l2o.guard(optax.adam(0.1), optax.adam(0.1), num_steps=100)
    state: Any = tx.init(params)
    updates, moved = jax.eval_shape(
        lambda s: tx.update(params, s, params, value=jnp.ones((), dtype)), state
    )
    types = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
    assert types(updates) == types(params)
    assert types(moved) == types(state)
    assert not any(x.weak_type for x in jax.tree.leaves(moved))
    own = state._replace(learned=(), fallback=(), point=())
    assert {x.dtype for x in jax.tree.leaves(own)} == {np.dtype("i4"), np.dtype("f4")}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_types_are_kept(dtype):
    assert_types_are_kept(dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_types_are_kept_in_double_precision(x64, dtype):
    del x64
    assert_types_are_kept(dtype)


def test_states_keep_their_type_where_gradients_are_wider():
    params = {"w": jnp.ones((4, 2), jnp.bfloat16)}
    tx = l2o.guard(optax.adam(0.1), optax.adam(0.1), num_steps=100)
    grads = {"w": jnp.ones((4, 2))}
    state: Any = tx.init(params)
    updates: Any
    updates, moved = tx.update(grads, state, params, value=1.0)
    types = lambda tree: [x.dtype for x in jax.tree.leaves(tree)]
    assert types(moved) == types(state)
    assert updates["w"].dtype == jnp.bfloat16


def test_a_state_may_have_been_on_a_disk():
    tx = l2o.guard(l2o.optimizer("digits-mlp", num_steps=100), num_steps=100)
    state = jax.device_get(tx.init(PARAMS))
    updates, _ = tx.update(PARAMS, state, PARAMS, value=1.0)
    wanted, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=1.0)
    jax.tree.map(np.testing.assert_array_equal, updates, wanted)


def test_nothing_in_a_state_is_nan():
    """Or `jax_debug_nans`, with which others look for theirs, stops at it."""
    tx = l2o.guard(optax.adam(0.1), optax.adam(0.1), num_steps=100)
    with jax.debug_nans(True):
        state = tx.init(PARAMS)
        step = jax.jit(lambda state: tx.update(PARAMS, state, PARAMS, value=1.0)[1])
        for _ in range(3):
            state = step(state)
    assert not any(np.isnan(x).any() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("num_steps", [None, 100, jnp.int32(100)], ids=str)
def test_initial_state_may_be_donated(num_steps):
    """Twice the same buffer in it, or the parameters' own, would fail."""
    tx = l2o.guard(optax.adam(0.1), optax.sgd(0.1, momentum=0.9), num_steps=num_steps)

    def step(params, state) -> Any:
        updates, state = tx.update(params, state, params, value=tree_bowl(params))
        return optax.apply_updates(params, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    copies = lambda: jax.tree.map(lambda p: jnp.array(p, copy=True), PARAMS)
    wanted = jax.jit(step)(PARAMS, tx.init(PARAMS))
    # Again, for the first call must not have destroyed what later ones begin with.
    for _ in range(2):
        params = copies()
        moved = donating(params, tx.init(params))
        jax.tree.map(np.testing.assert_array_equal, moved, wanted)


def test_in_bfloat16_it_comes_back_to_rounding():
    start = START.astype(jnp.bfloat16)
    loss = lambda p: bowl(p.astype(jnp.float32))
    tx = guarded(optax.set_to_zero())
    climbing = guarded(descent(-0.02))
    for one in (tx, climbing):
        losses, path, _ = steps_of(one, start, loss=loss)
        np.testing.assert_allclose(
            path[3].astype(np.float32), start.astype(np.float32), rtol=2**-7
        )
        assert losses[-1] < losses[0]


def updated(tx, params, steps=16) -> Any:
    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(tree_bowl)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def tree_bowl(params):
    return 0.5 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))


PARAMS = {"a": jnp.ones(3), "b": jnp.full((2,), 2.0)}


@pytest.mark.slow
def test_it_works_in_optax_wrappers():
    small = l2o.guard(optax.set_to_zero(), descent(0.1), num_steps=100)
    bare, state = updated(small, PARAMS)
    assert decided(state) == [(13, "lost")]
    for wrapped in (
        optax.chain(optax.clip_by_global_norm(1e3), small),
        optax.masked(small, {"a": True, "b": True}),
        optax.partition({"own": small}, {"a": "own", "b": "own"}),
    ):
        params, state = updated(wrapped, PARAMS)
        jax.tree.map(np.testing.assert_array_equal, params, bare)
        assert decided(state) == [(13, "lost")]
    part: Any = optax.masked(small, {"a": True, "b": False})
    params, _ = updated(part, PARAMS, steps=2)
    assert (params["a"] == PARAMS["a"]).all()
    several = optax.MultiSteps(small, 2)
    params, state = updated(several, PARAMS, steps=32)
    assert decided(state) == [(13, "lost")]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), params, bare)


def test_flax_train_state():
    tx = l2o.guard(optax.set_to_zero(), descent(0.1), num_steps=100)
    given = optax.GradientTransformationExtraArgs(
        tx.init, functools.partial(tx.update, value=1.0)
    )
    state: Any = train_state.TrainState.create(apply_fn=None, params=PARAMS, tx=given)
    state = state.apply_gradients(grads=PARAMS)
    assert isinstance(state.opt_state, GuardState)
    assert int(state.opt_state.step) == 1


def test_a_released_optimizer_without_a_fallback():
    """Which is then AdamW."""
    tx = l2o.guard(l2o.optimizer("digits-mlp", num_steps=60), num_steps=60)
    params, state = updated(tx, PARAMS, steps=3)
    assert tree_bowl(params) < tree_bowl(PARAMS)
    assert int(state.step) == 3
