"""The coordinate-wise LSTM of Andrychowicz et al. (2016)."""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive, require_positive_int, require_range
from l2o.learned.base import LearnedOptimizer, Theta, map_tensors, require_params
from l2o.learned.coordinate_lstm import State, stack_init, stack_state, stack_step
from l2o.learned.explicit_axes import shardable


class LSTMState(NamedTuple):
    """State of `LSTM`."""

    layers: Any  # per tensor and layer: hidden and cell, each [size, *shape]


@dataclasses.dataclass(frozen=True)
class LSTM(LearnedOptimizer):
    r"""A small LSTM applied to every coordinate with shared weights.

    The gradient g enters as two numbers,

    $$ \left(\tfrac{\log|g|}{p}, \mathrm{sgn}(g)\right) \text{ if } |g| \ge e^{-p},
       \quad (-1, e^p g) \text{ otherwise,} $$

    or, without p, as it is. The update is `output_scale` times a linear map of the last
    hidden state.

    | | `preprocess_p` | `output_scale` |
    |---|---|---|
    | the paper, and the defaults | 10 | 0.1 |
    | the released code on neural networks | 5 | 0.01 |
    | the released code on quadratics | None | 1 |

    The released code takes the logarithm of |g| + 1.2e-7, float32's epsilon; at p = 5
    that changes the first input by less than 4e-6. What its two formulas, a clamp of
    the logarithm and one of $e^p g$, give is otherwise the case distinction above.

    Attributes:
        hidden_size: width of each LSTM layer.
        num_layers: number of stacked LSTM layers.
        preprocess_p: p above, or None for the gradient itself.
        output_scale: factor of the update.

    Source: Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient
    descent", arXiv 1606.04474, section 3 and appendix A; its released code,
    google-deepmind/learning-to-learn.
    """

    hidden_size: int = 20
    num_layers: int = 2
    preprocess_p: float | None = 10.0
    output_scale: float = 0.1

    needs_value: ClassVar[bool] = False
    inputs: ClassVar[str] = "logarithm and sign of the gradient"
    source: ClassVar[str] = "Andrychowicz et al. 2016, arXiv 1606.04474"

    def __post_init__(self) -> None:
        require_positive_int("hidden_size", self.hidden_size)
        require_positive_int("num_layers", self.num_layers)
        if self.preprocess_p is not None:
            # float32 holds exp(p) up to 88.
            require_range("preprocess_p", self.preprocess_p, 0.1, 80.0)
        require_positive("output_scale", self.output_scale)

    @property
    def needs_num_steps(self) -> bool:
        return False

    def init_theta(self, key: jax.Array) -> Theta:
        inputs = 1 if self.preprocess_p is None else 2
        return stack_init(key, inputs, self.hidden_size, self.num_layers)

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        del num_steps  # It does not plan for an end.

        def init(params: optax.Params) -> LSTMState:
            def one(p: jax.Array) -> State:
                return stack_state(p.shape, self.hidden_size, self.num_layers)

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
    """The two inputs that describe a gradient: `[2, *g.shape]`, each within -1..1+.

    The smallest normal float32 stands in for zero under the logarithm.
    """
    tiny = float(jnp.finfo(jnp.float32).tiny)
    log = jnp.maximum(jnp.log(jnp.maximum(jnp.abs(g), tiny)) / p, -1.0)
    sign = jnp.clip(g * jnp.exp(p), -1.0, 1.0)
    return jnp.stack([log, sign])


def _update_tensor(
    config: LSTM, theta: Any, g: jax.Array, p: jax.Array, layers: State
) -> tuple[jax.Array, State]:
    """The update of one tensor: gradient and weights in, step and state out."""
    g, scale = g.astype(jnp.float32), config.preprocess_p
    x = g[None] if scale is None else log_and_sign(g, scale)
    out, layers = stack_step(theta, x, layers)
    return (config.output_scale * out).astype(p.dtype), layers
