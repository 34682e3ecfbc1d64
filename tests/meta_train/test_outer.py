"""One outer step, by hand, and its bits."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from meta_train.build import build_outer_optimizer
from meta_train.config import OuterConfig
from meta_train.estimators.base import GradientEstimator, MetaGradient
from meta_train.estimators.credit import Persistent
from meta_train.outer import FamilyMix, Given
from tests.helpers import run_python
from tests.meta_train.problems import (
    Follow,
    Influence,
    Jump,
    bits,
    make_estimator,
    make_trainer,
    mesh,
    strategies,
)


pytestmark = pytest.mark.usefixtures("quick_compilation")
NAN = float("nan")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Told(GradientEstimator):
    """Gives the meta-gradients that it is told; its state counts how often.

    Attributes:
        gradients: `[outer steps, 2]`.
        valid: `[outer steps]`, contributions that counted.
    """

    gradients: jax.Array
    valid: jax.Array
    lopt: Jump = dataclasses.field(metadata={"static": True})
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    def init(self, theta: jax.Array, key: jax.Array) -> Any:
        del theta, key
        return jnp.zeros((), jnp.int32)

    def estimate(
        self, theta: jax.Array, state: Any, key: jax.Array, outer_step: jax.Array
    ) -> tuple[MetaGradient, Any]:
        del theta, key
        gradient, valid = self.gradients[outer_step], self.valid[outer_step]
        one = jnp.ones((), jnp.int32)
        return MetaGradient(
            gradient, jnp.sum(gradient), valid, one, one, one
        ), state + 1


def told(*gradients, valid=None):
    gradients = jnp.array(gradients, jnp.float32)
    valid = jnp.array([3] * len(gradients) if valid is None else valid, jnp.int32)
    return Told(gradients, valid, Jump(), mesh())


@jax.jit
def run(trainer, state):
    """All outer steps that there are: thetas, averages and what is reported."""

    def body(state, _):
        state, metrics = trainer.step(state)
        return state, (state, metrics)

    count = trainer.estimators[0].gradients.shape[0]
    return jax.lax.scan(body, state, None, length=count)[1]


START = np.array([1.0, -2.0], np.float32)


def trained(*estimators, **fields):
    settings: dict[str, Any] = {"tx": optax.sgd(0.5), **fields}
    trainer = make_trainer(*estimators, **settings)
    first, second = jnp.split(jnp.array(START), 2)
    start = trainer.init(
        jax.random.key(0), {"first": Given(first), "second": Given(second)}
    )
    return run(trainer, start)


# Families


def test_families_that_all_take_part_are_averaged_by_weight():
    states, metrics = trained(
        told([1.0, 0.0], [2.0, 2.0]),
        told([0.0, 4.0], [6.0, -2.0]),
        weights=(3.0, 1.0),
    )
    gradients = np.array([[0.75, 1.0], [3.0, 1.0]])
    np.testing.assert_allclose(states.theta, START - 0.5 * gradients.cumsum(axis=0))
    np.testing.assert_allclose(metrics.meta_loss, gradients.sum(axis=1))
    np.testing.assert_allclose(
        metrics.gradient_norm, np.linalg.norm(gradients, axis=1), rtol=1e-6
    )
    np.testing.assert_allclose(
        metrics.families.gradient_norm, [[1.0, 4.0], [8**0.5, 40**0.5]], rtol=1e-6
    )
    np.testing.assert_array_equal(metrics.families.used, 1)
    np.testing.assert_array_equal(metrics.inner_steps, 2)


MIX = FamilyMix(names=("a", "b", "c"), weights=(1.0, 2.0, 5.0), per_step=1)
DRAWS = 4000


@jax.jit
def drawn(keys):
    return [
        jax.vmap(dataclasses.replace(MIX, per_step=n).draw)(keys) for n in (1, 2, 3)
    ]


def chi_square(counts, shares):
    expected = DRAWS * np.asarray(shares)
    return ((np.asarray(counts) - expected) ** 2 / expected).sum()


@pytest.mark.statistical
def test_families_are_drawn_as_often_as_their_weights_say():
    """False alarms: 2e-5; the chi-square of two degrees of freedom, twice above 23.

    Of two a step the one that is left out: the others were drawn in either order, with
    weights that add up to 8.
    """
    one, two, three = map(np.asarray, drawn(jax.random.split(jax.random.key(0), DRAWS)))
    assert (one.sum(axis=1) == 1).all()
    assert (two.sum(axis=1) == 2).all()
    assert three.all()
    assert chi_square(one.sum(axis=0), [1 / 8, 2 / 8, 5 / 8]) < 23
    pair = lambda v, w: v / 8 * w / (8 - v) + w / 8 * v / (8 - w)
    left_out = [pair(2, 5), pair(1, 5), pair(1, 2)]
    assert sum(left_out) == pytest.approx(1.0)
    assert chi_square((~two).sum(axis=0), left_out) < 23


def test_families_that_are_not_drawn_are_left_as_they_are():
    """Two of three in a step, which then count alike: their weights are in the draw."""
    values = np.array([1.0, 2.0, 4.0])
    states, metrics = trained(
        *(told(*np.full((40, 2), value)) for value in values),
        per_step=2,
        weights=(1.0, 3.0, 2.0),
    )
    used = np.asarray(metrics.families.used, bool)
    assert (used.sum(axis=1) == 2).all()
    assert not used.all(axis=0).any()
    # The third is not called, and says nothing.
    for i in range(3):
        np.testing.assert_array_equal(states.particles[i], used[:, i].cumsum())
    families = metrics.families
    for field in (families.meta_loss, families.gradient_norm):
        np.testing.assert_array_equal(np.isnan(field), ~used)
    for field in (families.valid, families.non_finite, families.restarts):
        np.testing.assert_array_equal(np.asarray(field) > 0, used)
    np.testing.assert_array_equal(metrics.inner_steps, 2)
    moves = np.broadcast_to((used @ values / 2)[:, None], (40, 2))
    thetas = START - 0.5 * moves.cumsum(axis=0)
    np.testing.assert_allclose(states.theta, thetas, rtol=1e-6)
    np.testing.assert_allclose(metrics.meta_loss, 2 * moves[:, 0], rtol=1e-6)


def test_balance_divides_by_the_running_root_mean_square_of_entries():
    """Decay 0.5: squares of norms 2, then 50 and 0 (a step without it), then 8.

    The first is divided by its own root, whatever its scale; the means are corrected
    for having begun at zero, by as many steps as the family took part in.
    """
    states, metrics = trained(
        told([1.0, 1.0], [7.0, 1.0], [9.0, 9.0], [2.0, 2.0], valid=[1, 1, 0, 1]),
        balance=0.5,
    )
    squares = [1.0, 25.5, 25.5, 16.75]
    np.testing.assert_allclose(states.square[:, 0], squares, rtol=1e-6)
    assert states.uses[:, 0].tolist() == [1, 2, 2, 3]
    scales = np.sqrt([1.0 / 0.5 / 2, 25.5 / 0.75 / 2, 1.0, 16.75 / 0.875 / 2])
    moves = np.array([[1.0, 1.0], [7.0, 1.0], [0.0, 0.0], [2.0, 2.0]]) / scales[:, None]
    np.testing.assert_allclose(
        states.theta, START - 0.5 * moves.cumsum(axis=0), rtol=1e-5
    )
    # What is reported of a family is as it was.
    norms = [2**0.5, 50**0.5, 162**0.5, 8**0.5]
    np.testing.assert_allclose(metrics.families.gradient_norm[:, 0], norms, rtol=1e-6)


def test_balanced_families_count_alike_whatever_their_scale():
    rows = [[3.0, -1.0], [1.0, 2.0]]
    one, two = (
        trained(
            told(*rows),
            told(*(scale * np.array(rows)[:, ::-1])),
            balance=0.9,
        )[0].theta
        for scale in (1.0, 1000.0)
    )
    np.testing.assert_allclose(one, two, rtol=1e-5)


# What theta is made of


def test_average_is_the_plain_mean_until_it_is_long_enough():
    """With a decay of 0.75: of four steps, and from then on exponential."""
    rows = np.array([[1.0, 2.0], [-3.0, 1.0], [0.5, 0.5], [2.0, -8.0], [4.0, 1.0]])
    states, _ = trained(told(*rows), average=0.75)
    thetas = START - 0.5 * rows.cumsum(axis=0)
    np.testing.assert_allclose(states.theta, thetas, rtol=1e-6)
    want = [thetas[: n + 1].mean(axis=0) for n in range(4)]
    want.append(0.75 * want[-1] + 0.25 * thetas[4])
    np.testing.assert_allclose(states.average, want, rtol=1e-6)


def test_result_is_the_average_if_there_is_one():
    for decay in (0.0, 0.5):
        trainer = make_trainer(told([0.0, 0.0]), average=decay)
        state = trainer.init(jax.random.key(0))
        other = state._replace(average=state.theta + 1.0) if decay else state
        want = state.theta + (1.0 if decay else 0.0)
        got = trainer.result(other)
        np.testing.assert_array_equal([got["first"][0], got["second"][0]], want)


def test_frozen_tensors_stay_bitwise_under_weight_decay():
    states, _ = trained(
        told([1.0, 1.0], [1.0, 1.0], [-1.0, 1.0]),
        tx=optax.adamw(0.1, weight_decay=0.5),
        freeze=("first",),
    )
    np.testing.assert_array_equal(states.theta[:, 0], START[0])
    assert (np.diff(states.theta[:, 1], prepend=START[1]) != 0).all()
    # And add nothing to the statistics of the optimizer.
    (adam, *_) = states.opt_state
    np.testing.assert_array_equal(adam.mu[:, 0], 0.0)
    assert (adam.mu[:, 1] != 0).all()


@pytest.mark.parametrize(
    ("clip", "clip_norm", "want"),
    [
        (0.0, 0.0, [3.0, -4.0]),
        (3.5, 0.0, [3.0, -3.5]),
        (0.0, 2.5, [1.5, -2.0]),
        # Entries first.
        (3.0, 2.5, [2.5 / 2**0.5, -2.5 / 2**0.5]),
    ],
)
def test_the_meta_gradient_is_clipped_by_entry_then_by_norm(clip, clip_norm, want):
    config = OuterConfig(clip=clip, clip_norm=clip_norm, learning_rate=0.5)
    tx = build_outer_optimizer(config, {"name": "sgd"})
    gradient = jnp.array([3.0, -4.0])
    updates: Any = tx.update(gradient, tx.init(gradient), gradient)[0]
    np.testing.assert_allclose(updates, -0.5 * np.array(want), rtol=1e-6)


# Values that are not finite


def test_a_step_without_anything_finite_changes_nothing_but_the_count():
    """No contribution that counted, or a meta-gradient that overflowed after all."""
    states, metrics = trained(
        told([1.0, 1.0], [0.0, 0.0], [np.inf, 1.0], [1.0, 1.0], valid=[3, 0, 3, 3]),
        tx=optax.adam(0.1),
        average=0.9,
        balance=0.9,
    )
    assert metrics.skipped.tolist() == states.skipped.tolist() == [0, 1, 2, 0]
    assert states.step.tolist() == [1, 2, 3, 4]
    assert np.isnan(metrics.meta_loss).tolist() == [False, True, True, False]
    kept = (states.theta, states.average, states.opt_state, states.square, states.uses)
    at = lambda i: bits(jax.tree.map(lambda x: x[i], kept))
    assert at(0) == at(1) == at(2)
    assert all(a != b for a, b in zip(at(0)[:2], at(3)[:2], strict=True))


def test_a_family_without_anything_finite_leaves_theta_to_the_others():
    states, metrics = trained(
        told([np.nan, np.nan], [2.0, 2.0], valid=[0, 3]),
        told([1.0, -1.0], [1.0, -1.0]),
        weights=(3.0, 1.0),
    )
    # Its weight is not missing either.
    moves = np.array([[1.0, -1.0], [1.75, 1.25]])
    np.testing.assert_allclose(states.theta, START - 0.5 * moves.cumsum(axis=0))
    np.testing.assert_array_equal(metrics.skipped, 0)
    np.testing.assert_allclose(metrics.meta_loss, moves.sum(axis=1))


BEGIN = jax.jit(lambda trainer, key: trainer.init(key))
STEP = jax.jit(lambda trainer, state: trainer.step(state))


@pytest.fixture(scope="module")
def trainer():
    """One for all, and one program: transformations are no values."""
    estimator = make_estimator(Influence(), Follow(), strategies(Persistent()))
    return make_trainer(estimator, estimator)


def test_units_that_break_down_are_counted_and_healed_in_the_next_step(trainer):
    """Two families of real estimators, of which one or both have nothing finite."""
    state, _ = STEP(trainer, BEGIN(trainer, jax.random.key(0)))

    def broken(particles):
        late = jnp.full_like(particles.unrolls.params["late"], jnp.nan)
        params = particles.unrolls.params | {"late": late}
        return particles._replace(unrolls=particles.unrolls._replace(params=params))

    one, two = state.particles
    half, metrics = STEP(trainer, state._replace(particles=(broken(one), two)))
    assert metrics.families.valid.tolist() == [0, 6]
    assert metrics.families.non_finite.tolist() == [6, 0]
    assert int(metrics.skipped) == 0
    assert half.theta != state.theta
    bad = state._replace(particles=(broken(one), broken(two)))
    after, metrics = STEP(trainer, bad)
    assert bits((after.theta, after.opt_state)) == bits((bad.theta, bad.opt_state))
    assert metrics.families.valid.tolist() == [0, 0]
    assert int(metrics.skipped) == int(after.skipped) == 1
    healed, metrics = STEP(trainer, after)
    assert int(metrics.skipped) == int(healed.skipped) == 0
    assert metrics.families.restarts.tolist() == [6, 6]
    assert metrics.families.valid.tolist() == [6, 6]
    assert healed.theta != bad.theta


# Bits


def test_same_seed_same_bits_and_families_with_keys_of_their_own(trainer):
    one, same, other = (
        STEP(trainer, BEGIN(trainer, jax.random.key(i))) for i in (0, 0, 1)
    )
    assert bits(one) == bits(same)
    assert one[0].theta != other[0].theta
    next_step = STEP(trainer, one[0])
    losses = [
        np.asarray(step[1].families.meta_loss) for step in (one, other, next_step)
    ]
    assert len(np.unique(losses)) == 6


TRAINING = """
import concurrent.futures, hashlib, json
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from l2o.learned import LearnableAdam, LearnableSGD, SmallFC
from meta_train.build import state_sharding
from meta_train.estimators.credit import Persistent
from meta_train.estimators.mixture import Mixture
from meta_train.perturb import Gaussian
from tasks import ImageMLP, load
from tests.meta_train.problems import (
    Polynomial, make_estimator, make_trainer, strategies
)

DIGITS = ImageMLP(load("digits"), hidden=(), batch_size=8)
PES = strategies(Persistent(), sigma=0.01)
RUNS = {
    "sampled": (SmallFC(hidden_size=1, hidden_layers=1), PES, (DIGITS, Polynomial())),
    # Divisions by a scalar, if there were any, would be products on one device alone.
    "adam": (LearnableAdam(), PES, (DIGITS,)),
    "mixture": (LearnableSGD(), Mixture(Gaussian(0.1)), (DIGITS,)),
}

def trainer_on(name, devices):
    lopt, method, families = RUNS[name]
    return make_trainer(
        *(
            make_estimator(
                family, lopt, method, horizon=4, pairs=8, block=1, devices=devices
            )
            for family in families
        ),
        per_step=1,
    )

begin = jax.jit(lambda trainer: trainer.init(jax.random.key(1)))
STARTS = {name: begin(trainer_on(name, 1)) for name in RUNS}

def train(case):
    name, devices = case
    trainer = trainer_on(name, devices)
    mesh = trainer.estimators[0].mesh
    trainer = jax.device_put(trainer, NamedSharding(mesh, P()))
    state = jax.device_put(STARTS[name], state_sharding(mesh, STARTS[name]))
    step = jax.jit(lambda trainer, state: trainer.step(state))
    step = step.lower(trainer, state).compile()
    used = []
    for _ in range(4):
        state, metrics = step(trainer, state)
        used.append(metrics.families.used.tolist())
    hashes = {"used": used}
    for path, x in jax.tree.leaves_with_path(state):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        name = jax.tree_util.keystr(path)
        hashes[name] = hashlib.sha256(np.asarray(x).tobytes()).hexdigest()
    return hashes

# Compiling is what takes the time, and two threads can.
cases = [(name, devices) for name in RUNS for devices in COUNTS[name]]
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    print(json.dumps(dict(zip(map(str, cases), pool.map(train, cases)))))
"""
COUNTS = {"sampled": (1, 2, 4, 8), "adam": (1, 2), "mixture": (1, 2, 4, 8)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_devices_do_not_matter_to_a_single_bit():
    """Theta, the outer optimizer and every particle after four outer steps.

    Of Adam, whose averages are corrected by scalars; of two families, one of which is
    drawn for each step; and of a mixture, which is backpropagated. With blocks of one
    pair and a matrix whose gradient is a transposed product, the compiler once summed
    its square in another order on one device than on several.
    """
    code = f"COUNTS = {COUNTS}\n{TRAINING}"
    found = json.loads(run_python(code, devices=8, timeout=280.0))
    for name, (one, *several) in COUNTS.items():
        want = found[str((name, one))]
        assert ".theta" in want
        assert len(set(map(str, want["used"]))) == (2 if name == "sampled" else 1)
        for devices in several:
            got = found[str((name, devices))]
            differ = [part for part in want if got[part] != want[part]]
            assert not differ, f"{name} on {devices} devices: {differ}"
