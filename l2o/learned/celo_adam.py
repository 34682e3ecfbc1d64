"""Celo-Adam: Adam under Celo's learned schedule (Moudgil et al. 2025)."""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive, require_positive_int
from l2o.learned.accumulators import (
    Decays,
    TensorStats,
    clip_gradient,
    init_stats,
    start_correction,
    update_stats,
)
from l2o.learned.base import (
    LearnedOptimizer,
    Theta,
    map_tensors,
    require_num_steps,
    require_params,
)
from l2o.learned.explicit_axes import shardable
from l2o.learned.tensor_lstm import (
    NUM_COURSE_FEATURES,
    TensorLSTMState,
    init_tensor_lstm_state,
    scheduled_rate,
    tensor_lstm_init,
)


ADAM_DECAYS = Decays(momentum=(0.9,), rms=(0.999,), factored=())


class CeloAdamState(NamedTuple):
    """State of `CeloAdam`."""

    lstm: TensorLSTMState  # of one row
    stats: Any  # a TensorStats per tensor: Adam's two averages


@dataclasses.dataclass(frozen=True)
class CeloAdam(LearnedOptimizer):
    r"""Adam, whose learning rate an LSTM sets as training goes on.

    The LSTM is that of `Celo`. With its output z and Adam's averages m and v of decays
    0.9 and 0.999, corrected for their start at zero,

    $$ p \leftarrow p - 10^{-3} \, \tfrac{1}{10} e^{z} \,
       \frac{m}{10^{-8} + \sqrt{v + 10^{-10}}} $$

    Attributes:
        lstm_size: width of the LSTM.
        step_mult: factor of the step.

    Source: Moudgil et al. 2025, "Celo: Training versatile learned optimizers on a
    compute diet", arXiv 2501.12670, and its public code.
    """

    lstm_size: int = 64
    step_mult: float = 1e-3

    needs_value: ClassVar[bool] = True
    inputs: ClassVar[str] = "fraction done, loss"
    source: ClassVar[str] = "Moudgil et al. 2025, arXiv 2501.12670"

    def __post_init__(self) -> None:
        require_positive_int("lstm_size", self.lstm_size)
        require_positive("step_mult", self.step_mult)

    @property
    def needs_num_steps(self) -> bool:
        return True

    def init_theta(self, key: jax.Array) -> Theta:
        heads = {"step_size": 1}
        return tensor_lstm_init(key, NUM_COURSE_FEATURES, self.lstm_size, heads)

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        require_num_steps(self, num_steps)

        def init(params: optax.Params) -> CeloAdamState:
            return CeloAdamState(
                lstm=init_tensor_lstm_state(theta, 1, num_steps),
                stats=jax.tree.map(lambda p: init_stats(p, ADAM_DECAYS), params),
            )

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            *,
            value: jax.Array | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, CeloAdamState]:
            del extra_args
            require_params(self, params)
            factor, lstm = scheduled_rate(self, theta["lstm"], state.lstm, value)
            update_one = functools.partial(
                _update_tensor, self.step_mult * factor, lstm.step
            )
            steps, stats = map_tensors(update_one, updates, params, state.stats)
            return steps, CeloAdamState(lstm=lstm, stats=stats)

        return optax.GradientTransformationExtraArgs(init, update)


def _update_tensor(
    rate: jax.Array,
    count: jax.Array,
    g: jax.Array,
    p: jax.Array,
    stats: TensorStats,
) -> tuple[jax.Array, TensorStats]:
    """The update of one tensor, at update number `count` (from 1)."""
    stats = update_stats(stats, clip_gradient(g), ADAM_DECAYS)
    m = stats.momentum[0] * start_correction(ADAM_DECAYS.momentum[0], count)
    v = stats.rms[0] * start_correction(ADAM_DECAYS.rms[0], count)
    step = m * (rate / (1e-8 + jnp.sqrt(v + 1e-10)))
    return -step.astype(p.dtype), stats
