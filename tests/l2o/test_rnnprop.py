"""RNNprop against the equations of the paper, one coordinate at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import RNNProp
from tests.l2o.test_lstm import random_theta, stack_reference


def reference(theta, gradients, *, beta1=0.95, beta2=0.95, eps=1e-8, scale=0.01):
    """The updates of one coordinate, step by step, in double precision."""
    w, b = (np.asarray(theta["dense"][k], np.float64) for k in ("w", "b"))
    inputs, m, v = [], 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        root = np.sqrt(v / (1 - beta2**t)) + eps
        z = np.array([m / (1 - beta1**t) / root, g / root]) @ w + b
        inputs.append(np.where(z > 0, z, np.expm1(z)))
    return scale * np.tanh(stack_reference(theta, inputs))


def updates_of(lopt, theta, grads):
    tx = lopt.with_theta(theta)
    params = np.zeros(grads.shape[1:], np.float32)
    state = tx.init(params)
    update = jax.jit(tx.update)
    steps = []
    for g in grads.astype(np.float32):
        step, state = update(g, state, params)
        steps.append(np.asarray(step))
    return np.array(steps)


@pytest.mark.parametrize("layers", [1, 2])
def test_updates_are_those_of_the_paper(layers):
    lopt = RNNProp(hidden_size=3, num_layers=layers)
    theta = random_theta(lopt)
    rng = np.random.default_rng(1)
    grads = rng.normal(size=(6, 2, 2)) * 10.0 ** rng.uniform(-6, 3, size=(6, 2, 2))
    grads[2, 0, 0] = 0.0
    got = updates_of(lopt, theta, grads)
    for at in np.ndindex(2, 2):
        want = reference(theta, [g[at] for g in grads])
        ours = got[(slice(None), *at)]
        np.testing.assert_allclose(ours, want, rtol=1e-4, atol=1e-8)


def test_first_inputs_are_signs():
    """Both quotients are g / |g| at the first step: no magnitude is seen."""
    lopt = RNNProp(hidden_size=3, num_layers=1)
    grads = np.array([[1e-3, 1.0, 1e3, -1e3, -1e-3]])
    (got,) = updates_of(lopt, random_theta(lopt), grads)
    np.testing.assert_allclose(got[:3], got[0], rtol=1e-3)
    np.testing.assert_allclose(got[3:], got[3], rtol=1e-3)
    assert got[0] != pytest.approx(got[3], rel=1e-2)


def test_first_step_by_hand():
    """With all weights of the LSTM zero the step is the tanh of the head's bias."""
    lopt = RNNProp(hidden_size=2, num_layers=1, output_scale=0.1)
    theta = jax.tree.map(jnp.zeros_like, lopt.init_theta(jax.random.key(0)))
    theta["head"]["b"] = jnp.array([-0.5])
    got = updates_of(lopt, theta, np.ones((1, 3)))
    np.testing.assert_allclose(got, np.full((1, 3), -0.1 * np.tanh(0.5)), rtol=1e-6)


def test_no_step_exceeds_the_scale():
    lopt = RNNProp(hidden_size=2, num_layers=1)
    theta = random_theta(lopt)
    theta["head"]["b"] = theta["head"]["b"] + 100.0
    got = updates_of(lopt, theta, np.array([[1e8, 1.0, -1e-30, 0.0]]))
    np.testing.assert_allclose(got, 0.01, rtol=1e-6)
