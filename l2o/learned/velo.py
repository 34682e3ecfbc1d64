"""VeLO: a hypernetwork over a per-parameter MLP (Metz et al. 2022)."""

import dataclasses
import functools
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
    map_tensors,
    require_num_steps,
    require_params,
)
from l2o.learned.network import dense, mlp_init
from l2o.learned.tensor_lstm import (
    NUM_COURSE_FEATURES,
    TensorLSTMState,
    init_tensor_lstm_state,
    move_lstm,
    observe,
    tensor_lstm_init,
)
from l2o.learned.velo_step import NUM_FEATURES, NUM_OUTPUTS, mean, velo_step


# Ranks 0 to 4, counting axes longer than one.
NUM_RANKS = 5
NUM_TENSOR_FEATURES = (
    NUM_COURSE_FEATURES + len(DECAYS.rms) + NUM_RANKS + 2 * len(DECAYS.momentum)
)
# The loss features of old checkpoints took the horizon to be this.
BUGGED_HORIZON = 10.0


class VeLOState(NamedTuple):
    """State of `VeLO`."""

    lstm: TensorLSTMState  # a row per tensor
    stats: Any  # a TensorStats per tensor


@dataclasses.dataclass(frozen=True)
class VeLO(LearnedOptimizer):
    r"""A per-tensor LSTM writes the weights of a per-parameter MLP.

    At every step an LSTM reads, for each tensor, statistics of its gradient averages,
    its rank, the course of the loss and the fraction of training done; tensors exchange
    a maximum over a linear map of these. Its outputs are `mixtures` coefficients
    $c_k$, which mix stored MLPs into the tensor's own,
    $w = 100\,\tfrac1K \sum_k c_k W_k$, and a step multiplier $\alpha$. With the outputs
    (d, s) of the MLP at a parameter,

    $$ p \leftarrow p - 10^{-3} \alpha \, \mathrm{rms}(p) \, d \, e^{10^{-3} s} $$

    where rms(p) is over the tensor, as it is now. There is no learning rate and no
    schedule to choose.

    Attributes:
        lstm_size: width of the LSTM; 512 in the released VeLO.
        mixtures: number of stored MLPs; 256 in the released VeLO.
        hidden_size: width of the per-parameter MLP.
        hidden_layers: number of its hidden layers.
        exp_mult: factor of s.
        step_mult: factor of the step.
        bugged_lstm_state: never advance the LSTM's state, as some public checkpoints
            were trained.
        bugged_loss_features: give the loss averages half-lives of 10 steps whatever the
            horizon, likewise.

    Source: Metz et al. 2022, "VeLO: Training versatile learned optimizers by scaling
    up", arXiv 2211.09760; class HyperV2 of its public code, quirks included.
    """

    lstm_size: int = 64
    mixtures: int = 32
    hidden_size: int = 4
    hidden_layers: int = 2
    exp_mult: float = 1e-3
    step_mult: float = 1e-3
    bugged_lstm_state: bool = False
    bugged_loss_features: bool = False

    needs_value: ClassVar[bool] = True
    inputs: ClassVar[str] = "gradient, its averages, parameter, fraction done, loss"
    source: ClassVar[str] = "Metz et al. 2022, arXiv 2211.09760"

    def __post_init__(self) -> None:
        for name in ("lstm_size", "mixtures", "hidden_size", "hidden_layers"):
            require_positive_int(name, getattr(self, name))
        require_positive("step_mult", self.step_mult)

    @property
    def needs_num_steps(self) -> bool:
        return True

    def init_theta(self, key: jax.Array) -> Theta:
        mlps_key, lstm_key = jax.random.split(key)
        sizes = [NUM_FEATURES, *[self.hidden_size] * self.hidden_layers, NUM_OUTPUTS]
        stored = jax.vmap(lambda k: mlp_init(k, sizes))
        heads = {"controls": self.mixtures, "step_size": 1}
        return {
            "mlps": stored(jax.random.split(mlps_key, self.mixtures)),
            **tensor_lstm_init(lstm_key, NUM_TENSOR_FEATURES, self.lstm_size, heads),
        }

    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        require_num_steps(self, num_steps)

        def init(params: optax.Params) -> VeLOState:
            rows = len(jax.tree.leaves(params))
            return VeLOState(
                lstm=init_tensor_lstm_state(theta, rows, num_steps),
                stats=jax.tree.map(lambda p: init_stats(p, DECAYS), params),
            )

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            *,
            value: jax.Array | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, VeLOState]:
            del extra_args
            require_params(self, params)
            horizon = state.lstm.num_steps
            if self.bugged_loss_features:
                horizon = jnp.full((), BUGGED_HORIZON)
            course, lstm = observe(self, state.lstm, value, horizon)
            tree = jax.tree.structure(updates)
            inputs = [
                _tensor_features(p.astype(jnp.float32), s, course)
                for p, s in zip(
                    tree.flatten_up_to(params),
                    tree.flatten_up_to(state.stats),
                    strict=True,
                )
            ]
            rows = jnp.stack(inputs) if inputs else jnp.zeros((0, NUM_TENSOR_FEATURES))
            out, lstm = move_lstm(theta["lstm"], rows, lstm)
            if self.bugged_lstm_state:
                lstm = lstm._replace(hidden=state.lstm.hidden, cell=state.lstm.cell)
            mixed = _mix(theta["mlps"], dense(theta["lstm"]["controls"], out))
            rates = self.step_mult * dense(theta["lstm"]["step_size"], out)[:, 0]
            mlps = [
                jax.tree.map(lambda w, i=i: w[i], mixed) for i in range(len(inputs))
            ]
            steps, stats = map_tensors(
                functools.partial(velo_step, exp_mult=self.exp_mult),
                updates,
                params,
                state.stats,
                tree.unflatten(mlps),
                tree.unflatten(list(rates)),
            )
            return steps, VeLOState(lstm=lstm, stats=stats)

        return optax.GradientTransformationExtraArgs(init, update)


def _clip_log_abs(x: jax.Array) -> jax.Array:
    return 0.5 * jnp.clip(jnp.log(1e-8 + jnp.abs(10.0 * x)), -5.0, 5.0)


def _tensor_features(p: jax.Array, stats: TensorStats, shared: jax.Array) -> jax.Array:
    """The LSTM's inputs for one tensor, `[30]`, from the averages before this step."""
    # In units of the tensor's root mean square. The second moment is scaled by the
    # same, not the squared, factor: a quirk of the public code.
    unit = jax.lax.rsqrt(jnp.maximum(1e-9, mean(jnp.square(p))))
    momenta = [m * unit for m in stats.momentum]
    rms = [v * unit for v in stats.rms]
    means = [mean(m) for m in momenta]
    var_m = [
        mean(jnp.square(m - center)) for m, center in zip(momenta, means, strict=True)
    ]
    # Another: the second moment's spread is taken about the mean of each momentum.
    paired = rms * len(means) if len(rms) == 1 else rms
    var_rms = [
        mean(jnp.square(v - center)) for v, center in zip(paired, means, strict=True)
    ]
    rank = int(np.sum(np.array(p.shape) > 1))
    statistics = _clip_log_abs(jnp.stack([*(mean(v) for v in rms), *var_m, *var_rms]))
    split = len(rms)
    return jnp.concatenate(
        [
            shared,
            statistics[:split],
            jax.nn.one_hot(rank, NUM_RANKS),
            statistics[split:],
        ]
    )


def _mix(mlps: Any, controls: jax.Array) -> Any:
    """`100 mean_k(c_k W_k)` of every stored array: `[tensors, ...]`."""
    factors = controls * (100.0 / controls.shape[1])
    # One product for all layers: many tiny ones cost more to launch than to compute.
    leaves, tree = jax.tree.flatten(mlps)
    flat = jnp.concatenate([w.reshape(w.shape[0], -1) for w in leaves], axis=1)
    products = factors @ flat
    cuts = np.cumsum([w[0].size for w in leaves])[:-1]
    parts = jnp.split(products, cuts, axis=1)
    return tree.unflatten(
        [
            part.reshape(part.shape[0], *w.shape[1:])
            for part, w in zip(parts, leaves, strict=True)
        ]
    )
