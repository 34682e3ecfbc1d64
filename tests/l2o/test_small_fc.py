"""Properties of the per-parameter MLP that its architecture promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import SmallFC


LOPT = SmallFC(hidden_size=3, hidden_layers=2)


@functools.partial(jax.jit, static_argnums=0)
def follow(lopt, theta, params, grads):
    """The updates under each of `grads` in turn, at the same parameters; the state."""
    tx = lopt.with_theta(theta)

    def body(state, g):
        step, state = tx.update(g, state, params)
        return state, step

    stacked = jax.tree.map(lambda *g: jnp.stack(g), *grads)
    state, taken = jax.lax.scan(body, tx.init(params), stacked)
    return taken, state


def steps(lopt, theta, params, grads):
    taken, _ = follow(lopt, theta, params, grads)
    return [jax.tree.map(lambda x, i=i: x[i], taken) for i in range(len(grads))]


def random_theta(lopt):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype(np.float32),
        lopt.init_theta(jax.random.key(0)),
    )


def arrays(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(got, want):
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5 * np.abs(w).max())


def test_permuted_vector_gives_the_permuted_step():
    theta, p, grads = random_theta(LOPT), arrays(1, 5), arrays(2, 2, 5)
    order = np.array([3, 1, 4, 0, 2])
    plain = steps(LOPT, theta, p, list(grads))
    permuted = steps(LOPT, theta, p[order], list(grads[:, order]))
    assert_close(permuted, [np.asarray(s)[order] for s in plain])


def test_permuted_rows_and_columns_give_the_permuted_step():
    theta, p, grads = random_theta(LOPT), arrays(1, 3, 4), arrays(2, 2, 3, 4)
    rows, cols = np.array([2, 0, 1]), np.array([1, 3, 0, 2])
    plain = steps(LOPT, theta, p, list(grads))
    permuted = steps(LOPT, theta, p[rows][:, cols], list(grads[:, rows][:, :, cols]))
    assert_close(permuted, [np.asarray(s)[rows][:, cols] for s in plain])


def test_transposed_matrix_gives_the_transposed_step():
    """The factored moments follow the larger axis, wherever it is."""
    theta, p, grads = random_theta(LOPT), arrays(1, 3, 4), arrays(2, 2, 3, 4)
    plain = steps(LOPT, theta, p, list(grads))
    turned = steps(LOPT, theta, p.T, [g.T for g in grads])
    assert_close(turned, [np.asarray(s).T for s in plain])


def test_tensors_do_not_see_each_other():
    theta, grads = random_theta(LOPT), arrays(2, 2, 5)
    p = arrays(1, 5)
    (_, alone) = steps(LOPT, theta, {"a": p}, [{"a": g} for g in grads])
    others = [{"a": g, "b": 100.0 * g[:3]} for g in grads]
    (_, together) = steps(LOPT, theta, {"a": p, "b": p[:3]}, others)
    assert_close([together["a"]], [alone["a"]])


def test_an_untrained_decay_is_the_one_declared():
    """A zero offset to a decay rate leaves the momentum a plain average."""
    theta = LOPT.init_theta(jax.random.key(0))
    p, g = arrays(1, 5), arrays(2, 5)
    # A second gradient, for the program that other tests have compiled.
    _, state = follow(LOPT, theta, p, [g, np.zeros_like(g)])
    momenta = state.stats["5"].momentum
    for momentum, decay in zip(momenta, LOPT.momentum_decays, strict=True):
        np.testing.assert_allclose(momentum, decay * (1 - decay) * g[None], rtol=1e-4)


@pytest.mark.parametrize("decays", [(0.9,), (0.9, 0.99)])
def test_number_of_features_is_the_first_layers_input(decays):
    lopt = SmallFC(momentum_decays=decays, rms_decays=decays, factored_decays=decays)
    theta = lopt.init_theta(jax.random.key(0))
    n = len(decays)
    assert theta["mlp"][0]["w"].shape[0] == 2 + 2 * n + 2 * n + 6 * n + 11
    (step,) = steps(lopt, theta, arrays(1, 2, 3), [arrays(2, 2, 3)])
    assert np.isfinite(step).all()
