"""Per-parameter features, shared by the architectures with a per-parameter MLP.

A feature is an array broadcastable to the tensor's shape: what varies along fewer axes
keeps size 1 along the others, so that it costs what it holds. It is kept as a product
(`Feature`), from which come its value and, apart from that, its mean square.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from l2o.learned.accumulators import Readings


class Feature(NamedTuple):
    r"""A product over a root, $x = b \prod_i f_i / \sqrt{u + \epsilon}$."""

    base: jax.Array | None = None  # b, 1 where it is None
    factors: tuple[jax.Array, ...] = ()  # f, which vary along fewer axes than b
    variance: jax.Array | None = None  # u; no root where it is None
    floor: float = 0.0  # epsilon
    bound: float | None = None  # the product is cut off there, where it is given
    mean_square: jax.Array | None = None  # of x over the tensor, where it is known

    def value(self) -> jax.Array:
        """The feature itself."""
        terms = [x for x in (self.base, *self.factors) if x is not None]
        if self.variance is not None:
            terms.append(jax.lax.rsqrt(self._variance() + self.floor))
        product = math.prod(terms[1:], start=terms[0])
        if self.bound is None:
            return product
        return jnp.clip(product, -self.bound, self.bound)

    def _variance(self) -> jax.Array:
        """u, with a derivative that is finite times the zeros that belong to it."""
        assert self.variance is not None
        if self.floor:
            return self.variance
        tiny = jax.lax.stop_gradient(self.variance)
        return jnp.where(tiny > 1e-24, self.variance, tiny)


class Moments(NamedTuple):
    """Features of one tensor, in groups; the architectures differ in their order."""

    momentum: tuple[Feature, ...]  # m
    rms: tuple[Feature, ...]  # v, the averaged squared gradient
    momentum_over_rms: tuple[Feature, ...]  # m / sqrt(v + rms_floor)
    inverse_rms: tuple[Feature, ...]  # 1 / sqrt(v + rms_floor)
    gradient_over_rms: tuple[Feature, ...]  # g / sqrt(v + rms_floor)
    gradient_over_factored: tuple[Feature, ...]  # g over Adafactor's root moment
    row: tuple[Feature, ...]  # Adafactor's row averages
    col: tuple[Feature, ...]
    inverse_row: tuple[Feature, ...]  # 1 / sqrt(row + 1e-8)
    inverse_col: tuple[Feature, ...]
    momentum_over_factored: tuple[Feature, ...]


def moment_features(
    stats: Readings, g: jax.Array, *, diagonal_floor: float, rms_floor: float = 1e-6
) -> Moments:
    """Every feature that is made of the gradient and its averages.

    Args:
        stats: of the statistics, already updated with `g`.
        g: the gradient, float32, of the tensor's shape.
        diagonal_floor: added to the second moment under the momentum of tensors with
            fewer than two axes, where the public codes disagree: 1e-6 in small_fc, 0 in
            VeLO.
        rms_floor: added to the averaged squared gradient; 1e-8 in Celo2.

    Returns:
        The groups; tuples run over the decays. Tensors with fewer than two axes use
        their full second moment in place of rows and columns.
    """
    # The public code broadcasts over decays: one rms goes with every momentum, several
    # go with the momenta in order.
    paired = stats.rms * len(stats.momentum) if len(stats.rms) == 1 else stats.rms
    if stats.left:
        sides = tuple(zip(stats.left, stats.right, strict=True))
        gradient_over_factored = tuple(Feature(g, side) for side in sides)
        momentum_over_factored = tuple(
            Feature(m, side) for m, side in zip(stats.momentum, sides, strict=True)
        )
    else:
        gradient_over_factored = tuple(
            Feature(g, variance=v, floor=1e-9) for v in stats.row
        )
        momentum_over_factored = tuple(
            Feature(m, variance=v, floor=diagonal_floor)
            for m, v in zip(stats.momentum, stats.row, strict=True)
        )
    return Moments(
        momentum=tuple(map(Feature, stats.momentum)),
        rms=tuple(map(Feature, stats.rms)),
        momentum_over_rms=tuple(
            Feature(m, variance=v, floor=rms_floor)
            for m, v in zip(stats.momentum, paired, strict=True)
        ),
        inverse_rms=tuple(Feature(variance=v, floor=rms_floor) for v in stats.rms),
        gradient_over_rms=tuple(
            Feature(g, variance=v, floor=rms_floor) for v in stats.rms
        ),
        gradient_over_factored=gradient_over_factored,
        row=tuple(map(Feature, stats.row)),
        col=tuple(map(Feature, stats.col)),
        inverse_row=tuple(Feature(variance=r, floor=1e-8) for r in stats.row),
        inverse_col=tuple(Feature(variance=c, floor=1e-8) for c in stats.col),
        momentum_over_factored=momentum_over_factored,
    )


def small_fc_inputs(stats: Readings, g: jax.Array, p: Feature) -> list[Feature]:
    """The inputs of small_fc's MLP but for time, in its order."""
    f = moment_features(stats, g, diagonal_floor=1e-6)
    return [
        *(Feature(g), p, *f.momentum, *f.rms, *f.momentum_over_rms, *f.inverse_rms),
        *(*f.gradient_over_factored, *f.row, *f.col, *f.inverse_row, *f.inverse_col),
        *f.momentum_over_factored,
    ]


def velo_inputs(
    stats: Readings, g: jax.Array, p: Feature, *, rms_floor: float = 1e-6
) -> list[Feature]:
    """The inputs of the per-parameter MLP of VeLO, Celo and Celo2, in their order.

    What needs rows and columns comes last, so that Celo2 can leave it off.
    """
    f = moment_features(stats, g, diagonal_floor=0.0, rms_floor=rms_floor)
    return [
        *(
            Feature(g),
            Feature(g, bound=0.1),
            p,
            *f.momentum,
            *f.rms,
            *f.momentum_over_rms,
        ),
        *(*f.inverse_rms, *f.gradient_over_factored, *f.gradient_over_rms),
        *(*f.row, *f.col, *f.inverse_row, *f.inverse_col, *f.momentum_over_factored),
    ]


def root_scales(mean_squares: jax.Array, eps: float) -> jax.Array:
    """`1 / sqrt(eps + mean(x^2))`, which brings a feature to unit mean square."""
    return jax.lax.rsqrt(eps + mean_squares)


def mean_squares(features: Sequence[Feature], g: jax.Array) -> jax.Array:
    """The mean square of every feature over its tensor, `[n]`.

    A feature of fewer entries is constant along the other axes, so that the mean over
    its own entries is the mean over the tensor. An empty tensor has no mean; its
    updates are empty too.

    No feature is formed. XLA on CPUs merges the arithmetic in front of a sum into the
    sum, a single pass over memory, but only what nothing else reads: a square that two
    sums share is computed once, and stored. Here every sum has arithmetic of its own.

    Args:
        features: of one tensor.
        g: its gradient, of which the statistics have a square already.
    """
    own = _Own(g)
    return jnp.stack([_mean_square(feature, own) for feature in features])


def _mean_square(feature: Feature, own: "_Own") -> jax.Array:
    if feature.mean_square is not None:
        return feature.mean_square
    # What makes the arithmetic this sum's own costs least on the factors, which are
    # small; then on the variance; on the base only where it stands alone.
    product, exponent = feature.base, 0
    if product is not None and not feature.factors and feature.variance is None:
        product, exponent = own(product)
    for factor in feature.factors:
        scaled, k = own(factor)
        product = scaled if product is None else product * scaled
        exponent += k
    scale = 4.0**-exponent
    if feature.variance is None:
        assert product is not None, "a feature has a base or a variance"
        square = jnp.square(product)
    else:
        variance, k = own(feature._variance())
        variance = variance + 2.0**k * feature.floor
        # Divided in between: squares of the smallest gradients are zero in float32.
        square = 1.0 / variance if product is None else product * (product / variance)
        scale *= 2.0**k
    if feature.bound is not None:
        square = jnp.minimum(square, feature.bound**2 / scale)
    return jnp.sum(square) * (scale / max(1, square.size))


class _Own:
    """Gives the uses of an array powers of two of their own, which cost no accuracy.

    The first use has none. All others differ, also of different arrays, for constants
    are shared as well: `2 * x` and `2 * y` would have an array of twos in common.

    Args:
        used: an array that has been used before. `update_stats` has the factors 2, 1/2.
    """

    def __init__(self, used: jax.Array) -> None:
        self._used = {id(used): used}  # Kept, so that no other array gets its id.
        self._count = 0

    def __call__(self, x: jax.Array) -> tuple[jax.Array, int]:
        """`(2^k x, k)`."""
        if id(x) not in self._used:
            self._used[id(x)] = x
            return x, 0
        # 2, -2, 3, -3, ...: not far from 0, where nothing overflows.
        exponent = (2 + self._count // 2) * (-1) ** self._count
        self._count += 1
        return x * 2.0**exponent, exponent


STEP_TIMESCALES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)
TRAINING_FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)


def step_features(count: jax.Array) -> jax.Array:
    """`tanh(t / timescale - 1)` for 11 timescales: `[11]`. Source: small_fc_lopt."""
    return jnp.tanh(
        count.astype(jnp.float32) / jnp.array(STEP_TIMESCALES, jnp.float32) - 1.0
    )


def fraction_features(fraction: jax.Array) -> jax.Array:
    """`tanh(10 (fraction - tau))` for 9 values of tau: `[9]`. Source: VeLO."""
    return jnp.tanh(10.0 * (fraction - jnp.array(TRAINING_FRACTIONS, jnp.float32)))
