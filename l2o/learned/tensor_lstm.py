"""The LSTM of VeLO and Celo, which reads how the training goes.

It has a row per tensor, or one row for all tensors, and rows exchange a maximum. What
is made of its output is the architecture's affair.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2o.learned.base import LearnedOptimizer, Theta, require_value
from l2o.learned.features import TRAINING_FRACTIONS, fraction_features
from l2o.learned.loss_features import (
    NUM_LOSS_FEATURES,
    LossAverages,
    init_loss_averages,
    loss_features,
    update_loss_averages,
)
from l2o.learned.network import dense, dense_init, lstm_cell, lstm_init


NUM_COURSE_FEATURES = len(TRAINING_FRACTIONS) + NUM_LOSS_FEATURES


class TensorLSTMState(NamedTuple):
    """State of the LSTM and of what it reads."""

    step: jax.Array  # shape=(), dtype=jnp.int32: updates made
    num_steps: jax.Array  # shape=(), dtype=jnp.float32
    hidden: jax.Array  # shape=(rows, size), dtype=jnp.float32
    cell: jax.Array  # shape=(rows, size), dtype=jnp.float32
    losses: LossAverages


def tensor_lstm_init(
    key: jax.Array, inputs: int, size: int, heads: Mapping[str, int]
) -> Theta:
    """Untrained layers and the learned initial state.

    Args:
        key: a typed PRNG key.
        inputs: number of inputs of a row.
        size: width of the LSTM.
        heads: the number of outputs of every linear map of the hidden state.

    Returns:
        The entries `lstm` and `initial_state` of theta.
    """
    keys = jax.random.split(key, 4 + len(heads))
    return {
        "lstm": {
            # The public codes make this layer and discard its output; it is kept so
            # that public weights can be read and written back whole.
            "unused": dense_init(keys[0], inputs, size),
            "mix": dense_init(keys[1], inputs, size),
            "inputs": dense_init(keys[2], inputs, size),
            "cell": lstm_init(keys[3], size, size),
            **{
                name: dense_init(k, size, outputs)
                for k, (name, outputs) in zip(keys[4:], heads.items(), strict=True)
            },
        },
        "initial_state": {
            "hidden": jnp.zeros((1, size), jnp.float32),
            "cell": jnp.zeros((1, size), jnp.float32),
        },
    }


def init_tensor_lstm_state(
    theta: Theta, rows: int, num_steps: int | jax.Array | None
) -> TensorLSTMState:
    """Every row begins at theta's initial state."""
    start = theta["initial_state"]
    return TensorLSTMState(
        step=jnp.zeros((), jnp.int32),
        num_steps=jnp.array(num_steps, jnp.float32),
        hidden=jnp.tile(start["hidden"], (rows, 1)),
        cell=jnp.tile(start["cell"], (rows, 1)),
        losses=init_loss_averages(),
    )


def observe(
    lopt: LearnedOptimizer,
    state: TensorLSTMState,
    value: jax.Array | None,
    horizon: jax.Array,
) -> tuple[jax.Array, TensorLSTMState]:
    """Counts a step and adds its loss.

    Args:
        lopt: whose name an error gives.
        state: before the step.
        value: the loss.
        horizon: the longest half-life of the averages of the loss, in steps.

    Returns:
        Features of the course of training, `[18]`: the fraction that is done, and where
        the loss stands; and the state, in which the LSTM has not moved yet.

    Raises:
        ValueError: `value` is missing.
    """
    require_value(lopt, value)
    losses = update_loss_averages(
        state.losses, jnp.asarray(value, jnp.float32), horizon
    )
    fraction = state.step.astype(jnp.float32) / state.num_steps
    features = jnp.concatenate(
        [fraction_features(fraction), loss_features(losses, horizon)]
    )
    return features, state._replace(step=state.step + 1, losses=losses)


def move_lstm(
    layers: Any, inputs: jax.Array, state: TensorLSTMState
) -> tuple[jax.Array, TensorLSTMState]:
    """One step of the LSTM.

    Args:
        layers: theta's `lstm`.
        inputs: `[rows, inputs]`.
        state: before the step.

    Returns:
        The hidden state, `[rows, size]`, for `dense` with one of the heads; and the
        state after the step.
    """
    mixed = jax.nn.relu(dense(layers["mix"], inputs))
    # A maximum of relus is not negative: the initial value only serves no rows at all.
    mixed = jnp.max(mixed, axis=0, keepdims=True, initial=0.0)
    x = dense(layers["inputs"], inputs) + mixed
    out, (hidden, cell) = lstm_cell(layers["cell"], x, (state.hidden, state.cell))
    return out, state._replace(hidden=hidden, cell=cell)


def scheduled_rate(
    lopt: LearnedOptimizer,
    layers: Any,
    state: TensorLSTMState,
    value: jax.Array | None,
) -> tuple[jax.Array, TensorLSTMState]:
    r"""Celo's learned schedule: a factor $0.1 e^{s}$ of the steps of all tensors.

    The public code runs the LSTM once per tensor. Yet it reads nothing of the tensors,
    all of which start from one state: the rows stay equal, and so there is one here.

    Args:
        lopt: whose name an error gives.
        layers: theta's `lstm`, with a head `step_size`.
        state: before the step, of one row.
        value: the loss.

    Returns:
        The factor, of shape `()`, and the state after the step.

    Raises:
        ValueError: `value` is missing.
    """
    features, state = observe(lopt, state, value, state.num_steps)
    out, state = move_lstm(layers, features[None], state)
    return 0.1 * jnp.exp(dense(layers["step_size"], out)[0, 0]), state
