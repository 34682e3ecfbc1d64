"""A hypernetwork with an LSTM per tensor over orthogonalised, relative steps."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_count, require_positive_int, require_range
from l2o.learned.accumulators import TensorStats, init_stats
from l2o.learned.base import (
    LearnedOptimizer,
    Theta,
    require_num_steps,
    require_params,
    require_value,
)
from l2o.learned.explicit_axes import shardable
from l2o.learned.groups import group_tensors, init_groups, ungroup
from l2o.learned.loss_features import NUM_LOSS_FEATURES, loss_fall
from l2o.learned.muon_average import (
    Averages,
    average_controls,
    average_init,
    average_steps,
    init_averages,
    straightness,
)
from l2o.learned.muon_control import (
    NUM_CONTROLS,
    control_init,
    fall_init,
    fall_rates,
    make_controls,
    num_features,
    plan_features,
)
from l2o.learned.muon_step import (
    MUON_DECAYS,
    NUM_INPUTS,
    matrices,
    muon_steps,
    read_tensors,
    within_reach,
)
from l2o.learned.network import dense, mlp_init, zero_layer
from l2o.learned.relative_mlp import initial_rms
from l2o.learned.tensor_lstm import (
    TensorLSTMState,
    init_tensor_lstm_state,
    move_lstm,
    observe,
    tensor_lstm_init,
)


class MuonLSTMState(NamedTuple):
    """State of `MuonLSTM`."""

    lstm: TensorLSTMState  # a row per tensor
    unit: jax.Array  # shape=(tensors,): of length, as `MuonLSTM` has them
    stats: dict[str, TensorStats]  # by shape, with an axis along its tensors
    averages: Averages | tuple[()]  # of iterates, where the architecture has some


@dataclasses.dataclass(frozen=True)
class MuonLSTM(LearnedOptimizer):
    r"""An LSTM per tensor writes the controls and the MLP of each step.

    `l2o.learned.muon_step` has the step. The LSTM reads the features of its tensor, the
    fraction of training that is done and the course of the loss; tensors exchange a
    maximum over a linear map of these, as in `VeLO`. With its output h,

    $$ y = c + W h, \qquad \log \lambda = \min(0, 4 (y_1 + a \cdot z)), \quad
       \log \delta = \min(0, 4 y_2), \qquad
       \mathrm{MLP} = \sum_k \left(\tfrac1K + (V h)_k\right) \mathrm{MLP}_k $$

    with one c and one a for matrices and others for other tensors, and K stored MLPs.

    As theta is drawn, W, V and the last layers of the MLPs are zero: it begins where
    `MuonMLP` begins. With `averages` it does not: rates are also multiplied by powers
    of how straight the tensor's way is, and parameters are held where
    `l2o.learned.muon_average` says. Nor with `fall`: rates are multiplied by a power of
    how far the loss has fallen.

    Attributes:
        lstm_size: width of the LSTM.
        mixtures: K.
        hidden_size: width of the per-parameter MLPs.
        hidden_layers: number of their hidden layers.
        reach: the share of the first loss that steps of one unit must be able to
            change; where they cannot, all units are made longer at the first step, at
            most 100 times (`l2o.learned.muon_step.within_reach`). At 0 units are the
            root mean squares at initialisation.
        averages: how many averages of its iterates every tensor moves along with, and
            reads how straight its way is from (`l2o.learned.muon_average`); each takes
            the memory of one more momentum.
        fall: whether rates follow how far the loss has fallen below its average over
            the training (`l2o.learned.loss_features.loss_fall`), as they may where it
            nears 0.

    Source: this project; hypernetwork, mixtures and loss features after VeLO (Metz et
    al. 2022, arXiv 2211.09760), orthogonalised momentum after Muon (Jordan et al.
    2024).
    """

    lstm_size: int = 16
    mixtures: int = 4
    hidden_size: int = 4
    hidden_layers: int = 1
    reach: float = 0.0
    averages: int = 0
    fall: bool = False

    needs_value: ClassVar[bool] = True
    inputs: ClassVar[str] = "gradient, its averages, parameter, fraction done, loss"
    source: ClassVar[str] = "this project"

    def __post_init__(self) -> None:
        for name in ("lstm_size", "mixtures", "hidden_size", "hidden_layers"):
            require_positive_int(name, getattr(self, name))
        require_range("reach", self.reach, 0.0, 1.0)
        require_count("averages", self.averages)

    @property
    def needs_num_steps(self) -> bool:
        return True

    def init_theta(self, key: jax.Array) -> Theta:
        mlps_key, lstm_key = jax.random.split(key)
        features = num_features(timed=True) + NUM_LOSS_FEATURES
        sizes = [NUM_INPUTS, *[self.hidden_size] * self.hidden_layers, 1]
        *inner, last = jax.vmap(lambda k: mlp_init(k, sizes))(
            jax.random.split(mlps_key, self.mixtures)
        )
        heads = {"controls": NUM_CONTROLS, "mixture": self.mixtures}
        if self.averages:
            heads["averages"] = 2 * self.averages
        drawn = tensor_lstm_init(lstm_key, features, self.lstm_size, heads)
        layers = {k: v for k, v in drawn["lstm"].items() if k != "unused"}
        more = {}
        if self.averages:
            more["averages"] = average_init(self.averages, num_features(timed=True))
        if self.fall:
            more["fall"] = fall_init()
        return {
            "mlps": [*inner, zero_layer(last)],
            "lstm": layers | {name: zero_layer(layers[name]) for name in heads},
            "initial_state": drawn["initial_state"],
            **control_init(timed=True, orthogonalize=True),
            **more,
        }

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        require_num_steps(self, num_steps)

        def init(params: optax.Params) -> MuonLSTMState:
            rows = len(jax.tree.leaves(params))
            return MuonLSTMState(
                lstm=init_tensor_lstm_state(theta, rows, num_steps),
                unit=initial_rms(params),
                stats=init_groups(params, lambda p: init_stats(p, MUON_DECAYS)),
                averages=init_averages(params, rows, self.averages)
                if self.averages
                else (),
            )

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            *,
            value: jax.Array | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, MuonLSTMState]:
            del extra_args
            require_params(self, params)
            tensors = group_tensors(updates, params)
            read = read_tensors(tensors, state.stats, state.unit, state.lstm.step)
            unit = state.unit
            if self.reach:
                require_value(self, value)
                loss = jnp.asarray(value, jnp.float32)
                longer = within_reach(unit, tensors, read, loss, self.reach)
                # The first gradient is no function of theta. At other steps it is of
                # no use, and the derivative of a root at zero would make it NaN.
                longer = jax.lax.stop_gradient(longer)
                unit = jnp.where(state.lstm.step == 0, longer, unit)
            plan = plan_features(state.lstm.step, state.lstm.num_steps)
            features = read.with_shared(plan)
            course, lstm = observe(self, state.lstm, value, state.lstm.num_steps)
            losses = course[-NUM_LOSS_FEATURES:]
            losses = jnp.broadcast_to(losses, (len(features), NUM_LOSS_FEATURES))
            inputs = jnp.concatenate([features, losses], axis=1)
            out, lstm = move_lstm(theta["lstm"], inputs, lstm)
            shares = 1 / self.mixtures + dense(theta["lstm"]["mixture"], out)
            change = dense(theta["lstm"]["controls"], out)
            averaging = None
            if self.averages:
                averaging = average_controls(
                    theta["averages"],
                    features,
                    straightness(tensors, state.averages),
                    matrices(params),
                    dense(theta["lstm"]["averages"], out),
                )
                change = change.at[:, 0].add(averaging.rate)
            if self.fall:
                fall = loss_fall(lstm.losses, lstm.num_steps)
                rates = fall_rates(theta["fall"], fall, matrices(params))
                change = change.at[:, 0].add(rates)
            controls = make_controls(
                theta,
                features,
                matrices(params),
                change,
                mlp=jax.tree.map(
                    lambda stored: jnp.tensordot(shares, stored, 1), theta["mlps"]
                ),
            )
            steps = muon_steps(
                lambda own: own, tensors, read, controls, unit, orthogonalize=True
            )
            averages = state.averages
            if averaging is not None:
                steps, averages = average_steps(
                    tensors, steps, averages, averaging, state.lstm.step
                )
            return (
                ungroup(updates, tensors, steps),
                MuonLSTMState(lstm, unit, read.stats, averages),
            )

        return optax.GradientTransformationExtraArgs(init, update)
