"""A per-parameter MLP whose steps are bounded relative to the initial weights."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.config import require_positive, require_positive_int
from l2o.learned.accumulators import DECAYS, TensorStats, init_stats
from l2o.learned.base import (
    LearnedOptimizer,
    Theta,
    require_num_steps,
    require_params,
)
from l2o.learned.explicit_axes import shardable
from l2o.learned.features import (
    TRAINING_FRACTIONS,
    fraction_features,
    small_fc_inputs,
)
from l2o.learned.groups import group_tensors, init_groups, ungroup
from l2o.learned.network import mlp_init
from l2o.learned.per_parameter import (
    PerParameterRule,
    move_groups,
    with_constant_inputs,
)


NUM_MOMENT_FEATURES = (
    2 + 2 * len(DECAYS.momentum) + 2 * len(DECAYS.rms) + 6 * len(DECAYS.factored)
)


class RelativeMLPState(NamedTuple):
    """State of `RelativeMLP`."""

    step: jax.Array  # shape=(), dtype=jnp.int32: updates made
    num_steps: jax.Array  # shape=(), dtype=jnp.float32
    unit: jax.Array  # shape=(tensors,): root mean squares at initialisation
    stats: dict[str, TensorStats]  # by shape, with an axis along its tensors


@dataclasses.dataclass(frozen=True)
class RelativeMLP(LearnedOptimizer):
    r"""One small MLP for every parameter, with bounded steps and a learned schedule.

    The inputs are those of `SmallFC` with the fraction f of training done in place of
    the step count. With d the output over a tensor,

    $$ p \leftarrow p - \lambda \, e^{\gamma v \cdot \phi(f)} \left(
       u \frac{d}{\sqrt{1 + \mathrm{mean}(d^2)}} + e^{\gamma w - 4} \, p \right) $$

    where u is the root mean square that the tensor had at initialisation (of all
    parameters, for a tensor that starts at zero), $\phi$ the nine features of f,
    $\lambda$ = `step_mult`, $\gamma$ = `schedule_gain`, and theta holds the MLP, the
    schedule v and the weight decay w.

    Whatever the gradients are, the root mean square of a tensor does not grow past
    $u e^{4 - \gamma w}$, where decay undoes the largest step (while the decay of one
    step is less than the whole). Errors past the horizon of meta-training thus stay
    bounded; with VeLO's unit, the current root mean square, a step enlarges the next
    one and they compound.

    Attributes:
        hidden_size: width of the hidden layers.
        hidden_layers: number of hidden layers.
        step_mult: $\lambda$.
        schedule_gain: $\gamma$.

    Source: this project; features after Metz et al. 2022 (arXiv 2203.11860 and
    2211.09760), normalised output after Celo2 (arXiv 2602.19142).
    """

    hidden_size: int = 4
    hidden_layers: int = 2
    step_mult: float = 1e-2
    schedule_gain: float = 4.0

    needs_value: ClassVar[bool] = False
    inputs: ClassVar[str] = "gradient, its averages, parameter, fraction done"
    source: ClassVar[str] = "this project"

    def __post_init__(self) -> None:
        require_positive_int("hidden_size", self.hidden_size)
        require_positive_int("hidden_layers", self.hidden_layers)
        require_positive("step_mult", self.step_mult)
        require_positive("schedule_gain", self.schedule_gain)

    @property
    def needs_num_steps(self) -> bool:
        return True

    def init_theta(self, key: jax.Array) -> Theta:
        inputs = NUM_MOMENT_FEATURES + len(TRAINING_FRACTIONS)
        sizes = [inputs, *[self.hidden_size] * self.hidden_layers, 1]
        return {
            "mlp": mlp_init(key, sizes),
            "schedule": jnp.zeros((len(TRAINING_FRACTIONS),), jnp.float32),
            "decay": jnp.zeros((), jnp.float32),
        }

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        require_num_steps(self, num_steps)

        def init(params: optax.Params) -> RelativeMLPState:
            return RelativeMLPState(
                step=jnp.zeros((), jnp.int32),
                num_steps=jnp.array(num_steps, jnp.float32),
                unit=initial_rms(params),
                stats=init_groups(params, lambda p: init_stats(p, DECAYS)),
            )

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, RelativeMLPState]:
            del extra_args
            require_params(self, params)
            time = fraction_features(state.step.astype(jnp.float32) / state.num_steps)
            rate = self.step_mult * jnp.exp(
                self.schedule_gain * jnp.dot(theta["schedule"], time)
            )
            decay = jnp.exp(self.schedule_gain * theta["decay"] - 4.0)
            mlp = with_constant_inputs(theta["mlp"], time)

            def finish(
                outputs: list[jax.Array], p: jax.Array, square: jax.Array, unit: Any
            ) -> jax.Array:
                del square
                (direction,) = outputs
                mean_square = jnp.sum(jnp.square(direction)) / max(1, p.size)
                bounded = direction * (unit * jax.lax.rsqrt(1.0 + mean_square))
                return -rate * (bounded + decay * p)

            rule = PerParameterRule(
                features=small_fc_inputs,
                layers=lambda unit: mlp,
                finish=finish,
                eps=1e-5,
            )
            groups = group_tensors(updates, params)
            steps, stats = move_groups(
                rule, groups, state.stats, DECAYS, own=state.unit
            )
            return (
                ungroup(updates, groups, steps),
                state._replace(step=state.step + 1, stats=stats),
            )

        return optax.GradientTransformationExtraArgs(init, update)


def initial_rms(params: optax.Params) -> jax.Array:
    """Root mean square of every tensor; of all parameters for one that is all zero.

    The fallback keeps the unit of a zero bias in proportion to its network, whatever
    scale the weights are written in; with nothing but zeros the unit is 1.

    Returns:
        `[tensors]`, in the order of the tree's leaves.
    """
    leaves = [p.astype(jnp.float32) for p in jax.tree.leaves(params)]
    zero = jnp.zeros((), jnp.float32)  # For a tree without leaves.
    sums = jnp.stack([zero, *(jnp.sum(jnp.square(p)) for p in leaves)])[1:]
    sizes = np.array([p.size for p in leaves], np.float32)
    whole = jnp.sqrt(jnp.sum(sums) / max(1.0, sizes.sum()))
    whole = jnp.where(whole > 0, whole, 1.0)
    roots = jnp.sqrt(sums / np.maximum(1.0, sizes))
    return jnp.where(sums > 0, roots, whole)
