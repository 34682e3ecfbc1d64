"""Celo2: Newton-Schulz against singular values, and the sizes of steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.learned import Celo2
from l2o.learned.celo2 import newton_schulz


CELO2 = Celo2(hidden_size=2, hidden_layers=1)
BASE = Celo2(hidden_size=2, hidden_layers=1, orthogonalize=False)
STEPS = 3


def normal(seed, *shape, scale=1.0):
    rng = np.random.default_rng(seed)
    return np.float32(scale) * rng.normal(size=shape).astype(np.float32)


def random_theta():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype(np.float32),
        CELO2.init_theta(jax.random.key(0)),
    )


THETA = random_theta()


@functools.partial(jax.jit, static_argnums=0)
def follow(lopt, params, grads):
    """The updates of `grads`, `[T, ...]`, at every step."""
    tx = lopt.with_theta(THETA)

    def body(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), updates

    return jax.lax.scan(body, (params, tx.init(params)), grads)[1]


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 4), (4, 1)])
def test_newton_schulz_moves_singular_values_to_one_and_keeps_vectors(shape):
    rank = min(shape)
    u, _ = np.linalg.qr(normal(0, shape[0], rank))
    v, _ = np.linalg.qr(normal(1, shape[1], rank))
    singular = np.geomspace(1.0, 0.003, rank)
    x = (u * singular) @ v.T
    got = np.asarray(jax.jit(newton_schulz)(x.astype(np.float32)))
    diagonal = u.T @ got @ v
    values = np.diag(diagonal)
    np.testing.assert_allclose(diagonal, np.diag(values), atol=1e-3)
    np.testing.assert_allclose(u @ diagonal @ v.T, got, atol=1e-3)
    # Every value by the polynomial of its own.
    want = singular / np.linalg.norm(singular)
    for _ in range(5):
        want = 3.4445 * want - 4.7750 * want**3 + 2.0315 * want**5
    np.testing.assert_allclose(values, want, atol=1e-3)


def test_newton_schulz_maps_what_is_not_tiny_into_the_stated_range():
    """On a diagonal matrix, whose iteration is that of each entry."""
    singular = np.geomspace(0.002, 1.0, 400)
    values = singular
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert 0.68 < values.min() < 0.69
    assert 1.20 < values.max() < 1.21
    few = singular[::100]
    padded = np.diag([*few, np.sqrt(max(0.0, 1 - np.square(few).sum()))])
    got = jax.jit(newton_schulz)(padded.astype(np.float32))
    np.testing.assert_allclose(np.diag(got)[:-1], values[::100], rtol=1e-3)


def test_newton_schulz_of_zero_is_zero_with_a_finite_derivative():
    zero = jnp.zeros((2, 3))
    np.testing.assert_array_equal(newton_schulz(zero), zero)
    slope = jax.grad(lambda x: jnp.sum(newton_schulz(x)))(zero)
    assert np.isfinite(slope).all()


def rms(x, axes):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64)), axis=axes))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("lopt", [CELO2, BASE])
def test_every_matrix_moves_by_the_learning_rate(lopt, scale):
    params = {"matrix": normal(0, 3, 4), "stack": normal(1, 2, 2, 3, 2)}
    grads = {
        "matrix": normal(2, STEPS, 3, 4, scale=scale),
        "stack": normal(3, STEPS, 2, 2, 3, 2, scale=scale),
    }
    for update in follow(lopt, params, grads).values():
        np.testing.assert_allclose(rms(update, (-2, -1)), lopt.step_mult, rtol=1e-3)


def test_base_moves_vectors_by_the_learning_rate_too():
    params = {"vector": normal(0, 5), "scalar": np.float32(0.5)}
    grads = {"vector": normal(1, STEPS, 5), "scalar": normal(2, STEPS)}
    updates = follow(BASE, params, grads)
    np.testing.assert_allclose(rms(updates["vector"], -1), BASE.step_mult, rtol=1e-3)
    np.testing.assert_allclose(np.abs(updates["scalar"]), BASE.step_mult, rtol=1e-3)


@pytest.mark.parametrize("lopt", [CELO2, BASE])
def test_a_stack_is_its_matrices(lopt):
    """Where the last two axes are the largest, of which rows and columns are made."""
    params, grads = normal(0, 2, 3, 4), normal(1, STEPS, 2, 3, 4)
    # Of scales so unlike that a normaliser of the whole would show.
    grads[:, 0] *= 100
    whole = follow(lopt, {"w": params}, {"w": grads})["w"]
    apart = follow(
        lopt, {"a": params[0], "b": params[1]}, {"a": grads[:, 0], "b": grads[:, 1]}
    )
    np.testing.assert_allclose(whole[:, 0], apart["a"], rtol=1e-3, atol=1e-8)
    np.testing.assert_allclose(whole[:, 1], apart["b"], rtol=1e-3, atol=1e-8)


def test_an_empty_stack_is_no_error():
    updates = follow(CELO2, {"w": normal(0, 0, 2, 3)}, {"w": normal(0, STEPS, 0, 2, 3)})
    assert updates["w"].shape == (STEPS, 0, 2, 3)


def test_vectors_move_by_adam_without_its_correction():
    params = {"vector": normal(0, 5), "scalar": np.float32(0.5)}
    grads = {"vector": normal(1, STEPS, 5), "scalar": normal(2, STEPS)}
    updates = follow(CELO2, params, grads)
    tx: Any = optax.adam(CELO2.adam_mult * CELO2.step_mult, b1=0.9, b2=0.95, eps=0.0)
    state = tx.init(params)
    for t in range(STEPS):
        adam, state = tx.update(jax.tree.map(lambda g, t=t: g[t], grads), state)
        uncorrected = (1 - 0.9 ** (t + 1)) / np.sqrt(1 - 0.95 ** (t + 1))
        for name in params:
            # To what the floor of 1e-8 under gradients near 1 leaves.
            want = np.asarray(adam[name]) * np.float32(uncorrected)
            np.testing.assert_allclose(updates[name][t], want, rtol=1e-4)


def test_adams_floor_is_under_the_root():
    g = np.float32(1e-5)
    updates = follow(CELO2, {"scalar": np.float32(0)}, {"scalar": np.full(1, g)})
    want = -0.02 * 0.1 * g / np.sqrt(0.05 * g**2 + 1e-8)
    np.testing.assert_allclose(updates["scalar"], [want], rtol=1e-5)


def test_adam_does_not_cut_gradients_off():
    grads = {"vector": normal(1, STEPS, 5)}
    params = {"vector": normal(0, 5)}
    huge = follow(CELO2, params, jax.tree.map(lambda g: g * 1e5, grads))
    # Only the floor tells the scales apart.
    want = follow(CELO2, params, jax.tree.map(lambda g: g * 100, grads))
    np.testing.assert_allclose(huge["vector"], want["vector"], rtol=1e-4)


def test_theta_has_the_published_size():
    theta = jax.eval_shape(Celo2().init_theta, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta)) == 347
    assert theta["mlp"][0]["w"].shape == (30, 8)
