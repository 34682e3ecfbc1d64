"""Small networks: the per-parameter MLP, dense layers and the LSTM cell."""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


Layers = Sequence[Any]
"""An MLP: `{"w": [in, out], "b": [out]}` per layer."""

STORED = 2**14
"""What rows and columns add to the first layer is stored for tensors above this size.

As a product of matrices: XLA on CPUs would compute a sum again at every entry. Below it
many products that small would cost more.
"""


def dense_init(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    """Truncated normal of deviation 1/sqrt(inputs), zero bias: haiku's default."""
    w = jax.random.truncated_normal(key, -2.0, 2.0, (inputs, outputs), jnp.float32)
    return {"w": w / jnp.sqrt(float(inputs)), "b": jnp.zeros((outputs,), jnp.float32)}


def dense(layer: Any, x: jax.Array) -> jax.Array:
    """`x @ w + b` over the last axis of `x`."""
    bias = jnp.expand_dims(layer["b"], tuple(range(x.ndim - 1)))
    return x @ layer["w"] + bias


def zero_layer(layer: Any) -> Any:
    """A layer whose outputs are zero."""
    return jax.tree.map(jnp.zeros_like, layer)


def mlp_init(key: jax.Array, sizes: Sequence[int]) -> list[dict[str, jax.Array]]:
    """Layers of an MLP with `sizes[0]` inputs and `sizes[-1]` outputs."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        dense_init(k, i, o) for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def elementwise_mlp(
    layers: Layers,
    features: Sequence[jax.Array],
    scales: jax.Array,
    shape: Sequence[int],
) -> list[jax.Array]:
    """An MLP with relus between layers at every entry of a tensor.

    It is one `feature * weight` term after another in place of a matrix product over a
    `[..., features]` array, so that XLA can run all of it, and what the features are
    made of, in one loop. Features that vary along fewer axes (Adafactor's rows and
    columns) are given with size 1 along the others: their share of the first layer is
    summed at their own size and broadcast once.

    This is the function that a hand-written kernel would replace: features and weights
    of one tensor in, outputs at every entry out. Differentiated it is products of
    matrices: of elementwise arithmetic every weight's derivative would be a sum over
    the tensor of its own.

    Args:
        layers: `{"w": [in, out], "b": [out]}` per layer.
        features: one array per input, each with the axes of `shape`.
        scales: `[in]`, multiplied into the first layer's rows: the normalisers of the
            features, folded into the weights so that no normalised feature is formed.
        shape: the tensor's shape.

    Returns:
        The outputs, a list of arrays broadcastable to `shape`.
    """
    ndim = len(shape)
    first = layers[0]["w"] * scales[:, None]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, x in enumerate(features):
        by_shape.setdefault(x.shape, []).append(i)
    hidden = [bias for (bias,) in _entries(layers[0]["b"][:, None], ndim)]
    weights = _entries(first, ndim)
    # Smallest first, so that the full-size terms are added to one broadcast sum.
    for alike in sorted(by_shape.values(), key=lambda group: features[group[0]].size):
        terms = [features[i] for i in alike]
        if math.prod(shape) > STORED and terms[0].size < math.prod(shape):
            stacked = jnp.stack(terms, axis=-1) @ jnp.stack([first[i] for i in alike])
            hidden = [h + stacked[..., unit] for unit, h in enumerate(hidden)]
            continue
        hidden = [
            _dot(terms, [weights[i][unit] for i in alike], total)
            for unit, total in enumerate(hidden)
        ]
    for layer in layers[1:]:
        hidden = [jax.nn.relu(h) for h in hidden]
        weights = _entries(layer["w"], ndim)
        biases = _entries(layer["b"][:, None], ndim)
        hidden = [
            _dot(hidden, [row[unit] for row in weights], bias)
            for unit, (bias,) in enumerate(biases)
        ]
    return hidden


@elementwise_mlp.defjvp
def _(
    shape: Sequence[int], primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[list[jax.Array], list[jax.Array]]:
    return jax.jvp(functools.partial(_matrix_mlp, shape=shape), primals, tangents)


def _matrix_mlp(
    layers: Layers,
    features: Sequence[jax.Array],
    scales: jax.Array,
    *,
    shape: Sequence[int],
) -> list[jax.Array]:
    """`elementwise_mlp` on the features in one array, `[features, entries]`."""
    first = {"w": layers[0]["w"] * scales[:, None], "b": layers[0]["b"]}
    *inner, last = [first, *layers[1:]]
    x = jnp.stack([jnp.broadcast_to(f, shape).reshape(-1) for f in features])
    for layer in inner:
        x = jax.nn.relu(layer["w"].T @ x + layer["b"][:, None])
    # Not rows of one product: the derivative of taking a row is a padded array, whose
    # entries XLA on CPUs computes again for every row.
    return [
        (weights @ x + bias).reshape(shape)
        for weights, bias in zip(last["w"].T, last["b"], strict=True)
    ]


def _entries(matrix: jax.Array, ndim: int) -> list[list[jax.Array]]:
    """Every entry as an array of `ndim` axes of length 1; cheap to trace."""
    rows, columns = matrix.shape
    flat = matrix.reshape((-1,) + (1,) * max(ndim - 1, 0))
    cut = [
        jax.lax.index_in_dim(flat, i, keepdims=ndim > 0) for i in range(rows * columns)
    ]
    return [cut[i : i + columns] for i in range(0, len(cut), columns)]


def _dot(
    xs: Sequence[jax.Array], weights: Sequence[jax.Array], start: jax.Array
) -> jax.Array:
    products = [x * w for x, w in zip(xs, weights, strict=True)]
    return functools.reduce(operator.add, products, start)


def lstm_init(key: jax.Array, inputs: int, size: int) -> dict[str, jax.Array]:
    """One dense layer from `[x, h]` to the four gates."""
    return dense_init(key, inputs + size, 4 * size)


def lstm_cell(
    layer: Any, x: jax.Array, state: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """One step of an LSTM whose forget gate has a constant 1 added.

    Args:
        layer: from `lstm_init`; gates in the order input, candidate, forget, output.
        x: `[..., inputs]`.
        state: hidden and cell, each `[..., size]`.

    Returns:
        The new hidden state and the new state.
    """
    hidden, cell = state
    gates = dense(layer, jnp.concatenate([x, hidden], axis=-1))
    hidden, cell = lstm_gates(jnp.split(gates, 4, axis=-1), cell)
    return hidden, (hidden, cell)


def lstm_gates(
    gates: Sequence[jax.Array], cell: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The elementwise part of `lstm_cell`.

    Args:
        gates: input, candidate, forget and output, before their nonlinearities.
        cell: of the same shape as each.

    Returns:
        The new hidden state and the new cell.
    """
    i, candidate, f, o = gates
    cell = jax.nn.sigmoid(f + 1.0) * cell + jax.nn.sigmoid(i) * jnp.tanh(candidate)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell
