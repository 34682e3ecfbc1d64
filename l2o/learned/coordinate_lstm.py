"""An LSTM that runs at every coordinate with shared weights.

Features are the first axis, `[features, *shape]`, of inputs and of the state: a product
over the coordinates is then one of matrices without a transposition, and the gates are
contiguous blocks.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from l2o.learned.network import dense_init, lstm_gates, lstm_init


State = list[tuple[jax.Array, jax.Array]]
"""Per layer the hidden state and the cell, each `[size, *shape]`."""


def stack_init(key: jax.Array, inputs: int, size: int, layers: int) -> dict[str, Any]:
    """Weights of `layers` cells of width `size` and of a linear map to one number."""
    *cell_keys, head_key = jax.random.split(key, layers + 1)
    widths = [inputs] + [size] * (layers - 1)
    return {
        "cells": [
            lstm_init(k, n, size) for k, n in zip(cell_keys, widths, strict=True)
        ],
        "head": dense_init(head_key, size, 1),
    }


def stack_state(shape: Sequence[int], size: int, layers: int) -> State:
    """The state before the first step at every coordinate of a tensor."""

    def zeros() -> jax.Array:
        return jnp.zeros((size, *shape), jnp.float32)

    # No array twice: a state can be donated.
    return [(zeros(), zeros()) for _ in range(layers)]


def stack_step(weights: Any, x: jax.Array, state: State) -> tuple[jax.Array, State]:
    """One step at every coordinate.

    Args:
        weights: from `stack_init`.
        x: `[inputs, *shape]`.
        state: from `stack_state`.

    Returns:
        The output, `[*shape]`, and the new state.
    """
    after = []
    for layer, (hidden, cell) in zip(weights["cells"], state, strict=True):
        gates = features_dense(layer, jnp.concatenate([x, hidden]))
        x, cell = lstm_gates(jnp.split(gates, 4), cell)
        after.append((x, cell))
    return features_dense(weights["head"], x)[0], after


def features_dense(layer: Any, x: jax.Array) -> jax.Array:
    """A dense layer over the first axis of `x`."""
    bias = jnp.expand_dims(layer["b"], tuple(range(1, x.ndim)))
    return jnp.tensordot(layer["w"], x, axes=(0, 0)) + bias
