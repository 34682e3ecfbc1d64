"""Celo: a learned update rule under a learned schedule (Moudgil et al. 2025)."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import optax

from l2o.config import require_positive, require_positive_int, require_range
from l2o.learned.accumulators import (
    DECAYS,
    TensorStats,
    clip_gradient,
    init_stats,
)
from l2o.learned.base import (
    LearnedOptimizer,
    Theta,
    require_num_steps,
    require_params,
)
from l2o.learned.explicit_axes import shardable
from l2o.learned.groups import group_tensors, init_groups, ungroup
from l2o.learned.network import mlp_init
from l2o.learned.per_parameter import move_groups
from l2o.learned.tensor_lstm import (
    NUM_COURSE_FEATURES,
    TensorLSTMState,
    init_tensor_lstm_state,
    scheduled_rate,
    tensor_lstm_init,
)
from l2o.learned.velo_step import NUM_FEATURES, NUM_OUTPUTS, velo_rule


class CeloState(NamedTuple):
    """State of `Celo`."""

    lstm: TensorLSTMState  # of one row
    stats: dict[str, TensorStats]  # by shape, with an axis along its tensors


@dataclasses.dataclass(frozen=True)
class Celo(LearnedOptimizer):
    r"""One per-parameter MLP, whose steps an LSTM scales as training goes on.

    The MLP and its inputs are those of `VeLO`, but one MLP serves all tensors. The LSTM
    reads the fraction of training done and the course of the loss. With the outputs
    (d, s) of the MLP at a parameter and z of the LSTM,

    $$ p \leftarrow p - 10^{-3} \alpha \, \mathrm{rms}(p) \, d \, e^{10^{-3} s} ,
       \qquad \alpha = \tfrac{1}{10} e^{z} $$

    where rms(p) is over the tensor, as it is now.

    It is meta-trained in two phases: first the MLP with $\alpha = 1$, then the LSTM
    under the MLP of the first phase. Theta has one structure in both, so that the
    second begins with what the first has found; in each the part that is not being
    trained is to be left as it is.

    Attributes:
        lstm_size: width of the LSTM.
        hidden_size: width of the per-parameter MLP.
        hidden_layers: number of its hidden layers.
        exp_mult: factor of s.
        step_mult: factor of the step.
        phase: 1 leaves the schedule out; 2 is the optimizer that was published.

    Source: Moudgil et al. 2025, "Celo: Training versatile learned optimizers on a
    compute diet", arXiv 2501.12670, and its public code.
    """

    lstm_size: int = 64
    hidden_size: int = 4
    hidden_layers: int = 2
    exp_mult: float = 1e-3
    step_mult: float = 1e-3
    phase: int = 2

    needs_value: ClassVar[bool] = True
    inputs: ClassVar[str] = "gradient, its averages, parameter, fraction done, loss"
    source: ClassVar[str] = "Moudgil et al. 2025, arXiv 2501.12670"

    def __post_init__(self) -> None:
        for name in ("lstm_size", "hidden_size", "hidden_layers"):
            require_positive_int(name, getattr(self, name))
        require_range("exp_mult", self.exp_mult, 0.0, 1e3)
        require_positive("step_mult", self.step_mult)
        if type(self.phase) is not int or self.phase not in (1, 2):
            raise ValueError(f"phase must be 1 or 2, got {self.phase!r}")

    @property
    def needs_num_steps(self) -> bool:
        return True

    def init_theta(self, key: jax.Array) -> Theta:
        mlp_key, lstm_key = jax.random.split(key)
        sizes = [NUM_FEATURES, *[self.hidden_size] * self.hidden_layers, NUM_OUTPUTS]
        # The public code mixes MLPs as VeLO does, with a softmax of the controls. Of
        # one MLP the coefficient is 1: these weights have no effect, and are kept so
        # that public ones can be read and written back whole.
        heads = {"controls": 1, "step_size": 1}
        return {
            "mlp": mlp_init(mlp_key, sizes),
            **tensor_lstm_init(lstm_key, NUM_COURSE_FEATURES, self.lstm_size, heads),
        }

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        require_num_steps(self, num_steps)

        def init(params: optax.Params) -> CeloState:
            return CeloState(
                lstm=init_tensor_lstm_state(theta, 1, num_steps),
                stats=init_groups(params, lambda p: init_stats(p, DECAYS)),
            )

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            *,
            value: jax.Array | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, CeloState]:
            del extra_args
            require_params(self, params)
            factor, lstm = scheduled_rate(self, theta["lstm"], state.lstm, value)
            rate = self.step_mult * (factor if self.phase == 2 else 1.0)
            rule = velo_rule(
                lambda own: theta["mlp"], lambda own: rate, exp_mult=self.exp_mult
            )
            groups = group_tensors(updates, params, clip_gradient)
            steps, stats = move_groups(rule, groups, state.stats, DECAYS)
            return ungroup(updates, groups, steps), CeloState(lstm=lstm, stats=stats)

        return optax.GradientTransformationExtraArgs(init, update)
