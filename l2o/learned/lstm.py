"""The coordinate-wise LSTM of Andrychowicz et al. (2016)."""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive, require_positive_int, require_range
from l2o.learned.base import LearnedOptimizer, Theta, map_tensors, require_params
from l2o.learned.network import dense, dense_init, lstm_cell, lstm_init


class LSTMState(NamedTuple):
    """State of `LSTM`: per tensor and layer, hidden and cell, each `[*shape, size]`."""

    layers: Any


@dataclasses.dataclass(frozen=True)
class LSTM(LearnedOptimizer):
    r"""A small LSTM applied to every coordinate with shared weights.

    The gradient g enters as two numbers,

    $$ \left(\tfrac{\log|g|}{p}, \mathrm{sgn}(g)\right) \text{ if } |g| \ge e^{-p},
       \quad (-1, e^p g) \text{ otherwise,} $$

    and the update is `output_scale` times a linear map of the last hidden state.

    Attributes:
        hidden_size: width of each LSTM layer.
        num_layers: number of stacked LSTM layers.
        preprocess_p: p above; 10 in the paper, 5 in the released code.
        output_scale: 0.1 in the paper, 0.01 in the released code.

    Source: Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient
    descent", arXiv 1606.04474, section 3 and appendix A.
    """

    hidden_size: int = 20
    num_layers: int = 2
    preprocess_p: float = 10.0
    output_scale: float = 0.1

    needs_value: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive_int("hidden_size", self.hidden_size)
        require_positive_int("num_layers", self.num_layers)
        # float32 holds exp(p) up to 88.
        require_range("preprocess_p", self.preprocess_p, 0.1, 80.0)
        require_positive("output_scale", self.output_scale)

    @property
    def needs_num_steps(self) -> bool:
        return False

    def init_theta(self, key: jax.Array) -> Theta:
        *cell_keys, head_key = jax.random.split(key, self.num_layers + 1)
        inputs = [2] + [self.hidden_size] * (self.num_layers - 1)
        return {
            "cells": [
                lstm_init(k, n, self.hidden_size)
                for k, n in zip(cell_keys, inputs, strict=True)
            ],
            "head": dense_init(head_key, self.hidden_size, 1),
        }

    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        del num_steps  # It does not plan for an end.

        def init(params: optax.Params) -> LSTMState:
            def one(p: jax.Array) -> Any:
                def zeros() -> jax.Array:
                    return jnp.zeros((*p.shape, self.hidden_size), jnp.float32)

                # No array twice: a state can be donated.
                return [(zeros(), zeros()) for _ in range(self.num_layers)]

            return LSTMState(layers=jax.tree.map(one, params))

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, LSTMState]:
            del extra_args
            require_params(self, params)
            update_one = functools.partial(_update_tensor, self, theta)
            steps, layers = map_tensors(update_one, updates, params, state.layers)
            return steps, LSTMState(layers=layers)

        return optax.GradientTransformationExtraArgs(init, update)


def log_and_sign(g: jax.Array, p: float) -> jax.Array:
    """The two inputs that describe a gradient: `[*g.shape, 2]`, each within -1..1+.

    The smallest normal float32 stands in for zero under the logarithm.
    """
    tiny = float(jnp.finfo(jnp.float32).tiny)
    log = jnp.maximum(jnp.log(jnp.maximum(jnp.abs(g), tiny)) / p, -1.0)
    sign = jnp.clip(g * jnp.exp(p), -1.0, 1.0)
    return jnp.stack([log, sign], axis=-1)


def _update_tensor(
    config: LSTM, theta: Any, g: jax.Array, p: jax.Array, layers: Any
) -> tuple[jax.Array, Any]:
    """The update of one tensor: gradient and weights in, step and state out."""
    x = log_and_sign(g.astype(jnp.float32), config.preprocess_p)
    new_layers = []
    for cell, layer in zip(theta["cells"], layers, strict=True):
        x, layer = lstm_cell(cell, x, layer)
        new_layers.append(layer)
    step = config.output_scale * dense(theta["head"], x)[..., 0]
    return step.astype(p.dtype), new_layers
