r"""Directions, statistics and steps of `MuonMLP` and `MuonLSTM`.

A tensor has two momenta m and a second moment v. Seven inputs are made of them at every
entry,

$$ g, \; m_1, \; m_2, \; g / \sqrt v, \; m_1 / \sqrt v, \; m_2 / \sqrt v, \; p $$

each divided by its root mean square over the tensor. A network that sees the tensor as
a whole gives it `Controls`. With the controls s and a small MLP, in which the network
may have a say too,

$$ D = \sum_{k \le 6} s_k x_k + \mathrm{MLP}(x) $$

A tensor that is a matrix is moved along the matrix O(D) of orthonormal rows or columns
nearest to D, others along D itself, and both may be blended:

$$ \hat D = (1 - w) \frac{O(D)}{\mathrm{rms}\, O(D)} + w \frac{D}{\mathrm{rms}\, D},
   \qquad p \leftarrow p - \lambda (u \hat D + \delta p) $$

where the unit u is the root mean square that the tensor had at initialisation, or
longer by `within_reach`, and the rate $\lambda$, the decay $\delta$ and the blend w are
controls (w = 1 without a matrix).

Nothing of it depends on the scale of the loss, nor on the scale of the parameters: with
the loss c L and the parameters d p, all steps are those before, times d.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2o.learned import groups
from l2o.learned.accumulators import Decays, TensorStats
from l2o.learned.celo2 import newton_schulz
from l2o.learned.features import root_scales
from l2o.learned.groups import Group, in_tree_order, rows_of
from l2o.learned.network import Layers, elementwise_mlp
from l2o.learned.per_parameter import move_stats


MUON_DECAYS = Decays(momentum=(0.9, 0.99), rms=(0.998,), factored=())

_MEANS = 1 + len(MUON_DECAYS.momentum)  # the gradient and its averages
NUM_SKIPS = 2 * _MEANS
NUM_INPUTS = NUM_SKIPS + 1

_NUM_OWN_FEATURES = 9
_NUM_SHARED = 5
NUM_FEATURES = _NUM_OWN_FEATURES + _NUM_SHARED + 1
"""What is read of a tensor and of all tensors, without time."""

# Under the roots: far below the squares of gradients that are small because the loss or
# the weights are in another unit, and yet with a derivative at zero that is finite.
TINY = 1e-24


class Controls(NamedTuple):
    """What a step of each tensor is made with; each has an axis along the tensors."""

    rate: jax.Array  # [tensors]: lambda
    decay: jax.Array  # [tensors]: delta
    blend: jax.Array  # [tensors]: w
    skips: jax.Array  # [tensors, 6]: s
    mlp: Any  # what is the tensor's own of the MLP, a tree of [tensors, ...]


class Read(NamedTuple):
    """The statistics of all tensors after a step's gradient, and what is seen there."""

    stats: dict[str, TensorStats]  # by shape
    squares: dict[str, jax.Array]  # by shape: mean squares of the inputs, [n, 7]
    features: jax.Array  # [tensors, NUM_FEATURES]

    def with_shared(self, features: jax.Array) -> jax.Array:
        """Features of the training, `[k]`, before those of every tensor."""
        shape = (len(self.features), len(features))
        return jnp.concatenate(
            [jnp.broadcast_to(features, shape), self.features], axis=1
        )


def as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor: all axes but the last, and the last."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def is_matrix(shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape is moved along an orthogonal direction."""
    return len(shape) > 1 and min(as_matrix(shape)) > 1


def matrices(params: Any) -> jax.Array:
    """Which tensors of a tree are moved along orthogonal directions, `[tensors]`."""
    return jnp.array([is_matrix(p.shape) for p in jax.tree.leaves(params)], bool)


def _inputs(stats: TensorStats, g: jax.Array) -> list[jax.Array]:
    """The inputs but for the parameter, before they are normalised."""
    (v,) = stats.rms
    root = jax.lax.rsqrt(v + TINY)
    plain = [g, *stats.momentum]
    return [*plain, *(x * root for x in plain)]


def read_tensors(
    tensors: Sequence[Group],
    stats: dict[str, TensorStats],
    unit: jax.Array,
    step: jax.Array,
) -> Read:
    """Moves the statistics of all tensors, and reads them.

    The features tell how much of a momentum is not noise, whether gradients go on or
    turn back, how much the weights have grown, and the shape of the tensor; then the
    means of the first over all tensors, and how many there are. They are numbers of
    order one, whatever the scales of the loss and of the parameters.

    Args:
        tensors: all of them, by shape.
        stats: before the step.
        unit: `[tensors]`, of length.
        step: updates made before this one.
    """
    moved = {g.name: move_stats(g, stats[g.name], MUON_DECAYS) for g in tensors}
    squares, rows = {}, []
    for group in tensors:
        means = jax.vmap(_mean_products)(group.gradients, moved[group.name])
        parameter = group.mean_squares()
        squares[group.name] = jnp.concatenate(
            [means[:, :NUM_SKIPS], parameter[:, None]], axis=1
        )
        growth = jnp.log((parameter + TINY) / (jnp.square(rows_of(group, unit)) + TINY))
        rows.append(
            jnp.concatenate(
                [
                    _signal_features(means, step),
                    jnp.clip(growth / 2.0, -3.0, 3.0)[:, None],
                    jnp.tile(_shape_features(group.shape), (len(parameter), 1)),
                ],
                axis=1,
            )
        )
    none = jnp.zeros((0, _NUM_OWN_FEATURES), jnp.float32)
    own = in_tree_order(tensors, [none, *rows])
    count = len(own)
    shared = jnp.sum(own[:, :_NUM_SHARED], axis=0) / max(1, count)
    number = jnp.array([math.log(max(1, count)) / 2.0 - 1.0], jnp.float32)
    shared = jnp.tile(jnp.concatenate([shared, number]), (count, 1))
    return Read(moved, squares, jnp.concatenate([own, shared], axis=1))


_FARTHEST = 100.0
"""Times the root mean square at initialisation: no unit is longer."""


def within_reach(
    unit: jax.Array,
    tensors: Sequence[Group],
    read: Read,
    value: jax.Array,
    reach: float,
) -> jax.Array:
    r"""Longer units where steps of one unit hardly change the loss.

    To first order steps of the length of a unit, along the gradient of every tensor,
    change the loss by the share

    $$ \sigma = \frac{1}{|L|} \sum_i u_i \sqrt{n_i} \, \lVert g_i \rVert $$

    with the unit $u_i$, the gradient $g_i$ and the $n_i$ entries of tensor i. Weights
    that begin far too small are near a saddle, where it is next to nothing. All units
    are multiplied by $\min(\max(1, \rho / \sigma), 100)$, or left where $\sigma$ is 0
    or not finite. Neither the scale of the loss nor that of the parameters matters.

    Features of the first step are read in the units before, those of later steps in
    the longer ones.

    Args:
        unit: `[tensors]`, root mean squares at initialisation.
        tensors: all of them, by shape, with the first gradients.
        read: of these gradients.
        value: L, the first loss.
        reach: $\rho$.
    """
    lengths = [
        math.prod(g.shape) * jnp.sqrt(read.squares[g.name][:, 0]) for g in tensors
    ]
    none = jnp.zeros((0,), jnp.float32)
    steps = unit * in_tree_order(tensors, [none, *lengths])
    share = jnp.sum(steps) / jnp.abs(value)
    defined = jnp.isfinite(share) & (share > 0)
    far = jnp.clip(reach / jnp.where(defined, share, 1.0), 1.0, _FARTHEST)
    return unit * jnp.where(defined, far, 1.0)


def _mean_products(g: jax.Array, stats: TensorStats) -> jax.Array:
    """Mean squares of the six inputs, and means of g m_1 and m_1 m_2: `[8]`."""
    first, second = stats.momentum
    sums = [jnp.sum(jnp.square(x)) for x in _inputs(stats, g)]
    sums += [jnp.sum(g * first), jnp.sum(first * second)]
    return jnp.stack(sums) / max(1, g.size)


def _signal_features(means: jax.Array, step: jax.Array) -> jax.Array:
    """Three signal to noise ratios, as logarithms, and two cosines: `[n, 5]`."""
    time = step.astype(jnp.float32) + 1.0
    (slow,) = MUON_DECAYS.rms
    # Averages begin at zero; these are what to divide by.
    begun = [jnp.ones_like(time), *(1 - b**time for b in MUON_DECAYS.momentum)]
    corrections = ((1 - slow**time) / jnp.square(jnp.stack(begun)))[None]
    signal = jnp.log(means[:, _MEANS:NUM_SKIPS] * corrections + 1e-8) / 3.0
    over_size = jax.lax.rsqrt(means[:, :_MEANS] + TINY)
    cosines = means[:, NUM_SKIPS:] * over_size[:, :-1] * over_size[:, 1:]
    return jnp.concatenate([signal, cosines], axis=1)


def _shape_features(shape: Sequence[int]) -> jax.Array:
    """Size, proportions, and whether it is a matrix: `[3]`."""
    rows, columns = (max(1, n) for n in as_matrix(shape))
    return jnp.array(
        [
            math.log(rows * columns / 1024) / 4.0,
            math.log(rows / columns) / 3.0,
            float(is_matrix(shape)),
        ],
        jnp.float32,
    )


def muon_steps(
    layers: Callable[[Any], Layers],
    tensors: Sequence[Group],
    read: Read,
    controls: Controls,
    unit: jax.Array,
    orthogonalize: bool,
) -> list[jax.Array]:
    """The steps of all tensors.

    Args:
        layers: `controls.mlp -> layers`: the MLP of one tensor.
        tensors: all of them, by shape.
        read: from `read_tensors`.
        controls: in the order of the tree's leaves.
        unit: likewise, of length.
        orthogonalize: whether matrices are moved along O(D); else w = 1 for them too.

    Returns:
        The steps of every group, `[n, *shape]`, float32.
    """

    def one(g: jax.Array, p: jax.Array, given: Any) -> jax.Array:
        stats, squares, (own, unit) = given
        inputs = [*_inputs(stats, g), p]
        scales = root_scales(squares, TINY)
        (direction,) = elementwise_mlp(layers(own.mlp), inputs, scales, g.shape)
        weights = own.skips * scales[:NUM_SKIPS]
        for k, x in enumerate(inputs[:NUM_SKIPS]):
            direction += weights[k] * x
        move = _unit_size(direction)
        if orthogonalize and is_matrix(g.shape):
            turned = newton_schulz(direction.reshape(as_matrix(g.shape)))
            turned = _unit_size(turned.reshape(g.shape))
            move = turned + own.blend * (move - turned)
        return -own.rate * (unit * move + own.decay * p)

    steps = []
    for group in tensors:
        squares = read.squares[group.name]
        own = (
            read.stats[group.name],
            squares,
            rows_of(group, (controls, unit)),
        )
        defined = ~jnp.isnan(squares[:, -1])
        empty = not group.gradients.size
        steps.append(
            group.gradients if empty else groups.for_each(one, group, own, defined)
        )
    return steps


def _unit_size(x: jax.Array) -> jax.Array:
    """A tensor over its root mean square."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x)) / x.size + TINY)
