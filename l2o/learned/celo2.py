"""Celo2: a per-parameter MLP with orthogonalised steps of unit size."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive, require_positive_int
from l2o.learned.accumulators import (
    DECAYS,
    Decays,
    TensorStats,
    clip_gradient,
    factored_dims,
    init_stats,
    update_stats,
)
from l2o.learned.base import LearnedOptimizer, Theta, map_tensors, require_params
from l2o.learned.features import (
    moment_features,
    second_moment_scales,
    velo_features,
)
from l2o.learned.network import mlp_init, per_parameter_mlp
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

    stats: Any  # a TensorStats per tensor; where Adam is used, its two averages


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

    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        del num_steps  # Its schedule comes from outside.

        def init(params: optax.Params) -> Celo2State:
            def one(p: jax.Array) -> TensorStats:
                return init_stats(p, ADAM_DECAYS if self._by_adam(p) else MLP_DECAYS)

            return Celo2State(stats=jax.tree.map(one, params))

        def update_one(
            g: jax.Array, p: jax.Array, stats: TensorStats
        ) -> tuple[jax.Array, TensorStats]:
            if self._by_adam(p):
                direction, stats = _adam_direction(g, stats)
                direction = self.adam_mult * direction
            else:
                direction, stats = _mlp_direction(
                    theta["mlp"],
                    g,
                    p.astype(jnp.float32),
                    stats,
                    orthogonalize=self.orthogonalize,
                )
            return (-self.step_mult * direction).astype(p.dtype), stats

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, Celo2State]:
            del extra_args
            require_params(self, params)
            steps, stats = map_tensors(update_one, updates, params, state.stats)
            return steps, Celo2State(stats=stats)

        return optax.GradientTransformationExtraArgs(init, update)

    def _by_adam(self, p: jax.Array) -> bool:
        return self.orthogonalize and p.ndim < 2


def _adam_direction(g: jax.Array, stats: TensorStats) -> tuple[jax.Array, TensorStats]:
    stats = update_stats(stats, g.astype(jnp.float32), ADAM_DECAYS)
    return stats.momentum[0] * jax.lax.rsqrt(stats.rms[0] + 1e-8), stats


def _mlp_direction(
    layers: Any, g: jax.Array, p: jax.Array, stats: TensorStats, *, orthogonalize: bool
) -> tuple[jax.Array, TensorStats]:
    """A tensor's direction, of unit root mean square over its last two axes."""
    g = clip_gradient(g)
    stats = update_stats(stats, g, MLP_DECAYS)
    moments = moment_features(stats, g, diagonal_floor=0.0, rms_floor=1e-8)
    features = velo_features(moments, g, p)
    if factored_dims(p.shape) is None:
        features = features[:NUM_FEATURES_WITHOUT_ROWS]
        first = layers[0] | {"w": layers[0]["w"][:NUM_FEATURES_WITHOUT_ROWS]}
        layers = [first, *layers[1:]]
    update_matrix = functools.partial(
        _matrix_direction, layers, p.shape[-2:], orthogonalize
    )
    return _over_matrices(update_matrix, features, p.shape), stats


def _matrix_direction(
    layers: Any, shape: Sequence[int], orthogonalize: bool, *features: jax.Array
) -> jax.Array:
    """The direction of a scalar, a vector or a matrix."""
    scales = second_moment_scales(features, eps=NORMALIZER_EPS)
    direction, *_ = per_parameter_mlp(layers, features, scales, shape)
    direction = jnp.broadcast_to(direction, shape)
    if orthogonalize:
        direction = newton_schulz(direction)
    return direction * second_moment_scales([direction], eps=NORMALIZER_EPS)[0]


def _over_matrices(
    function: Callable[..., jax.Array],
    features: Sequence[jax.Array],
    shape: Sequence[int],
) -> jax.Array:
    """Calls a function of features over at most two axes on all of a tensor.

    Args:
        function: of as many arrays as there are features, each broadcastable to
            `shape[-2:]`, which is the shape of the result.
        features: each broadcastable to `shape`, with as many axes.
        shape: the tensor's shape.

    Returns:
        Its results, in an array of shape `shape`.
    """
    if len(shape) <= 2:
        return function(*features)
    leading = tuple(shape[:-2])
    stacks = [
        jnp.broadcast_to(x, leading + x.shape[-2:]).reshape(
            math.prod(leading), *x.shape[-2:]
        )
        for x in features
    ]
    return jax.vmap(function)(*stacks).reshape(shape)


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
        return a * x + (b * gram + (c * gram) @ gram) @ x

    x = jax.lax.fori_loop(0, NEWTON_SCHULZ_STEPS, iterate, x)
    return x.T if tall else x
