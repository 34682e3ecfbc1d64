"""Celo2: a per-parameter MLP with orthogonalised steps of unit size."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive, require_positive_int
from l2o.learned.accumulators import (
    DECAYS,
    Decays,
    Readings,
    TensorStats,
    clip_gradient,
    init_stats,
)
from l2o.learned.base import LearnedOptimizer, Theta, require_params
from l2o.learned.explicit_axes import shardable
from l2o.learned.features import Feature, root_scales, velo_inputs
from l2o.learned.groups import Group, group_tensors, init_groups, ungroup
from l2o.learned.network import Layers, mlp_init
from l2o.learned.per_parameter import (
    PerParameterRule,
    move_stats,
    per_parameter_steps,
    read_group,
)
from l2o.learned.velo_step import NUM_FEATURES, NUM_OUTPUTS


MLP_DECAYS = DECAYS._replace(rms=(0.95,))
ADAM_DECAYS = Decays(momentum=(0.9,), rms=(0.95,), factored=())

# Tensors without rows and columns do without the last five groups of features.
NUM_FEATURES_WITHOUT_ROWS = NUM_FEATURES - 5 * len(DECAYS.factored)
# Under the root mean squares, of inputs and of the output.
NORMALIZER_EPS = 1e-9
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class Celo2State(NamedTuple):
    """State of `Celo2`."""

    # By shape, with an axis along its tensors; where Adam is used, its two averages.
    stats: dict[str, TensorStats]


@dataclasses.dataclass(frozen=True)
class Celo2(LearnedOptimizer):
    r"""One per-parameter MLP, whose output over a matrix becomes orthogonal.

    The MLP has the inputs of `VeLO`, and its first output D over a matrix is the
    direction. A tensor of more axes is a stack of matrices over its last two: inputs
    are normalised over each, not over the tensor. With O(D) the nearest matrix of
    orthonormal rows or columns, to which Newton-Schulz iterations come roughly,

    $$ P \leftarrow P - \lambda \, \frac{O(D)}{\mathrm{rms}(O(D))} $$

    Scalars and vectors are moved by Adam, with decays 0.9 and 0.95:

    $$ p \leftarrow p - 20 \lambda \, \frac{m}{\sqrt{v + 10^{-8}}} $$

    where m and v are, as in the public code, not corrected for their start at zero: the
    first steps are smaller than those of `optax.adam`.

    Without orthogonalisation O is the identity, and the MLP moves scalars and vectors
    too, without the inputs that are made of rows and columns: this is the Celo2-base
    of the paper.

    Every step has the size $\lambda$, whatever the gradient: compose it with a
    schedule, `optax.scale_by_schedule`, that begins at 1 and falls. So with weight
    decay: `optax.add_decayed_weights(-step_mult * weight_decay)` after it.

    Attributes:
        hidden_size: width of the hidden layers.
        hidden_layers: number of hidden layers.
        orthogonalize: whether to orthogonalise, and move vectors by Adam.
        step_mult: $\lambda$.
        adam_mult: factor of $\lambda$ for scalars and vectors under Adam.

    Source: Celo2, arXiv 2602.19142, and its public code; the iteration is that of Muon
    (Jordan et al. 2024).
    """

    hidden_size: int = 8
    hidden_layers: int = 2
    orthogonalize: bool = True
    step_mult: float = 1e-3
    adam_mult: float = 20.0

    needs_value: ClassVar[bool] = False
    inputs: ClassVar[str] = "gradient, its averages, parameter"
    source: ClassVar[str] = "Celo2, arXiv 2602.19142"

    def __post_init__(self) -> None:
        require_positive_int("hidden_size", self.hidden_size)
        require_positive_int("hidden_layers", self.hidden_layers)
        require_positive("step_mult", self.step_mult)
        require_positive("adam_mult", self.adam_mult)

    @property
    def needs_num_steps(self) -> bool:
        return False

    def init_theta(self, key: jax.Array) -> Theta:
        # The public code never reads the third output, and multiplies the second by 0.
        sizes = [NUM_FEATURES, *[self.hidden_size] * self.hidden_layers, NUM_OUTPUTS]
        return {"mlp": mlp_init(key, sizes)}

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        del num_steps  # Its schedule comes from outside.

        def init(params: optax.Params) -> Celo2State:
            def one(p: jax.Array) -> TensorStats:
                return init_stats(p, self._decays(p.shape))

            return Celo2State(stats=init_groups(params, one))

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, Celo2State]:
            del extra_args
            require_params(self, params)
            groups = group_tensors(updates, params, self._gradient)
            stats, steps = {}, []
            for group in groups:
                decays = self._decays(group.shape)
                moved = move_stats(group, state.stats[group.name], decays)
                stats[group.name] = moved
                steps.append(self._steps(theta["mlp"], group, moved))
            return ungroup(updates, groups, steps), Celo2State(stats=stats)

        return optax.GradientTransformationExtraArgs(init, update)

    def _by_adam(self, shape: Sequence[int]) -> bool:
        return self.orthogonalize and len(shape) < 2

    def _gradient(self, g: jax.Array) -> jax.Array:
        return g.astype(jnp.float32) if self._by_adam(g.shape) else clip_gradient(g)

    def _decays(self, shape: Sequence[int]) -> Decays:
        return ADAM_DECAYS if self._by_adam(shape) else MLP_DECAYS

    def _steps(self, layers: Layers, group: Group, stats: TensorStats) -> jax.Array:
        if self._by_adam(group.shape):
            direction = stats.momentum[0] * jax.lax.rsqrt(stats.rms[0] + 1e-8)
            return -self.step_mult * self.adam_mult * direction
        readings = read_group(group, stats)
        features = _inputs
        if len(group.shape) < 2:
            features = _inputs_without_rows
            first, *rest = layers
            layers = [first | {"w": first["w"][:NUM_FEATURES_WITHOUT_ROWS]}, *rest]
        else:
            readings = jax.tree.map(
                functools.partial(_as_matrices, shape=group.gradients.shape), readings
            )
            group = group.matrices()
        rule = PerParameterRule(
            features=features,
            layers=lambda own: layers,
            finish=self._finish,
            eps=NORMALIZER_EPS,
        )
        return per_parameter_steps(rule, group, readings)

    def _finish(
        self, outputs: list[jax.Array], p: jax.Array, square: jax.Array, own: Any
    ) -> jax.Array:
        del square, own
        direction, *_ = outputs
        if self.orthogonalize:
            direction = newton_schulz(direction)
        mean_square = jnp.sum(jnp.square(direction)) / max(1, p.size)
        scale = root_scales(mean_square, NORMALIZER_EPS)
        return (-self.step_mult * scale) * direction


def _inputs(stats: Readings, g: jax.Array, p: Feature) -> list[Feature]:
    return velo_inputs(stats, g, p, rms_floor=1e-8)


def _inputs_without_rows(stats: Readings, g: jax.Array, p: Feature) -> list[Feature]:
    return _inputs(stats, g, p)[:NUM_FEATURES_WITHOUT_ROWS]


def _as_matrices(x: jax.Array, *, shape: Sequence[int]) -> jax.Array:
    """`[n, *shape]` or broadcastable to it, as matrices over the last two axes."""
    x = jnp.broadcast_to(x, (*shape[:-2], *x.shape[-2:]))
    return x.reshape(math.prod(shape[:-2]), *x.shape[-2:])


def newton_schulz(x: jax.Array) -> jax.Array:
    r"""Brings the singular values of a matrix near 1, and keeps its singular vectors.

    With X divided by its Frobenius norm and taken wide, five times

    $$ X \leftarrow a X + (b A + c A^2) X, \qquad A = X X^\top $$

    by which every singular value s becomes $a s + b s^3 + c s^5$. The coefficients are
    made for steep growth at zero rather than for convergence: a singular value of more
    than 0.002 of the norm ends between 0.68 and 1.21 (tests/l2o/test_celo2.py).

    Args:
        x: a matrix.

    Returns:
        A matrix of the same shape; zero for zero.
    """
    a, b, c = NEWTON_SCHULZ
    # Wide, so that A is the smaller of the two products; the result is the same.
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    # The floor is far below the eps: it only gives the root a derivative at zero.
    norm = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x)), 1e-30))
    x = x / (norm + 1e-8)

    def iterate(_: int, x: jax.Array) -> jax.Array:
        gram = x @ x.T
        return a * x + (b * gram + c * (gram @ gram)) @ x

    x = jax.lax.fori_loop(0, NEWTON_SCHULZ_STEPS, iterate, x)
    return x.T if tall else x
