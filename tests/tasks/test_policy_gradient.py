from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.network import MLP
from tasks.policy_gradient import PolicyGradient


ENVS, BATCHES = 4, 20_000


def mean_cost(params, spec, angles, noise):
    """The documented pendulum, differentiable, under noise `[horizon, episodes]`."""
    rates, costs = jnp.zeros_like(angles), []
    for n in noise:
        seen = jnp.stack([jnp.sin(angles), jnp.cos(angles), rates], axis=-1)
        means: Any = MLP((4, 1), jnp.tanh).apply({"params": params}, seen)
        action = means[:, 0] + n
        torque = spec.strength * jnp.tanh(spec.gain * action)
        weight = 3 * spec.gravity / (2 * spec.length)
        rates = rates + 0.05 * (weight * (jnp.sin(angles) + torque) - rates)
        angles = angles + 0.05 * rates
        costs.append(1 - jnp.cos(angles) + 0.01 * rates**2)
    return jnp.mean(jnp.stack(costs))


def estimates_and_others(horizon, other):
    """Gradients by REINFORCE and by `other(params, spec, angles, noise)`, of batches.

    All from the same angles. Flat, `[BATCHES, parameters]`, with the losses.
    """
    family = PolicyGradient(hidden=(4,), num_envs=ENVS, horizon=horizon)

    def look(family, spec, angles, noise):
        task = family.task(spec)
        params = task.init(jax.random.key(0))

        def of_batch(noise):
            batch, key = (angles, noise), jax.random.key(1)
            loss, grads = jax.value_and_grad(lambda p: task.loss(p, key, batch)[0])(
                params
            )
            return loss, grads, other(params, spec, angles, noise)

        flat = lambda tree: jnp.concatenate(
            [x.reshape(len(noise), -1) for x in jax.tree.leaves(tree)], axis=1
        )
        losses, one, two = jax.vmap(of_batch)(noise)
        return losses, flat(one), flat(two)

    noise = jax.random.normal(jax.random.key(2), (BATCHES, horizon, ENVS))
    angles = jnp.linspace(-0.5, 0.4, ENVS)
    seen = jax.jit(look)(family, family.nominal(), angles, noise)
    return [np.asarray(x, np.float64) for x in seen]


def expected_after_one_step(params, spec, angles, noise):
    """The gradient of the expectation over one action, by Gauss-Hermite quadrature."""
    del noise
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    nodes, weights = (jnp.asarray(x, jnp.float32) for x in (nodes, weights))

    def expected(params):
        at = lambda n: mean_cost(params, spec, angles, jnp.full((1, ENVS), n))
        return weights / weights.sum() @ jax.vmap(at)(nodes)

    return jax.grad(expected)(params)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("horizon", "other"), [(1, expected_after_one_step), (4, jax.grad(mean_cost))]
)
def test_the_estimate_is_the_gradient_of_the_expected_return(horizon, other):
    """Of one action against quadrature, of four against exact gradients on their noise.

    Each of 21 parameters is within 5 standard errors; false alarms 1e-5.
    """
    _, estimates, others = estimates_and_others(horizon, other)
    error = (estimates - others).std(axis=0) / np.sqrt(BATCHES)
    one, two = estimates.mean(axis=0), others.mean(axis=0)
    assert (np.abs(one - two) <= 5 * error).all()
    # Zero would be no estimate.
    assert (np.abs(two) > 10 * error).any()


def test_the_value_is_the_cost_of_the_batch():
    value = lambda *args: {"cost": mean_cost(*args)}
    losses, _, costs = estimates_and_others(3, value)
    np.testing.assert_allclose(losses, costs[:, 0], rtol=1e-5)


def test_steps_along_the_estimate_balance_the_pendulum():
    family = PolicyGradient(hidden=(8,))

    @jax.jit
    def train(family):
        task = family.task(family.nominal())

        def step(carry, key):
            params, momentum = carry
            grads, _ = jax.grad(task.loss, has_aux=True)(
                params, key, task.batch(key, "train")
            )
            momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
            move = lambda p, m: p - 0.01 * jnp.sign(m)
            return (jax.tree.map(move, params, momentum), momentum), None

        params = task.init(jax.random.key(0))
        carry = params, jax.tree.map(jnp.zeros_like, params)
        keys = jax.random.split(jax.random.key(1), 300)
        (params, _), _ = jax.lax.scan(step, carry, keys)
        judge = lambda key: task.loss(params, key, task.batch(key, "test"))[0]
        return task.normalise(jnp.mean(jax.vmap(judge)(keys[:50])))

    assert float(train(family)) < 0.05
