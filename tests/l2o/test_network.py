"""Each network against the matrix products that it stands for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned.network import dense, elementwise_mlp, lstm_cell, lstm_init, mlp_init
from l2o.learned.per_parameter import plain_outputs, with_constant_inputs


def plain_mlp(layers, features, scales, shape):
    """The same MLP on a stacked `[..., features]` array, in double precision."""
    x = np.stack([np.broadcast_to(f, shape) for f in features], -1).astype(np.float64)
    x = x * scales
    for i, layer in enumerate(layers):
        if i:
            x = np.maximum(x, 0.0)
        x = x @ np.asarray(layer["w"], np.float64) + np.asarray(layer["b"])
    return np.moveaxis(x, -1, 0)


def random_layers(key, sizes):
    """Layers whose biases are not zero."""
    layers = mlp_init(key, sizes)
    rng = np.random.default_rng(0)
    return [
        layer | {"b": rng.normal(size=layer["b"].shape).astype(np.float32)}
        for layer in layers
    ]


EPS = 1e-5
SHAPES = pytest.mark.parametrize(
    ("shape", "feature_shapes"),
    [
        ((), [(), (), ()]),
        ((5,), [(5,), (1,), (5,)]),
        ((4, 3), [(4, 3), (4, 1), (1, 3), (1, 1), (4, 3)]),
        ((4, 3), [(4, 1), (1, 3)]),
        ((2, 3, 2), [(2, 3, 2), (2, 3, 1), (1, 3, 2), (1, 1, 1)]),
        ((0, 3), [(0, 3), (1, 3), (1, 1)]),
    ],
)
HIDDEN = pytest.mark.parametrize("hidden", [(), (4,), (4, 3)])


def random_inputs(feature_shapes, hidden):
    rng = np.random.default_rng(1)
    features = [rng.normal(size=s).astype(np.float32) for s in feature_shapes]
    layers = random_layers(jax.random.key(0), [len(features), *hidden, 2])
    return features, layers


@SHAPES
@HIDDEN
def test_elementwise_mlp_is_a_matrix_product_at_every_entry(
    shape, feature_shapes, hidden
):
    features, layers = random_inputs(feature_shapes, hidden)
    scales = np.linspace(0.5, 2.0, len(features)).astype(np.float32)
    got = elementwise_mlp(
        layers, [jnp.array(f) for f in features], jnp.array(scales), shape
    )
    assert len(got) == 2
    want = plain_mlp(layers, features, scales, shape)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(np.broadcast_to(g, shape), w, rtol=1e-6, atol=1e-6)


def test_elementwise_mlp_has_the_derivatives_of_its_arithmetic():
    """Which its rule for differentiation takes another way to."""
    shape, feature_shapes = (4, 3), [(4, 3), (4, 1), (1, 3), (1, 1)]
    features, layers = random_inputs(feature_shapes, (4,))
    scales = jnp.linspace(0.5, 2.0, len(features))
    weights = np.random.default_rng(2).normal(size=(2, *shape)).astype(np.float32)

    def loss(function, layers, features, scales):
        outputs = function(layers, features, scales, shape)
        return sum(
            jnp.sum(w * jnp.broadcast_to(o, shape))
            for w, o in zip(weights, outputs, strict=True)
        )

    arithmetic = elementwise_mlp.__wrapped__
    given = layers, [jnp.array(f) for f in features], scales
    got, want = (
        jax.grad(functools.partial(loss, function), argnums=(0, 1, 2))(*given)
        for function in (elementwise_mlp, arithmetic)
    )
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)
    # Forward mode too.
    tangents = jax.tree.map(jnp.ones_like, given)
    moved, expected = (
        jax.jvp(functools.partial(loss, function), given, tangents)[1]
        for function in (elementwise_mlp, arithmetic)
    )
    assert float(moved) == pytest.approx(float(expected), rel=1e-5)


@SHAPES
@HIDDEN
def test_plain_outputs_are_of_inputs_of_unit_mean_square(shape, feature_shapes, hidden):
    features, layers = random_inputs(feature_shapes, hidden)
    got = plain_outputs(layers, [jnp.array(f) for f in features], EPS, shape)
    assert [g.shape for g in got] == [shape, shape]
    full = [np.broadcast_to(f, shape).astype(np.float64) for f in features]
    squares = np.array([np.square(f).sum() / max(1, f.size) for f in full])
    want = plain_mlp(layers, features, (EPS + squares) ** -0.5, shape)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6, atol=1e-6)


@HIDDEN
def test_constant_inputs_are_in_the_bias(hidden):
    features, layers = random_inputs([(3, 2)] * 5, hidden)
    constants = np.array([0.5, -2.0], np.float32)
    fewer = with_constant_inputs(layers, jnp.array(constants))
    assert fewer[0]["w"].shape[0] == 3
    features[3:] = [np.full((3, 2), c) for c in constants]
    got = plain_mlp(fewer, features[:3], np.ones(3), (3, 2))
    want = plain_mlp(layers, features, np.ones(5), (3, 2))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


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
