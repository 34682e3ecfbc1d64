"""The LSTM optimizer against the paper's equations, one coordinate at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.learned import LSTM
from l2o.learned.lstm import log_and_sign


def preprocess(g, p):
    """Appendix A of Andrychowicz et al. 2016; without p, the gradient."""
    if p is None:
        return np.array([g])
    if abs(g) >= np.exp(-p):
        return np.array([np.log(abs(g)) / p, np.sign(g)])
    return np.array([-1.0, np.exp(p) * g])


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def stack_reference(theta, inputs):
    """The outputs of the LSTM at one coordinate, in double precision."""
    cells = [
        (np.asarray(c["w"], np.float64), np.asarray(c["b"])) for c in theta["cells"]
    ]
    size = cells[0][1].size // 4
    state = [(np.zeros(size), np.zeros(size)) for _ in cells]
    outputs = []
    for x in inputs:
        for layer, (w, b) in enumerate(cells):
            h, c = state[layer]
            gates = np.concatenate([x, h]) @ w + b
            i, j, f, o = (gates[k * size : (k + 1) * size] for k in range(4))
            # The forget gate starts open, as in the LSTM that the paper's code uses.
            c = sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(j)
            h = sigmoid(o) * np.tanh(c)
            state[layer] = (h, c)
            x = h
        head = theta["head"]
        outputs.append(x @ np.asarray(head["w"], np.float64)[:, 0] + head["b"][0])
    return np.array(outputs)


def reference(theta, gradients, p, output_scale):
    """The updates of one coordinate, step by step."""
    inputs = [preprocess(float(g), p) for g in gradients]
    return output_scale * stack_reference(theta, inputs)


def random_theta(lopt):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: np.asarray(x) + 0.3 * rng.normal(size=x.shape).astype(np.float32),
        lopt.init_theta(jax.random.key(0)),
    )


@pytest.mark.parametrize("p", [5.0, 10.0, None])
@pytest.mark.parametrize("layers", [1, 2])
def test_updates_are_those_of_the_paper(p, layers):
    lopt = LSTM(hidden_size=3, num_layers=layers, preprocess_p=p, output_scale=0.1)
    theta = random_theta(lopt)
    rng = np.random.default_rng(1)
    # Magnitudes on both sides of exp(-p), signs, and zero.
    grads = rng.normal(size=(6, 2, 2)) * 10.0 ** rng.uniform(-8, 2, size=(6, 2, 2))
    grads[2, 0, 0] = 0.0
    if p is not None:
        assert (np.abs(grads) < np.exp(-p)).any()
        assert (np.abs(grads) > np.exp(-p)).any()
    tx = lopt.with_theta(theta)
    params = np.zeros((2, 2), np.float32)
    state = tx.init(params)
    update = jax.jit(tx.update)
    got = []
    for g in grads.astype(np.float32):
        step, state = update(g, state, params)
        got.append(np.asarray(step))
    for at in np.ndindex(2, 2):
        want = reference(theta, [g[at] for g in grads], p, 0.1)
        ours = np.array([step[at] for step in got])
        np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [5.0, 10.0])
def test_preprocessing_is_continuous_and_keeps_the_sign(p):
    edge = np.exp(-p)
    g = np.array([-10.0, -edge, -edge / 2, 0.0, edge / 2, edge, 10.0], np.float32)
    got = np.asarray(log_and_sign(jnp.array(g), p)).T
    want = np.stack([preprocess(float(x), p) for x in g])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert (np.sign(got[:, 1]) == np.sign(g)).all()
    around = np.array([edge * (1 - 1e-4), edge * (1 + 1e-4)], np.float32)
    below, above = np.asarray(log_and_sign(jnp.array(around), p)).T
    np.testing.assert_allclose(below, above, atol=1e-3)


def test_released_code_differs_by_what_the_docstring_says():
    """It clamps log(|g| + float32's epsilon) / p, and e^p g, both at -1."""
    g = np.float32(10.0) ** np.linspace(-9, 3, 200, dtype=np.float32)
    log = np.maximum(np.log(np.abs(g) + np.finfo(np.float32).eps) / 5, -1.0)
    sign = np.clip(g * np.exp(np.float32(5)), -1.0, 1.0)
    got = np.asarray(log_and_sign(jnp.array(g), 5.0))
    np.testing.assert_allclose(got[0], log, atol=4e-6)
    np.testing.assert_allclose(got[1], sign, rtol=1e-6)


def test_infinitesimal_gradients_are_finite():
    g = np.array([0.0, 1e-45, -1e-45, 1e-38, 1e38], np.float32)
    assert np.isfinite(log_and_sign(jnp.array(g), 10.0)).all()


def test_every_coordinate_goes_its_own_way():
    """Another gradient elsewhere changes nothing here."""
    lopt = LSTM(hidden_size=3, num_layers=2)
    tx = lopt.with_theta(random_theta(lopt))
    params = np.zeros(3, np.float32)
    update = jax.jit(tx.update)
    one, _ = update(np.array([1.0, 2.0, 3.0], np.float32), tx.init(params), params)
    two, _ = update(np.array([1.0, -5.0, 3.0], np.float32), tx.init(params), params)
    np.testing.assert_array_equal(np.asarray(one)[[0, 2]], np.asarray(two)[[0, 2]])
    assert float(one[1]) != float(two[1])


def test_stateless_use_forgets_nothing_between_steps():
    """The second update depends on the first gradient: there is a memory."""
    lopt = LSTM(hidden_size=3, num_layers=1)
    tx = lopt.with_theta(random_theta(lopt))
    params = np.zeros(1, np.float32)
    update = jax.jit(tx.update)

    def second(first_gradient):
        g = np.array([first_gradient], np.float32)
        _, state = update(g, tx.init(params), params)
        step, _ = update(np.ones(1, np.float32), state, params)
        return float(step[0])

    assert second(1.0) != second(-1.0)


def test_updates_are_added():
    """A head of zero weights moves every coordinate by its bias."""
    lopt = LSTM(hidden_size=2, num_layers=1, output_scale=0.5)
    theta = random_theta(lopt)
    bias = np.full((1,), 0.25, np.float32)
    theta["head"] = {"w": np.zeros((2, 1), np.float32), "b": bias}
    tx = lopt.with_theta(theta)
    params = np.array([1.0, 2.0], np.float32)
    updates, _ = tx.update(np.ones_like(params), tx.init(params), params)
    moved = np.asarray(optax.apply_updates(params, updates))
    np.testing.assert_allclose(moved, params + 0.125)
