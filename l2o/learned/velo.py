"""VeLO: a hypernetwork over a per-parameter MLP (Metz et al. 2022)."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.config import require_positive, require_positive_int, require_range
from l2o.learned import groups
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
from l2o.learned.groups import (
    Group,
    group_tensors,
    in_tree_order,
    init_groups,
    ungroup,
)
from l2o.learned.network import dense, mlp_init
from l2o.learned.per_parameter import move_groups
from l2o.learned.tensor_lstm import (
    NUM_COURSE_FEATURES,
    TensorLSTMState,
    init_tensor_lstm_state,
    move_lstm,
    observe,
    tensor_lstm_init,
)
from l2o.learned.velo_step import NUM_FEATURES, NUM_OUTPUTS, velo_rule


# Ranks 0 to 4, counting axes longer than one.
NUM_RANKS = 5
NUM_OWN_FEATURES = len(DECAYS.rms) + NUM_RANKS + 2 * len(DECAYS.momentum)
NUM_TENSOR_FEATURES = NUM_COURSE_FEATURES + NUM_OWN_FEATURES
# The loss features of old checkpoints took the horizon to be this.
BUGGED_HORIZON = 10.0


class VeLOState(NamedTuple):
    """State of `VeLO`."""

    lstm: TensorLSTMState  # a row per tensor
    stats: dict[str, TensorStats]  # by shape, with an axis along its tensors


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
        require_range("exp_mult", self.exp_mult, 0.0, 1e3)

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

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        require_num_steps(self, num_steps)

        def init(params: optax.Params) -> VeLOState:
            rows = len(jax.tree.leaves(params))
            return VeLOState(
                lstm=init_tensor_lstm_state(theta, rows, num_steps),
                stats=init_groups(params, lambda p: init_stats(p, DECAYS)),
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
                horizon = jnp.full((), BUGGED_HORIZON, jnp.float32)
            course, lstm = observe(self, state.lstm, value, horizon)
            tensors = group_tensors(updates, params)
            read = [_tensor_features(g, state.stats[g.name]) for g in tensors]
            none = jnp.zeros((0, NUM_OWN_FEATURES), jnp.float32)
            of_tensors = in_tree_order(tensors, [none, *read])
            rows = of_tensors.shape[0]
            shared = jnp.broadcast_to(course, (rows, NUM_COURSE_FEATURES))
            inputs = jnp.concatenate([shared, of_tensors], axis=1)
            # The zero makes the new statistics wait for the last use of the old ones.
            # Else XLA might write them first, and so keeps a copy of the old.
            total = jnp.sum(of_tensors)
            zero = jnp.where(jnp.isfinite(total), 0.0 * total, 0.0)
            tensors = group_tensors(updates, params, lambda g: clip_gradient(g) + zero)
            out, lstm = move_lstm(theta["lstm"], inputs, lstm)
            if self.bugged_lstm_state:
                lstm = lstm._replace(hidden=state.lstm.hidden, cell=state.lstm.cell)
            mixed = _mix(theta["mlps"], dense(theta["lstm"]["controls"], out))
            rates = self.step_mult * dense(theta["lstm"]["step_size"], out)[:, 0]
            rule = velo_rule(
                lambda own: own["mlp"], lambda own: own["rate"], exp_mult=self.exp_mult
            )
            own = {"mlp": mixed, "rate": rates}
            steps, stats = move_groups(rule, tensors, state.stats, DECAYS, own)
            return ungroup(updates, tensors, steps), VeLOState(lstm=lstm, stats=stats)

        return optax.GradientTransformationExtraArgs(init, update)


def _clip_log_abs(x: jax.Array) -> jax.Array:
    return 0.5 * jnp.clip(jnp.log(1e-8 + jnp.abs(10.0 * x)), -5.0, 5.0)


def _tensor_features(group: Group, stats: TensorStats) -> jax.Array:
    """What the LSTM reads of a group's tensors, `[n, 12]`, before this step."""
    axes = int(np.sum(np.array(group.shape) > 1))
    rank = jax.nn.one_hot(axes, NUM_RANKS, dtype=jnp.float32)

    def one(stats: TensorStats, square: jax.Array) -> jax.Array:
        # In units of the tensor's root mean square. The second moment is scaled by the
        # same, not the squared, factor: a quirk of the public code.
        unit = jax.lax.rsqrt(jnp.maximum(1e-9, square))
        means = [_mean(m) for m in stats.momentum]
        var_m = [_variance(m, c) for m, c in zip(stats.momentum, means, strict=True)]
        # Another: the second moment's spread is taken about the mean of each momentum.
        # It is the spread about its own mean, and the square of that mean's distance.
        (v,) = stats.rms
        mean_rms = _mean(v)
        spread = _variance(v, mean_rms)
        var_rms = [spread + jnp.square(mean_rms - c) for c in means]
        variances = jnp.stack([*var_m, *var_rms])
        return jnp.concatenate(
            [
                _clip_log_abs(mean_rms * unit)[None],
                rank,
                _clip_log_abs(variances * unit * unit),
            ]
        )

    return jax.vmap(one)(stats, group.mean_squares())


def _mean(x: jax.Array) -> jax.Array:
    """The mean, 0 of an empty tensor."""
    return jnp.sum(x) / max(1, x.size)


def _variance(x: jax.Array, center: jax.Array) -> jax.Array:
    """The variance of a tensor whose mean is `center`."""
    if x.size <= groups.BATCHED:
        return _mean(jnp.square(x - center))
    # About one of its entries, so that it need not wait for the mean: exact where all
    # entries are nearly the same, which the mean of squares less a square is not.
    entry = x.reshape(-1)[0]
    about = _mean(jnp.square(x - entry)) - jnp.square(center - entry)
    return jnp.maximum(about, 0.0)


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
