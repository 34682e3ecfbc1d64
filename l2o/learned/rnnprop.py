"""RNNprop: a coordinate-wise LSTM on Adam's quotients (Lv, Jiang and Li 2017)."""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive, require_positive_int, require_range
from l2o.learned.accumulators import start_correction
from l2o.learned.base import LearnedOptimizer, Theta, map_tensors, require_params
from l2o.learned.coordinate_lstm import (
    State,
    features_dense,
    stack_init,
    stack_state,
    stack_step,
)
from l2o.learned.explicit_axes import shardable
from l2o.learned.network import dense_init


class TensorState(NamedTuple):
    """What `RNNProp` keeps of one tensor of shape `S`."""

    momentum: jax.Array  # shape S: average of the gradient
    second_moment: jax.Array  # shape S: average of its square
    layers: State  # per layer: hidden and cell, each [size, *S]


class RNNPropState(NamedTuple):
    """State of `RNNProp`."""

    step: jax.Array  # shape=(), dtype=jnp.int32: updates made
    tensors: Any  # a TensorState per tensor


@dataclasses.dataclass(frozen=True)
class RNNProp(LearnedOptimizer):
    r"""An LSTM applied to every coordinate, whose inputs no scale of the loss changes.

    With Adam's averages m and v of the gradient g and of its square, corrected for
    their zero start, a coordinate's inputs are

    $$ \frac{\hat m}{\sqrt{\hat v} + \epsilon}, \quad
       \frac{g}{\sqrt{\hat v} + \epsilon}. $$

    A dense layer with ELU, the LSTM and a linear map turn them into z, and

    $$ p \leftarrow p + \alpha \tanh z $$

    with $\alpha$ = `output_scale`, which no step exceeds.

    The two public codes agree on all of this but: the authors' (vfleaking/rnnprop) has
    $\alpha = 0.1$, gives g before m and subtracts; Open-L2O (VITA-Group) has
    $\alpha = 0.01$, gives m before g and adds, which is followed here. Order and sign
    are a matter of theta.

    Attributes:
        hidden_size: width of the dense layer and of each LSTM layer.
        num_layers: number of stacked LSTM layers.
        beta1: decay rate of m.
        beta2: decay rate of v.
        epsilon: $\epsilon$.
        output_scale: $\alpha$.

    Source: Lv, Jiang and Li 2017, "Learning gradient descent: better generalization and
    longer horizons", arXiv 1703.03633.
    """

    hidden_size: int = 20
    num_layers: int = 2
    beta1: float = 0.95
    beta2: float = 0.95
    epsilon: float = 1e-8
    output_scale: float = 0.01

    needs_value: ClassVar[bool] = False
    inputs: ClassVar[str] = "momentum and gradient over the root of the second moment"
    source: ClassVar[str] = "Lv, Jiang and Li 2017, arXiv 1703.03633"

    def __post_init__(self) -> None:
        require_positive_int("hidden_size", self.hidden_size)
        require_positive_int("num_layers", self.num_layers)
        require_range("beta1", self.beta1, 0.0, 1.0 - 1e-6)
        require_range("beta2", self.beta2, 0.0, 1.0 - 1e-6)
        require_positive("epsilon", self.epsilon)
        require_positive("output_scale", self.output_scale)

    @property
    def needs_num_steps(self) -> bool:
        return False

    def init_theta(self, key: jax.Array) -> Theta:
        dense_key, stack_key = jax.random.split(key)
        size = self.hidden_size
        return {
            "dense": dense_init(dense_key, 2, size),
            **stack_init(stack_key, size, size, self.num_layers),
        }

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        del num_steps  # It does not plan for an end.

        def init(params: optax.Params) -> RNNPropState:
            def one(p: jax.Array) -> TensorState:
                return TensorState(
                    momentum=jnp.zeros(p.shape, jnp.float32),
                    second_moment=jnp.zeros(p.shape, jnp.float32),
                    layers=stack_state(p.shape, self.hidden_size, self.num_layers),
                )

            return RNNPropState(
                step=jnp.zeros((), jnp.int32), tensors=jax.tree.map(one, params)
            )

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, RNNPropState]:
            del extra_args
            require_params(self, params)
            step = state.step + 1
            update_one = functools.partial(
                _update_tensor, self, theta, step.astype(jnp.float32)
            )
            steps, tensors = map_tensors(update_one, updates, params, state.tensors)
            return steps, RNNPropState(step=step, tensors=tensors)

        return optax.GradientTransformationExtraArgs(init, update)


def _update_tensor(
    config: RNNProp,
    theta: Any,
    step: jax.Array,
    g: jax.Array,
    p: jax.Array,
    state: TensorState,
) -> tuple[jax.Array, TensorState]:
    """The update of one tensor at step 1, 2, ...: its step and its state after it."""
    g = g.astype(jnp.float32)
    m = config.beta1 * state.momentum + (1 - config.beta1) * g
    v = config.beta2 * state.second_moment + (1 - config.beta2) * g * g
    # The floor is far below epsilon: it only gives the root a derivative at zero.
    v_hat = jnp.maximum(v * start_correction(config.beta2, step), 1e-30)
    root = jnp.sqrt(v_hat) + config.epsilon
    m_hat = m * start_correction(config.beta1, step)
    x = jnp.stack([m_hat / root, g / root])
    x = jax.nn.elu(features_dense(theta["dense"], x))
    out, layers = stack_step(theta, x, state.layers)
    update = config.output_scale * jnp.tanh(out)
    return update.astype(p.dtype), TensorState(m, v, layers)
