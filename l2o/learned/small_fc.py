"""A per-parameter MLP on gradient statistics (Metz et al. 2022)."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive, require_positive_int, require_range
from l2o.learned.accumulators import Decays, TensorStats, init_stats
from l2o.learned.base import LearnedOptimizer, Theta, require_params
from l2o.learned.explicit_axes import shardable
from l2o.learned.features import (
    STEP_TIMESCALES,
    small_fc_inputs,
    step_features,
)
from l2o.learned.groups import group_tensors, init_groups, ungroup
from l2o.learned.network import mlp_init
from l2o.learned.per_parameter import (
    PerParameterRule,
    move_groups,
    with_constant_inputs,
)


class SmallFCState(NamedTuple):
    """State of `SmallFC`."""

    step: jax.Array  # shape=(), dtype=jnp.int32: updates made
    stats: dict[str, TensorStats]  # by shape, with an axis along its tensors


@dataclasses.dataclass(frozen=True)
class SmallFC(LearnedOptimizer):
    r"""One small MLP, the same for every parameter.

    Its inputs at a parameter are the gradient g, the parameter p, momenta m_i, a second
    moment v, Adafactor's factored moments and the quotients of these, each divided by
    its root mean square over the tensor, and features of the step count. With outputs
    (d, s),

    $$ p \leftarrow p - \lambda_1 \, d \, e^{\lambda_2 s} $$

    where $\lambda_1$ = `step_mult` and $\lambda_2$ = `exp_mult`. Theta holds the MLP
    and an offset to each decay rate. The defaults are the published `small_fc_lopt`.

    Attributes:
        hidden_size: width of the hidden layers.
        hidden_layers: number of hidden layers.
        momentum_decays: initial decay rates of the momenta.
        rms_decays: initial decay rates of the second moments.
        factored_decays: initial decay rates of the factored second moments.
        step_mult: $\lambda_1$.
        exp_mult: $\lambda_2$.

    Source: Metz et al. 2022, "Practical tradeoffs between memory, compute, and
    performance in learned optimizers", arXiv 2203.11860.
    """

    hidden_size: int = 4
    hidden_layers: int = 2
    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    rms_decays: tuple[float, ...] = (0.999,)
    factored_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    step_mult: float = 1e-3
    exp_mult: float = 1e-3

    needs_value: ClassVar[bool] = False
    inputs: ClassVar[str] = "gradient, its averages, parameter, step count"
    source: ClassVar[str] = "Metz et al. 2022, arXiv 2203.11860"

    def __post_init__(self) -> None:
        require_positive_int("hidden_size", self.hidden_size)
        require_positive_int("hidden_layers", self.hidden_layers)
        require_positive("step_mult", self.step_mult)
        require_range("exp_mult", self.exp_mult, 0.0, 1e3)
        for name in ("momentum_decays", "rms_decays", "factored_decays"):
            for decay in getattr(self, name):
                require_range(name, decay, 0.0, 1.0 - 1e-9)
        if len(self.rms_decays) not in (1, len(self.momentum_decays)):
            raise ValueError(
                "rms_decays must be one, or as many as momentum_decays, got "
                f"{len(self.rms_decays)} and {len(self.momentum_decays)}"
            )
        if len(self.factored_decays) != len(self.momentum_decays):
            raise ValueError(
                "factored_decays must be as many as momentum_decays, got "
                f"{len(self.factored_decays)} and {len(self.momentum_decays)}"
            )

    @property
    def needs_num_steps(self) -> bool:
        return False

    @property
    def num_features(self) -> int:
        """Number of inputs of the MLP."""
        momenta, rms, factored = map(
            len, (self.momentum_decays, self.rms_decays, self.factored_decays)
        )
        return 2 + 2 * momenta + 2 * rms + 6 * factored + len(STEP_TIMESCALES)

    def init_theta(self, key: jax.Array) -> Theta:
        sizes = [self.num_features, *[self.hidden_size] * self.hidden_layers, 2]
        return {
            "mlp": mlp_init(key, sizes),
            "momentum_decays": jnp.zeros((len(self.momentum_decays),), jnp.float32),
            "rms_decays": jnp.zeros((len(self.rms_decays),), jnp.float32),
            "factored_decays": jnp.zeros((len(self.factored_decays),), jnp.float32),
        }

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        del num_steps  # It counts steps and does not plan for an end.
        decays = Decays(
            momentum=_learned_decays(self.momentum_decays, theta["momentum_decays"]),
            rms=_learned_decays(self.rms_decays, theta["rms_decays"]),
            factored=_learned_decays(self.factored_decays, theta["factored_decays"]),
        )

        def init(params: optax.Params) -> SmallFCState:
            return SmallFCState(
                step=jnp.zeros((), jnp.int32),
                stats=init_groups(params, lambda p: init_stats(p, decays)),
            )

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, SmallFCState]:
            del extra_args
            require_params(self, params)
            # Time is no statistic of a tensor: it enters as it is.
            mlp = with_constant_inputs(theta["mlp"], step_features(state.step))
            rule = PerParameterRule(
                features=small_fc_inputs,
                layers=lambda own: mlp,
                finish=self._finish,
                eps=1e-5,
            )
            groups = group_tensors(updates, params)
            steps, stats = move_groups(rule, groups, state.stats, decays)
            return (
                ungroup(updates, groups, steps),
                SmallFCState(step=state.step + 1, stats=stats),
            )

        return optax.GradientTransformationExtraArgs(init, update)

    def _finish(
        self, outputs: list[jax.Array], p: jax.Array, square: jax.Array, own: Any
    ) -> jax.Array:
        del p, square, own
        direction, magnitude = outputs
        return -self.step_mult * direction * jnp.exp(self.exp_mult * magnitude)


def _learned_decays(initial: tuple[float, ...], offset: jax.Array) -> list[jax.Array]:
    """Decay rates moved by `offset` in a tenth of log(1 - decay)."""
    return [
        1.0 - jnp.exp(math.log(1.0 - d) + 10.0 * offset[i])
        for i, d in enumerate(initial)
    ]
