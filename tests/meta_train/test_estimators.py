"""The theorems of evolution strategies, on problems with known meta-gradients."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.config import OuterConfig
from meta_train.estimators.base import fixed_order_sum
from meta_train.estimators.credit import Credit, Credited, Fresh, Persistent
from meta_train.outer import OuterTrainer
from tests.helpers import run_python
from tests.meta_train.problems import (
    FULL_GRADIENT,
    HESSIAN,
    HORIZON,
    TRUNCATED_GRADIENT,
    WINDOW,
    Follow,
    Influence,
    Jump,
    Polynomial,
    init,
    strategies,
    window,
)


THETA = jnp.array([0.7])
POINT = jnp.array([0.4, -0.3])


@functools.partial(jax.jit, static_argnums=3)
def windows(estimator, theta, key, count):
    """The estimates of that many windows in a row."""

    def body(state, i):
        estimate, state = estimator.estimate(
            theta, state, jax.random.fold_in(key, i), i
        )
        return state, estimate

    state = estimator.init(theta, key)
    return jax.lax.scan(body, state, jnp.arange(count))[1]


def assert_within(samples, mean, errors):
    """The mean of independent samples is within so many standard errors."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    # So precise that another method's answer would be seen.
    assert (error < 0.05).all()
    assert (np.abs(samples.mean(axis=0) - mean) < errors * error).all()


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


# Bias and variance


@pytest.mark.statistical
@pytest.mark.parametrize("quartic", [0.0, 0.5])
def test_mean_is_the_gradient_of_the_smoothed_loss(quartic):
    """False alarms: below 1e-4; 4.5 standard errors in two coordinates.

    Of the two losses of a problem the second is `1/2 x' H x + q sum(x^4)` at theta, of
    which Gaussian smoothing has the gradient `H x + 4 q x^3 + 12 q sigma^2 x`.
    """
    sigma = 0.5
    estimator = strategies(
        Polynomial(jnp.float32(quartic)),
        Jump(),
        horizon=2,
        sigma=sigma,
        pairs=256,
        block=256,
    )
    got = windows(estimator, POINT, jax.random.key(0), 64).gradient
    x = np.asarray(POINT, np.float64)
    want = HESSIAN @ x + quartic * (4 * x**3 + 12 * sigma**2 * x)
    assert_within(got, want / 2, 4.5)


CYCLES = 64


def gradients(credit=None, *, window=HORIZON, pairs=512):
    """One estimate per problem that every pair has gone through: `[CYCLES]`.

    A cycle is the windows of one problem; its mean estimates the gradient of the mean
    loss over the problem. Cycles share nothing, so that they are independent.
    """
    estimator = strategies(
        Influence(), Follow(), credit=credit, window=window, pairs=pairs, block=pairs
    )
    count = CYCLES * (HORIZON // window)
    got = windows(estimator, THETA, jax.random.key(0), count).gradient
    return np.asarray(got).reshape(CYCLES, -1).mean(axis=1)


@pytest.mark.statistical
def test_persistent_is_unbiased_where_truncated_has_the_wrong_sign():
    """False alarms: below 3e-5; three means, each within 4.5 standard errors."""
    assert FULL_GRADIENT > 0 > TRUNCATED_GRADIENT
    assert_within(gradients(Persistent(), window=WINDOW), FULL_GRADIENT, 4.5)
    assert_within(gradients(Fresh(), window=WINDOW), TRUNCATED_GRADIENT, 4.5)
    # And a window as long as the problem is the reference that is estimated.
    assert_within(gradients(Fresh()), FULL_GRADIENT, 4.5)


def test_persistent_with_one_window_a_problem_is_full_evolution_strategies():
    """Bit for bit: every window begins a problem, and nothing is carried over."""
    full, persistent = gradients(Fresh()), gradients(Persistent())
    assert len(np.unique(full)) == CYCLES
    np.testing.assert_array_equal(persistent, full)


@pytest.mark.statistical
def test_variance_falls_as_one_over_the_number_of_pairs():
    """False alarms: below 1e-4; the slope's standard error is about 0.07.

    The relative standard error of a variance over 64 windows is 0.23 with 8 pairs (the
    excess kurtosis of one contribution is 12) and 0.18 with 512.
    """
    few, many = (float(np.var(gradients(pairs=n), ddof=1)) for n in (8, 512))
    slope = math.log(many / few) / math.log(512 / 8)
    assert slope == pytest.approx(-1.0, abs=0.28)
    # One contribution is g e^2 / sigma^2, whose variance is 2 g^2.
    assert few == pytest.approx(2 * FULL_GRADIENT**2 / 8, rel=0.9)


# Credit


@dataclasses.dataclass(frozen=True)
class Swapped(Credit):
    """`Fresh` with the two of every pair exchanged."""

    def assign(self, memory, fresh, restarted):
        del restarted
        return Credited(noise=-fresh, credit=-fresh, memory=memory)


def test_antithetic_swap_leaves_the_estimate_unchanged():
    state = init(strategies(Influence(), Follow()), THETA, jax.random.key(0))
    one, two = (
        window(
            strategies(Influence(), Follow(), credit=credit),
            THETA,
            state,
            jax.random.key(1),
        )
        for credit in (Fresh(), Swapped())
    )
    np.testing.assert_array_equal(one[0].gradient, two[0].gradient)
    assert (one[0].gradient != 0).all()
    # The two of every pair have changed places.
    now = [np.asarray(s.unrolls.params["now"]) for _, s in (one, two)]
    np.testing.assert_array_equal(now[0], now[1][:, :, ::-1])
    assert (now[0] != now[1]).all()


def test_credit_after_a_reset_is_the_fresh_noise():
    memory, fresh = jnp.array([3.0, jnp.nan]), jnp.array([0.5, -0.25])
    reset = Persistent().assign(memory, fresh, jnp.bool_(True))
    np.testing.assert_array_equal(reset.credit, fresh)
    np.testing.assert_array_equal(reset.memory, fresh)
    carried = Persistent().assign(jnp.array([3.0, 1.0]), fresh, jnp.bool_(False))
    np.testing.assert_array_equal(carried.credit, [3.5, 0.75])
    np.testing.assert_array_equal(carried.memory, carried.credit)
    np.testing.assert_array_equal(carried.noise, fresh)


def test_accumulator_is_zero_after_a_reset():
    """Under one key, the memory is the sum with the old one, or the noise alone."""
    estimator = strategies(Influence(), Follow(), credit=Persistent())
    state = init(estimator, THETA, jax.random.key(0))
    memories, restarts = [], []
    for i in range(2 * HORIZON // WINDOW):
        before = state
        estimate, state = window(estimator, THETA, before, jax.random.key(i))
        ended = before._replace(broken=jnp.ones_like(before.broken))
        _, reset = window(estimator, THETA, ended, jax.random.key(i))
        restarts.append(int(estimate.restarts))
        if restarts[-1]:
            np.testing.assert_array_equal(state.memory, reset.memory)
        else:
            total = before.memory + reset.memory
            np.testing.assert_allclose(state.memory, total, rtol=1e-6)
        memories.append(np.asarray(state.memory))
    # Both problems of every pair began together, after four windows.
    assert restarts == [estimator.pairs, 0, 0, 0] * 2
    assert (memories[3] != memories[4]).all()


# Values that are not finite


def broken_state(estimator, theta, pairs):
    """After one window, with the parameters of these pairs made infinite."""
    state = init(estimator, theta, jax.random.key(0))
    _, state = window(estimator, theta, state, jax.random.key(1))
    hit = np.zeros(estimator.pairs, bool)
    hit[list(pairs)] = True
    hit = hit.reshape(estimator.num_blocks, estimator.block)
    # The minus side alone: a difference of infinities is not the only sign.
    late = np.array(state.unrolls.params["late"])
    late[hit, 1] = np.inf
    params = state.unrolls.params | {"late": jnp.array(late)}
    return state._replace(unrolls=state.unrolls._replace(params=params))


def test_a_pair_that_is_not_finite_changes_its_own_contribution_alone():
    estimator = strategies(Influence(), Follow(), credit=Persistent())
    key, victim = jax.random.key(2), 3
    others = [i for i in range(6) if i != victim]
    whole, after = window(estimator, THETA, broken_state(estimator, THETA, ()), key)
    without, damaged = window(
        estimator, THETA, broken_state(estimator, THETA, [victim]), key
    )
    alone, _ = window(estimator, THETA, broken_state(estimator, THETA, others), key)
    assert [int(e.valid) for e in (whole, without, alone)] == [6, 5, 1]
    assert [int(e.non_finite) for e in (whole, without, alone)] == [0, 1, 5]
    # Sums over pairs: the victim's share, which it has alone, is what is missing.
    np.testing.assert_allclose(
        6 * whole.gradient, 5 * without.gradient + alone.gradient, rtol=1e-5
    )
    assert np.isfinite(without.meta_loss)
    # The other pairs' problems did not notice.
    flat = [
        jax.tree.map(
            lambda x: np.asarray(x).reshape(6, *x.shape[2:])[others], s.unrolls.params
        )
        for s in (after, damaged)
    ]
    assert bits(flat[0]) == bits(flat[1])
    # The victim begins another problem with the next window, and that counts again.
    again, healed = window(estimator, THETA, damaged, jax.random.key(3))
    assert [int(x) for x in (again.restarts, again.valid)] == [1, 6]
    steps = np.asarray(healed.unrolls.step)[:, :, 0].ravel()
    assert steps.tolist() == [3 * WINDOW if i != victim else WINDOW for i in range(6)]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(healed.unrolls.params))


def test_an_outer_step_without_a_finite_loss_changes_nothing_but_the_count():
    estimator = strategies(Influence(), Follow(), credit=Persistent())
    trainer = OuterTrainer(
        estimator=estimator, lopt=estimator.lopt, config=OuterConfig(steps=10)
    )
    step = jax.jit(lambda trainer, state: trainer.step(state))
    begin = jax.jit(lambda trainer, key: trainer.init(key))
    state, _ = step(trainer, begin(trainer, jax.random.key(0)))
    late = jnp.full_like(state.particles.unrolls.params["late"], jnp.nan)
    unrolls = state.particles.unrolls
    unrolls = unrolls._replace(params=unrolls.params | {"late": late})
    bad = state._replace(particles=state.particles._replace(unrolls=unrolls))
    after, metrics = step(trainer, bad)
    assert bits((after.theta, after.opt_state)) == bits((bad.theta, bad.opt_state))
    assert [int(metrics.valid), int(metrics.non_finite)] == [0, estimator.pairs]
    assert int(metrics.skipped) == int(after.skipped) == 1
    assert int(after.step) == int(bad.step) + 1
    healed, metrics = step(trainer, after)
    assert int(metrics.skipped) == int(healed.skipped) == 0
    assert int(metrics.restarts) == int(metrics.valid) == estimator.pairs
    assert (healed.theta != bad.theta).all()


# Bits


def test_fixed_order_sum_adds_one_row_after_another():
    rows = np.array([[1e8], [1.0], [-1e8], [1.0]], np.float32)
    # In this order the first 1 is lost in float32, whatever the compiler would choose.
    assert float(fixed_order_sum(jnp.array(rows))[0]) == 1.0
    counts = fixed_order_sum(jnp.array([1, 2, 3], jnp.int32))
    assert (int(counts), counts.dtype) == (6, jnp.int32)


TRAINING = """
import concurrent.futures, hashlib, json
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from l2o.learned import SmallFC
from meta_train.build import state_sharding
from meta_train.config import OuterConfig
from meta_train.estimators.credit import Persistent
from meta_train.outer import OuterTrainer
from tasks import ImageMLP, load
from tests.meta_train.problems import strategies

family = ImageMLP(load("digits"), hidden=(8,), batch_size=8)
lopt = SmallFC(hidden_size=1, hidden_layers=1)

def trainer_on(devices):
    estimator = strategies(
        family, lopt, credit=Persistent(), horizon=4, window=2, sigma=0.01,
        pairs=8, block=1, devices=devices,
    )
    return OuterTrainer(estimator, lopt, OuterConfig(steps=4, steps_per_dispatch=1))

key = jax.random.key(0)
start = jax.jit(lambda trainer: trainer.init(key))(trainer_on(1))

def train(devices):
    trainer = trainer_on(devices)
    mesh = trainer.estimator.mesh
    trainer = jax.device_put(trainer, NamedSharding(mesh, P()))
    state = jax.device_put(start, state_sharding(mesh, start))
    step = jax.jit(lambda trainer, state: trainer.step(state))
    step = step.lower(trainer, state).compile()
    for _ in range(3):
        state, _ = step(trainer, state)
    hashes = {}
    for path, x in jax.tree.leaves_with_path(state):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        name = jax.tree_util.keystr(path)
        hashes[name] = hashlib.sha256(np.asarray(x).tobytes()).hexdigest()
    return hashes

# Compiling is what takes the time, and two threads can.
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    print(json.dumps(list(pool.map(train, (1, 2, 4, 8)))))
"""


@pytest.mark.slow
def test_devices_do_not_matter_to_a_single_bit():
    """Theta, the outer optimizer and every particle after three outer steps.

    With blocks of one pair and a matrix whose gradient is a transposed product, the
    compiler once summed its square in another order on one device than on several.
    """
    one, *several = json.loads(run_python(TRAINING, devices=8, timeout=115.0))
    assert ".theta" in one
    for devices, hashes in zip((2, 4, 8), several, strict=True):
        differ = [name for name in one if hashes[name] != one[name]]
        assert not differ, f"on {devices} devices: {differ}"


def test_same_seed_same_bits():
    estimator = strategies(Influence(), Follow(), credit=Persistent())
    one, two, other = (
        window(
            estimator,
            THETA,
            init(estimator, THETA, jax.random.key(seed)),
            jax.random.key(seed + 10),
        )[0]
        for seed in (0, 0, 1)
    )
    assert bits(one) == bits(two)
    assert (one.gradient != other.gradient).all()


def test_every_pair_has_noise_and_a_problem_of_its_own():
    estimator = strategies(Influence(), Follow(), credit=Persistent())
    state = init(estimator, THETA, jax.random.key(0))
    _, state = window(estimator, THETA, state, jax.random.key(1))
    assert len(np.unique(state.memory)) == estimator.pairs
    # The two of a pair share theirs.
    spec = np.asarray(state.unrolls.spec)
    assert spec.shape == (3, 2, 2)
    assert len(np.unique(spec)) == estimator.pairs
    np.testing.assert_array_equal(spec[..., 0], spec[..., 1])
