"""Celo and Celo-Adam: schedule and update rule against each other and against optax."""

import functools
import math
from typing import Any

import jax
import numpy as np
import optax
import pytest

from l2o.learned import Celo, CeloAdam, VeLO


SIZES: Any = {"lstm_size": 2, "hidden_size": 2, "hidden_layers": 1}
CELO = Celo(**SIZES)
FIRST_PHASE = Celo(**SIZES, phase=1)
HORIZON = 8
SHAPES = {"scalar": (), "vector": (3,), "matrix": (3, 2)}


def arrays(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        k: np.float32(scale) * rng.normal(size=s).astype(np.float32)
        for k, s in SHAPES.items()
    }


PARAMS = arrays(0)
GRADS = [arrays(1 + t) for t in range(4)]
VALUES = np.array([2.0, 1.5, 1.75, 1.0], np.float32)


@functools.partial(jax.jit, static_argnums=0)
def follow(lopt, theta, grads, values):
    """The updates at every step, `[T, ...]`."""
    tx = lopt.with_theta(theta, num_steps=HORIZON)

    def body(carry, given):
        params, state = carry
        g, value = given
        updates, state = tx.update(g, state, params, value=value)
        return (optax.apply_updates(params, updates), state), updates

    return jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), (grads, values))[1]


def updates_of(lopt, theta, grads=GRADS):
    stacked = jax.tree.map(lambda *g: np.stack(g), *grads)
    return jax.device_get(follow(lopt, theta, stacked, VALUES))


def random_theta(lopt):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: np.asarray(x) + 0.3 * rng.normal(size=x.shape).astype(np.float32),
        lopt.init_theta(jax.random.key(0)),
    )


def constant_head(theta, name, value):
    """Theta in which a head's output is `value` whatever the LSTM does."""
    head = jax.tree.map(np.zeros_like, theta["lstm"][name])
    lstm = theta["lstm"] | {name: head | {"b": head["b"] + np.float32(value)}}
    return theta | {"lstm": lstm}


def assert_close(got, want, rtol=1e-5):
    jax.tree.map(
        lambda g, w: np.testing.assert_allclose(g, w, rtol=rtol, atol=1e-9), got, want
    )


def test_second_phase_under_a_rate_of_one_is_the_first():
    theta = random_theta(CELO)
    assert jax.tree.structure(theta) == jax.tree.structure(random_theta(FIRST_PHASE))
    want = updates_of(FIRST_PHASE, theta)
    assert_close(
        updates_of(CELO, constant_head(theta, "step_size", math.log(10))), want
    )
    # Its own schedule is another.
    assert np.abs(updates_of(CELO, theta)["matrix"] / want["matrix"] - 1).min() > 0.01


def test_first_phase_ignores_the_schedule():
    theta = random_theta(CELO)
    lstm = jax.tree.map(np.zeros_like, theta["lstm"])
    assert_close(
        updates_of(FIRST_PHASE, theta | {"lstm": lstm}),
        updates_of(FIRST_PHASE, theta),
        rtol=0,
    )


def test_one_rate_holds_for_all_tensors_and_changes_with_time():
    theta = random_theta(CELO)
    # Of the first step, before which the parameters are those of the other phase.
    second, first = updates_of(CELO, theta), updates_of(FIRST_PHASE, theta)
    rates = np.concatenate([(second[k][0] / first[k][0]).ravel() for k in SHAPES])
    np.testing.assert_allclose(rates, rates[0], rtol=1e-5)
    adam = CeloAdam(lstm_size=2)
    schedule = {k: theta[k] for k in ("lstm", "initial_state")}
    ones = [jax.tree.map(np.ones_like, PARAMS)] * 4
    over_time = -updates_of(adam, schedule, ones)["vector"][:, 0] / adam.step_mult
    np.testing.assert_allclose(over_time[0], rates[0], rtol=1e-5)
    assert len(set(np.round(over_time, 6))) == 4


def test_controls_have_no_effect():
    theta = random_theta(CELO)
    assert_close(
        updates_of(CELO, constant_head(theta, "controls", 7.0)),
        updates_of(CELO, theta),
        rtol=0,
    )


def test_first_phase_is_velo_with_one_mlp_and_a_rate_of_one():
    velo = VeLO(**SIZES, mixtures=1)
    theta = random_theta(velo)
    theta = constant_head(theta, "controls", 0.01)
    theta = constant_head(theta, "step_size", 1.0)
    own = random_theta(CELO) | {"mlp": jax.tree.map(lambda w: w[0], theta["mlps"])}
    assert_close(updates_of(FIRST_PHASE, own), updates_of(velo, theta), rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_celo_adam_under_a_rate_of_one_is_adam(scale):
    """With the public code's two floors, the second of which shows at small scales."""
    lopt = CeloAdam(lstm_size=2, step_mult=0.01)
    theta = constant_head(random_theta(lopt), "step_size", math.log(10))
    grads = [arrays(1 + t, scale) for t in range(4)]
    got = updates_of(lopt, theta, grads)
    tx = optax.adam(0.01, b1=0.9, b2=0.999, eps=1e-8, eps_root=1e-10)
    state, params = tx.init(PARAMS), PARAMS
    for t, g in enumerate(grads):
        want, state = tx.update(g, state, params)
        assert_close(jax.tree.map(lambda u, t=t: u[t], got), want, rtol=1e-4)


def test_gradients_are_cut_off_at_a_thousand():
    theta = random_theta(CELO)
    huge = [jax.tree.map(lambda g: 1e6 * np.sign(g), g) for g in GRADS]
    cut = [jax.tree.map(lambda g: 1e3 * np.sign(g), g) for g in GRADS]
    assert_close(updates_of(CELO, theta, huge), updates_of(CELO, theta, cut), rtol=0)


@pytest.mark.parametrize(("lopt", "count"), [(Celo(), 37_089), (CeloAdam(), 36_865)])
def test_theta_has_the_size_of_the_published_one(lopt, count):
    theta = jax.eval_shape(lopt.init_theta, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta)) == count


@pytest.mark.parametrize("bad", [0, 3, 1.0, True, "1"])
def test_other_phases_are_refused(bad):
    with pytest.raises(ValueError, match=f"^phase must be 1 or 2, got {bad!r}$"):
        Celo(phase=bad)
