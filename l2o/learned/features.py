"""Per-parameter features, shared by the architectures with a per-parameter MLP.

Every feature is an array broadcastable to the tensor's shape: what varies along fewer
axes keeps size 1 along the others, so that it costs what it holds.
`second_moment_scales` gives the factors that bring each feature to unit second moment
over the tensor.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2o.learned.accumulators import (
    TensorStats,
    factored_dims,
    factored_preconditioner,
    safe_rsqrt,
)
from l2o.learned.network import SMALL


class Moments(NamedTuple):
    """Features of one tensor, in groups; the architectures differ in their order."""

    momentum: tuple[jax.Array, ...]  # m
    rms: tuple[jax.Array, ...]  # v, the averaged squared gradient
    momentum_over_rms: tuple[jax.Array, ...]  # m / sqrt(v + rms_floor)
    inverse_rms: tuple[jax.Array, ...]  # 1 / sqrt(v + rms_floor)
    gradient_over_rms: tuple[jax.Array, ...]  # g / sqrt(v + rms_floor)
    gradient_over_factored: tuple[jax.Array, ...]  # g over Adafactor's root moment
    row: tuple[jax.Array, ...]  # Adafactor's row averages
    col: tuple[jax.Array, ...]
    inverse_row: tuple[jax.Array, ...]  # 1 / sqrt(row + 1e-8)
    inverse_col: tuple[jax.Array, ...]
    momentum_over_factored: tuple[jax.Array, ...]


def moment_features(
    stats: TensorStats, g: jax.Array, *, diagonal_floor: float, rms_floor: float = 1e-6
) -> Moments:
    """Computes every feature that is made of the gradient and its averages.

    Args:
        stats: the statistics, already updated with `g`.
        g: the gradient, float32, of the tensor's shape.
        diagonal_floor: added to the second moment under the momentum of tensors with
            fewer than two axes, where the public codes disagree: 1e-6 in small_fc, 0 in
            VeLO.
        rms_floor: added to the averaged squared gradient; 1e-8 in Celo2.

    Returns:
        The groups; tuples run over the decays. Tensors with fewer than two axes use
        their full second moment in place of rows and columns.
    """
    inverse_rms = tuple(jax.lax.rsqrt(v + rms_floor) for v in stats.rms)
    # The public code broadcasts over decays: one rms goes with every momentum, several
    # go with the momenta in order.
    paired = inverse_rms * len(stats.momentum) if len(inverse_rms) == 1 else inverse_rms
    momentum_over_rms = tuple(
        m * r for m, r in zip(stats.momentum, paired, strict=True)
    )
    if factored_dims(g.shape) is None:
        row = col = stats.diag
        gradient_over_factored = tuple(g * safe_rsqrt(v + 1e-9) for v in stats.diag)
        momentum_over_factored = tuple(
            m * jax.lax.rsqrt(v + diagonal_floor)
            for m, v in zip(stats.momentum, stats.diag, strict=True)
        )
    else:
        row, col = stats.row, stats.col
        left, right = factored_preconditioner(stats, g.shape)
        gradient_over_factored = tuple(
            g * a * b for a, b in zip(left, right, strict=True)
        )
        momentum_over_factored = tuple(
            m * a * b for m, a, b in zip(stats.momentum, left, right, strict=True)
        )
    return Moments(
        momentum=stats.momentum,
        rms=stats.rms,
        momentum_over_rms=momentum_over_rms,
        inverse_rms=inverse_rms,
        gradient_over_rms=tuple(g * r for r in inverse_rms),
        gradient_over_factored=gradient_over_factored,
        row=row,
        col=col,
        inverse_row=tuple(jax.lax.rsqrt(r + 1e-8) for r in row),
        inverse_col=tuple(jax.lax.rsqrt(c + 1e-8) for c in col),
        momentum_over_factored=momentum_over_factored,
    )


def small_fc_features(f: Moments, g: jax.Array, p: jax.Array) -> list[jax.Array]:
    """The inputs of small_fc's MLP but for time, in its order."""
    return [
        *(g, p, *f.momentum, *f.rms, *f.momentum_over_rms, *f.inverse_rms),
        *(*f.gradient_over_factored, *f.row, *f.col, *f.inverse_row, *f.inverse_col),
        *f.momentum_over_factored,
    ]


def velo_features(f: Moments, g: jax.Array, p: jax.Array) -> list[jax.Array]:
    """The inputs of the per-parameter MLP of VeLO, Celo and Celo2, in their order.

    What needs rows and columns comes last, so that Celo2 can leave it off.
    """
    return [
        *(g, jnp.clip(g, -0.1, 0.1), p, *f.momentum, *f.rms, *f.momentum_over_rms),
        *(*f.inverse_rms, *f.gradient_over_factored, *f.gradient_over_rms),
        *(*f.row, *f.col, *f.inverse_row, *f.inverse_col, *f.momentum_over_factored),
    ]


def second_moment_scales(features: Sequence[jax.Array], eps: float) -> jax.Array:
    """`1 / sqrt(eps + mean(x^2))` of every feature over its tensor, as one `[n]` array.

    A feature of fewer entries is constant along the other axes, so that the mean over
    its own entries is the mean over the tensor.
    """
    sums: dict[int, jax.Array] = {}
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, x in enumerate(features):
        by_shape.setdefault(x.shape, []).append(i)
    for shape, members in by_shape.items():
        if math.prod(shape) > SMALL:
            sums |= {i: jnp.sum(jnp.square(features[i])) for i in members}
            continue
        stacked = jnp.stack([features[i].reshape(-1) for i in members])
        sums |= dict(zip(members, jnp.sum(jnp.square(stacked), axis=1), strict=True))
    # Divided together, as one small array. An empty tensor has no mean; its updates are
    # empty too.
    counts = np.array([max(1, x.size) for x in features], np.float32)
    stacked_sums = jnp.stack([sums[i] for i in range(len(features))])
    return jax.lax.rsqrt(eps + stacked_sums / counts)


STEP_TIMESCALES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)
TRAINING_FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)


def step_features(count: jax.Array) -> jax.Array:
    """`tanh(t / timescale - 1)` for 11 timescales: `[11]`. Source: small_fc_lopt."""
    return jnp.tanh(count.astype(jnp.float32) / jnp.array(STEP_TIMESCALES) - 1.0)


def fraction_features(fraction: jax.Array) -> jax.Array:
    """`tanh(10 (fraction - tau))` for 9 values of tau: `[9]`. Source: VeLO."""
    return jnp.tanh(10.0 * (fraction - jnp.array(TRAINING_FRACTIONS)))
