"""A per-parameter MLP whose relative steps a small network sizes, tensor by tensor."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive_int
from l2o.learned.accumulators import TensorStats, init_stats
from l2o.learned.base import (
    LearnedOptimizer,
    Theta,
    require_num_steps,
    require_params,
)
from l2o.learned.explicit_axes import shardable
from l2o.learned.groups import group_tensors, init_groups, ungroup
from l2o.learned.muon_control import (
    NUM_CONTROLS,
    control_init,
    make_controls,
    num_features,
    time_features,
)
from l2o.learned.muon_step import (
    MUON_DECAYS,
    NUM_INPUTS,
    matrices,
    muon_steps,
    read_tensors,
)
from l2o.learned.network import Layers, dense, mlp_init, zero_layer
from l2o.learned.relative_mlp import initial_rms


class MuonMLPState(NamedTuple):
    """State of `MuonMLP`."""

    step: jax.Array  # shape=(), dtype=jnp.int32: updates made
    num_steps: jax.Array  # shape=(), dtype=jnp.float32; 0 where it plans for no end
    unit: jax.Array  # shape=(tensors,): root mean squares at initialisation
    stats: dict[str, TensorStats]  # by shape, with an axis along its tensors


@dataclasses.dataclass(frozen=True)
class MuonMLP(LearnedOptimizer):
    r"""A per-parameter MLP under orthogonalisation, sized by a network per tensor.

    `l2o.learned.muon_step` has the step. With the features z of a tensor and of time,
    its controls are

    $$ y = c + W_2 \tanh(W_1 z + b), \qquad
       \log \lambda = \min(0, 4 (y_1 + a \cdot z)), \quad
       \log \delta = \min(0, 4 y_2) $$

    with one c and one a for matrices, and others for other tensors. The network also
    adds to the biases of the MLP's first layer.

    As theta is drawn, $W_2$ is zero: it is Muon with Nesterov's momentum for matrices,
    Adam's direction for other tensors, both in units of the initial weights, and where
    it is `timed` under a warm-up and a nearly linear decay to zero. So meta-training
    begins at a sound optimizer.

    Attributes:
        hidden_size: width of the per-parameter MLP.
        hidden_layers: number of its hidden layers.
        control_size: width of the network of tensors.
        timed: whether it is told the number of steps, and plans by it. Otherwise the
            size of its steps has no plan: compose it with a schedule that begins at 1
            and falls.
        orthogonalize: whether matrices are moved along orthogonalised directions.
            Without that a step has no products of matrices, and as theta is drawn they
            are moved along Adam's direction too.

    Source: this project; orthogonalised momentum after Muon (Jordan et al. 2024) and
    Celo2 (arXiv 2602.19142), control by tensor after VeLO (arXiv 2211.09760).
    """

    hidden_size: int = 4
    hidden_layers: int = 1
    control_size: int = 8
    timed: bool = True
    orthogonalize: bool = True

    needs_value: ClassVar[bool] = False
    inputs: ClassVar[str] = "gradient, its averages, parameter, fraction done"
    source: ClassVar[str] = "this project"

    def __post_init__(self) -> None:
        for name in ("hidden_size", "hidden_layers", "control_size"):
            require_positive_int(name, getattr(self, name))

    @property
    def needs_num_steps(self) -> bool:
        return self.timed

    def init_theta(self, key: jax.Array) -> Theta:
        mlp_key, control_key = jax.random.split(key)
        controls = NUM_CONTROLS + self.hidden_size
        *inner, last = mlp_init(
            mlp_key, [NUM_INPUTS, *[self.hidden_size] * self.hidden_layers, 1]
        )
        hidden, heads = mlp_init(
            control_key, [num_features(self.timed), self.control_size, controls]
        )
        return {
            "mlp": [*inner, zero_layer(last)],
            "hidden": hidden,
            "controls": zero_layer(heads),
            **control_init(self.timed, self.orthogonalize),
        }

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        require_num_steps(self, num_steps)
        first, *others = theta["mlp"]

        def layers(biases: jax.Array) -> Layers:
            return [first | {"b": first["b"] + biases}, *others]

        def init(params: optax.Params) -> MuonMLPState:
            return MuonMLPState(
                step=jnp.zeros((), jnp.int32),
                num_steps=jnp.array(num_steps if self.timed else 0, jnp.float32),
                unit=initial_rms(params),
                stats=init_groups(params, lambda p: init_stats(p, MUON_DECAYS)),
            )

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, MuonMLPState]:
            del extra_args
            require_params(self, params)
            tensors = group_tensors(updates, params)
            read = read_tensors(tensors, state.stats, state.unit, state.step)
            time = time_features(state.step, state.num_steps, self.timed)
            features = read.with_shared(time)
            hidden = jnp.tanh(dense(theta["hidden"], features))
            change = dense(theta["controls"], hidden)
            controls = make_controls(
                theta,
                features,
                matrices(params),
                change[:, :NUM_CONTROLS],
                mlp=change[:, NUM_CONTROLS:],
            )
            steps = muon_steps(
                layers, tensors, read, controls, state.unit, self.orthogonalize
            )
            return (
                ungroup(updates, tensors, steps),
                state._replace(step=state.step + 1, stats=read.stats),
            )

        return optax.GradientTransformationExtraArgs(init, update)
