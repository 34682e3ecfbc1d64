"""VeLO: a hypernetwork over a per-parameter MLP (Metz et al. 2022)."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.config import require_positive, require_positive_int
from l2o.learned.accumulators import DECAYS, TensorStats, init_stats, update_stats
from l2o.learned.base import (
    LearnedOptimizer,
    Theta,
    require_num_steps,
    require_params,
)
from l2o.learned.features import (
    TRAINING_FRACTIONS,
    fraction_features,
    moment_features,
    second_moment_scales,
)
from l2o.learned.loss_features import (
    NUM_LOSS_FEATURES,
    LossAverages,
    init_loss_averages,
    loss_features,
    update_loss_averages,
)
from l2o.learned.network import (
    dense,
    dense_init,
    lstm_cell,
    lstm_init,
    mlp_init,
    per_parameter_mlp,
)


NUM_FEATURES = (
    3 + 2 * len(DECAYS.momentum) + 3 * len(DECAYS.rms) + 6 * len(DECAYS.factored)
)

# Ranks 0 to 4, counting axes longer than one.
NUM_RANKS = 5
NUM_TENSOR_FEATURES = (
    len(TRAINING_FRACTIONS)
    + NUM_LOSS_FEATURES
    + len(DECAYS.rms)
    + NUM_RANKS
    + 2 * len(DECAYS.momentum)
)
# The loss features of old checkpoints took the horizon to be this.
BUGGED_HORIZON = 10.0


class VeLOState(NamedTuple):
    """State of `VeLO`."""

    step: jax.Array  # shape=(), dtype=jnp.int32: updates made
    num_steps: jax.Array  # shape=(), dtype=jnp.float32
    stats: Any  # a TensorStats per tensor
    hidden: jax.Array  # shape=(tensors, lstm_size)
    cell: jax.Array  # shape=(tensors, lstm_size)
    losses: LossAverages


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

    def __post_init__(self) -> None:
        for name in ("lstm_size", "mixtures", "hidden_size", "hidden_layers"):
            require_positive_int(name, getattr(self, name))
        require_positive("step_mult", self.step_mult)

    @property
    def needs_num_steps(self) -> bool:
        return True

    def init_theta(self, key: jax.Array) -> Theta:
        keys = jax.random.split(key, 7)
        sizes = [NUM_FEATURES, *[self.hidden_size] * self.hidden_layers, 3]
        stored = jax.vmap(lambda k: mlp_init(k, sizes))
        inputs, size = NUM_TENSOR_FEATURES, self.lstm_size
        return {
            "mlps": stored(jax.random.split(keys[0], self.mixtures)),
            "lstm": {
                # The public code makes this layer and discards its output; it is kept
                # so that public weights can be read and written back whole.
                "unused": dense_init(keys[1], inputs, size),
                "mix": dense_init(keys[2], inputs, size),
                "inputs": dense_init(keys[3], inputs, size),
                "cell": lstm_init(keys[4], size, size),
                "controls": dense_init(keys[5], size, self.mixtures),
                "step_size": dense_init(keys[6], size, 1),
            },
            "initial_state": {
                "hidden": jnp.zeros((1, size), jnp.float32),
                "cell": jnp.zeros((1, size), jnp.float32),
            },
        }

    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        require_num_steps(self, num_steps)

        def init(params: optax.Params) -> VeLOState:
            tensors = len(jax.tree.leaves(params))
            start = theta["initial_state"]
            return VeLOState(
                step=jnp.zeros((), jnp.int32),
                num_steps=jnp.array(num_steps, jnp.float32),
                stats=jax.tree.map(lambda p: init_stats(p, DECAYS), params),
                hidden=jnp.tile(start["hidden"], (tensors, 1)),
                cell=jnp.tile(start["cell"], (tensors, 1)),
                losses=init_loss_averages(),
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
            if value is None:
                raise ValueError(
                    "VeLO reads the course of the loss: call "
                    "update(grads, state, params, value=loss), got value=None"
                )
            horizon = state.num_steps
            if self.bugged_loss_features:
                horizon = jnp.full((), BUGGED_HORIZON)
            value = jnp.asarray(value, jnp.float32)
            losses = update_loss_averages(state.losses, value, horizon)
            shared = jnp.concatenate(
                [
                    fraction_features(state.step.astype(jnp.float32) / state.num_steps),
                    loss_features(losses, horizon),
                ]
            )
            leaves, tree = jax.tree.flatten(updates)
            dtypes = [p.dtype for p in tree.flatten_up_to(params)]
            ps = [p.astype(jnp.float32) for p in tree.flatten_up_to(params)]
            gs = [jnp.clip(g.astype(jnp.float32), -1000.0, 1000.0) for g in leaves]
            old = tree.flatten_up_to(state.stats)
            inputs = [
                _tensor_features(p, s, shared) for p, s in zip(ps, old, strict=True)
            ]
            controls, step_sizes, (hidden, cell) = _hypernetwork(
                theta["lstm"], inputs, (state.hidden, state.cell)
            )
            if self.bugged_lstm_state:
                hidden, cell = state.hidden, state.cell
            mixed = _mix(theta["mlps"], controls)
            steps, stats = [], []
            for i, (p, g, s) in enumerate(zip(ps, gs, old, strict=True)):
                layers = jax.tree.map(lambda w, i=i: w[i], mixed)
                step, s = _update_tensor(self, layers, step_sizes[i], g, p, s)
                steps.append(step.astype(dtypes[i]))
                stats.append(s)
            return tree.unflatten(steps), VeLOState(
                step=state.step + 1,
                num_steps=state.num_steps,
                stats=tree.unflatten(stats),
                hidden=hidden,
                cell=cell,
                losses=losses,
            )

        return optax.GradientTransformationExtraArgs(init, update)


def _clip_log_abs(x: jax.Array) -> jax.Array:
    return 0.5 * jnp.clip(jnp.log(1e-8 + jnp.abs(10.0 * x)), -5.0, 5.0)


def _mean(x: jax.Array) -> jax.Array:
    """The mean, 0 of an empty tensor."""
    return jnp.mean(x) if x.size else jnp.zeros((), x.dtype)


def _tensor_features(p: jax.Array, stats: TensorStats, shared: jax.Array) -> jax.Array:
    """The LSTM's inputs for one tensor, `[30]`, from the averages before this step."""
    # In units of the tensor's root mean square. The second moment is scaled by the
    # same, not the squared, factor: a quirk of the public code.
    unit = jax.lax.rsqrt(jnp.maximum(1e-9, _mean(jnp.square(p))))
    momenta = [m * unit for m in stats.momentum]
    rms = [v * unit for v in stats.rms]
    means = [_mean(m) for m in momenta]
    var_m = [
        _mean(jnp.square(m - mean)) for m, mean in zip(momenta, means, strict=True)
    ]
    # Another: the second moment's spread is taken about the mean of each momentum.
    paired = rms * len(means) if len(rms) == 1 else rms
    var_rms = [
        _mean(jnp.square(v - mean)) for v, mean in zip(paired, means, strict=True)
    ]
    rank = int(np.sum(np.array(p.shape) > 1))
    statistics = _clip_log_abs(jnp.stack([*(_mean(v) for v in rms), *var_m, *var_rms]))
    split = len(rms)
    return jnp.concatenate(
        [
            shared,
            statistics[:split],
            jax.nn.one_hot(rank, NUM_RANKS),
            statistics[split:],
        ]
    )


def _hypernetwork(
    layers: Any, inputs: list[jax.Array], state: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """Controls `[tensors, mixtures]`, step sizes `[tensors]`, the LSTM's new state."""
    if not inputs:
        empty = jnp.zeros((0, layers["controls"]["b"].shape[0]))
        return empty, jnp.zeros((0,)), state
    x = jnp.stack(inputs)
    mixed = jnp.max(jax.nn.relu(dense(layers["mix"], x)), axis=0, keepdims=True)
    x = dense(layers["inputs"], x) + mixed
    out, state = lstm_cell(layers["cell"], x, state)
    return (
        dense(layers["controls"], out),
        dense(layers["step_size"], out)[:, 0],
        state,
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


def _update_tensor(
    config: VeLO,
    layers: Any,
    step_size: jax.Array,
    g: jax.Array,
    p: jax.Array,
    stats: TensorStats,
) -> tuple[jax.Array, TensorStats]:
    """The update of one tensor: features and weights in, step and statistics out."""
    stats = update_stats(stats, g, DECAYS)
    f = moment_features(stats, g, diagonal_floor=0.0)
    features = [
        *(g, jnp.clip(g, -0.1, 0.1), p, *f.momentum, *f.rms, *f.momentum_over_rms),
        *(*f.inverse_rms, *f.gradient_over_factored, *f.gradient_over_rms),
        *(*f.row, *f.col, *f.inverse_row, *f.inverse_col, *f.momentum_over_factored),
    ]
    scales = second_moment_scales(features, eps=1e-5)
    direction, magnitude, _ = per_parameter_mlp(layers, features, scales, p.shape)
    unit = jnp.sqrt(_mean(jnp.square(p)) + 1e-9) * (config.step_mult * step_size)
    step = direction * jnp.exp(magnitude * config.exp_mult) * unit
    return -jnp.broadcast_to(step, p.shape), stats
