"""Each network against the matrix products that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import network
from l2o.learned.network import dense, lstm_cell, lstm_init, mlp_init, per_parameter_mlp


def plain_mlp(layers, features, scales, shape):
    """The same MLP on a stacked `[..., features]` array, in double precision."""
    x = np.stack([np.broadcast_to(f, shape) for f in features], -1).astype(np.float64)
    x = x * scales
    for i, layer in enumerate(layers):
        if i:
            x = np.maximum(x, 0.0)
        x = x @ np.asarray(layer["w"], np.float64) + layer["b"]
    return np.moveaxis(x, -1, 0)


def run(layers, features, scales, shape):
    features = [jnp.array(f) for f in features]
    return per_parameter_mlp(layers, features, jnp.array(scales), shape)


def random_layers(key, sizes):
    """Layers whose biases are not zero."""
    layers = mlp_init(key, sizes)
    rng = np.random.default_rng(0)
    return [
        layer | {"b": rng.normal(size=layer["b"].shape).astype(np.float32)}
        for layer in layers
    ]


@pytest.mark.parametrize(
    ("shape", "feature_shapes"),
    [
        ((), [(), (), ()]),
        ((5,), [(5,), (1,), (5,)]),
        ((4, 3), [(4, 3), (4, 1), (1, 3), (1, 1), (4, 3)]),
        ((2, 3, 2), [(2, 3, 2), (2, 3, 1), (1, 3, 2), (1, 1, 1)]),
        ((0, 3), [(0, 3), (1, 3), (1, 1)]),
    ],
)
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)])
@pytest.mark.parametrize("small", [network.SMALL, -1])
def test_per_parameter_mlp_is_a_matrix_product_at_every_entry(
    monkeypatch, shape, feature_shapes, hidden, small
):
    """Stacked, as small tensors are, and entry by entry, as large ones are."""
    monkeypatch.setattr(network, "SMALL", small)
    rng = np.random.default_rng(1)
    features = [rng.normal(size=s).astype(np.float32) for s in feature_shapes]
    scales = rng.uniform(0.5, 2.0, size=len(features)).astype(np.float32)
    layers = random_layers(jax.random.key(0), [len(features), *hidden, 2])
    got = run(layers, features, scales, shape)
    assert len(got) == 2
    want = plain_mlp(layers, features, scales, shape)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(np.broadcast_to(g, shape), w, rtol=1e-6, atol=1e-6)


def test_features_of_lower_rank_broadcast_as_in_numpy():
    rng = np.random.default_rng(1)
    features = [rng.normal(size=s).astype(np.float32) for s in [(4, 3), (1, 1)]]
    layers = random_layers(jax.random.key(0), [2, 1])
    scales = np.ones(2, np.float32)
    (got,) = run(layers, features, scales, (4, 3))
    (want,) = plain_mlp(layers, features, scales, (4, 3))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_layers_have_the_sizes_asked_for_and_unit_gain():
    layers = mlp_init(jax.random.key(0), [400, 50, 2])
    assert [layer["w"].shape for layer in layers] == [(400, 50), (50, 2)]
    assert [layer["b"].shape for layer in layers] == [(50,), (2,)]
    # A normal cut off at two deviations has deviation 0.8796.
    gain = float(jnp.std(layers[0]["w"])) * 400**0.5
    assert gain == pytest.approx(0.8796, rel=0.02)
    assert float(jnp.abs(layers[0]["w"]).max()) * 400**0.5 <= 2.0


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_dense_over_the_last_axis(shape):
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=s) for s in [(*shape, 4), (4, 2), (2,)])
    got = dense({"w": jnp.array(w), "b": jnp.array(b)}, jnp.array(x))
    np.testing.assert_allclose(got, x @ w + b, rtol=1e-5, atol=1e-6)


def test_lstm_cell_against_its_equations():
    rng = np.random.default_rng(0)
    layer = jax.tree.map(np.asarray, lstm_init(jax.random.key(0), 3, 2))
    layer["b"] = rng.normal(size=8).astype(np.float32)
    x, hidden, cell = (rng.normal(size=s).astype(np.float32) for s in [3, 2, 2])

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    z = layer["w"].T.astype(np.float64) @ np.concatenate([x, hidden]) + layer["b"]
    i, candidate, f, o = z[0:2], z[2:4], z[4:6], z[6:8]
    want_cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(candidate)
    want_hidden = sigmoid(o) * np.tanh(want_cell)
    out, (got_hidden, got_cell) = lstm_cell(
        layer, jnp.array(x), (jnp.array(hidden), jnp.array(cell))
    )
    np.testing.assert_allclose(got_cell, want_cell, rtol=1e-5)
    np.testing.assert_allclose(got_hidden, want_hidden, rtol=1e-5)
    np.testing.assert_array_equal(out, got_hidden)
