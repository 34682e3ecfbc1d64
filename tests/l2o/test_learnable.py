"""The smallest learned optimizers against optax's own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.learned import LearnableAdam, LearnableSGD


PARAMS = {"w": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32), "b": np.float32(1.0)}
GRADS = [
    jax.tree.map(lambda p, s=s: np.float32(s) * np.cos(p), PARAMS)
    for s in (1.0, -1e-4, 30.0, 1e-6)
]


def updates_of(tx, dtype=np.float32):
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), PARAMS)
    state, steps = tx.init(params), []
    for g in GRADS:
        step, state = tx.update(g, state, params)
        steps.append(step)
    return steps


def assert_same(got, want, rtol):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=rtol)


def test_sgd_by_hand():
    lopt = LearnableSGD(learning_rate=0.5)
    theta = lopt.init_theta(jax.random.key(0))
    np.testing.assert_allclose(theta["log_learning_rate"], np.log(0.5), rtol=1e-6)
    assert_same(
        updates_of(lopt.with_theta(theta)),
        [jax.tree.map(lambda g: -0.5 * g, g) for g in GRADS],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "hyper",
    [
        {},
        {"learning_rate": 0.1, "b1": 0.5, "b2": 0.9, "epsilon": 1e-3},
        {"b1": 0.0, "b2": 0.0},
    ],
)
def test_adam_is_adam(hyper):
    lopt = LearnableAdam(**hyper)
    adam = optax.adam(lopt.learning_rate, b1=lopt.b1, b2=lopt.b2, eps=lopt.epsilon)
    tx = lopt.with_theta(lopt.init_theta(jax.random.key(0)))
    # 1 - b2 comes from its logarithm in float32.
    assert_same(updates_of(tx), updates_of(adam), rtol=1e-4)


def test_first_step_of_adam_by_hand():
    """m / (sqrt(v) + eps) is g / (|g| + eps) when both averages are corrected."""
    lopt = LearnableAdam(learning_rate=0.01, epsilon=1.0)
    tx: Any = lopt.with_theta(lopt.init_theta(jax.random.key(0)))
    g = np.array([3.0, -1.0, 0.0], np.float32)
    step, _ = tx.update(g, tx.init(g), g)
    np.testing.assert_allclose(step, [-0.01 * 3 / 4, 0.01 / 2, 0.0], rtol=1e-5)


def test_statistics_do_not_round_with_the_parameters():
    """Updates of bfloat16 parameters are the float32 ones, rounded once."""
    tx = LearnableAdam().with_theta(LearnableAdam().init_theta(jax.random.key(0)))
    want = jax.tree.map(lambda x: x.astype(jnp.bfloat16), updates_of(tx))
    assert_same(updates_of(tx, jnp.bfloat16), want, rtol=0)


def test_a_decay_rate_below_zero_is_zero():
    lopt = LearnableAdam(b1=0.0)
    theta = lopt.init_theta(jax.random.key(0))
    beyond = theta | {"log_one_minus_b1": jnp.float32(1.0)}
    got, want = (updates_of(lopt.with_theta(t)) for t in (beyond, theta))
    assert_same(got, want, rtol=0)


def test_a_better_learning_rate_is_downhill():
    """Gradient descent on log(rate): one exact step of p^2 / 2 has rate 1."""
    lopt = LearnableSGD(learning_rate=0.1)

    def loss_after(theta):
        tx = lopt.with_theta(theta)
        p = jnp.float32(2.0)
        step, _ = tx.update(p, tx.init(p), p)
        return 0.5 * (p + step) ** 2

    slope = jax.grad(loss_after)(lopt.init_theta(jax.random.key(0)))
    # d/dlog(r) of 2 (1 - r)^2 at r = 0.1.
    np.testing.assert_allclose(slope["log_learning_rate"], -4 * 0.9 * 0.1, rtol=1e-5)
