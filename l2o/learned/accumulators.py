"""Running statistics of the gradient, shared by the per-parameter architectures.

All are plain exponential averages without bias correction, kept in float32. A decay may
be a traced scalar, since some architectures learn it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class TensorStats(NamedTuple):
    """Statistics of one tensor of shape `S`; each tuple has an entry per decay."""

    momentum: tuple[jax.Array, ...]  # each of shape S
    rms: tuple[jax.Array, ...]  # each of shape S: average of the squared gradient
    row: tuple[
        jax.Array, ...
    ]  # S with axis d0 of size 1; empty for scalars and vectors
    col: tuple[
        jax.Array, ...
    ]  # S with axis d1 of size 1; empty for scalars and vectors
    diag: tuple[jax.Array, ...]  # shape S for scalars and vectors, else empty


class Decays(NamedTuple):
    """Decay rates of the three kinds of averages."""

    momentum: Sequence[float | jax.Array]
    rms: Sequence[float | jax.Array]
    factored: Sequence[float | jax.Array]


DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))
"""The rates of VeLO and Celo."""


# Adafactor's floor of a squared gradient, which keeps an all-zero one away from 0 / 0.
_FLOOR = 1e-30


def factored_dims(shape: Sequence[int]) -> tuple[int, int] | None:
    """The two largest axes `(d1, d0)`, `d0` the larger, or None below two axes.

    Source: Adafactor (Shazeer and Stern, 2018), with the tie-breaking of the public
    VeLO code: the later axis counts as the larger.
    """
    if len(shape) < 2:
        return None
    order = np.argsort(shape, kind="stable")
    return int(order[-2]), int(order[-1])


def init_stats(p: jax.Array, decays: Decays) -> TensorStats:
    """Zero statistics for a tensor like `p`."""

    def zeros(shape: Sequence[int], rates: Sequence) -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros(shape, jnp.float32) for _ in rates)

    dims = factored_dims(p.shape)
    if dims is None:
        row, col, diag = (), (), zeros(p.shape, decays.factored)
    else:
        d1, d0 = dims
        row = zeros(
            [1 if a == d0 else n for a, n in enumerate(p.shape)], decays.factored
        )
        col = zeros(
            [1 if a == d1 else n for a, n in enumerate(p.shape)], decays.factored
        )
        diag = ()
    return TensorStats(
        momentum=zeros(p.shape, decays.momentum),
        rms=zeros(p.shape, decays.rms),
        row=row,
        col=col,
        diag=diag,
    )


def start_correction(decay: float | jax.Array, count: Any) -> jax.Array:
    r"""$1 / (1 - \beta^t)$, which makes an average that began at zero unbiased.

    It is a factor since XLA takes a division by a number for each particle as it stands
    where it partitions a program, and as a product where there is a single device: bits
    would depend on the number of devices.

    Args:
        decay: $\beta$.
        count: $t$, how many values the average has seen.
    """
    return 1.0 / (1.0 - decay ** jnp.asarray(count, jnp.float32))


def clip_gradient(g: jax.Array) -> jax.Array:
    """The gradient in float32, cut off at -1000 and 1000 as in VeLO and Celo."""
    return jnp.clip(g.astype(jnp.float32), -1000.0, 1000.0)


def update_stats(stats: TensorStats, g: jax.Array, decays: Decays) -> TensorStats:
    """Moves every average one step towards the gradient `g` (float32)."""
    # A learned decay may leave [0, 1]; a second moment must not turn negative.
    rms_decays = [jnp.clip(d, 0.0, 1.0) for d in decays.rms]
    fac_decays = [jnp.clip(d, 0.0, 1.0) for d in decays.factored]
    square = g * g
    dims = factored_dims(g.shape)
    row: tuple[jax.Array, ...] = ()
    col: tuple[jax.Array, ...] = ()
    diag: tuple[jax.Array, ...] = ()
    if dims is None:
        diag = _averages(stats.diag, square + _FLOOR, fac_decays)
    else:
        d1, d0 = dims
        # The factors make three squares of one: XLA on CPUs stores what two sums share,
        # and merges into a sum what is its own.
        row_means = _mean_along(jnp.square(2.0 * g), d0) / 4.0
        col_means = _mean_along(jnp.square(0.5 * g), d1) * 4.0
        row = _averages(stats.row, row_means + _FLOOR, fac_decays)
        col = _averages(stats.col, col_means + _FLOOR, fac_decays)
    return TensorStats(
        momentum=_averages(stats.momentum, g, decays.momentum),
        rms=_averages(stats.rms, square, rms_decays),
        row=row,
        col=col,
        diag=diag,
    )


def _mean_along(x: jax.Array, axis: int) -> jax.Array:
    """The mean over one axis, which stays with size 1; 0 where there is nothing."""
    return jnp.sum(x, axis=axis, keepdims=True) / max(1, x.shape[axis])


def _averages(
    old: Sequence[jax.Array], new: jax.Array, decays: Sequence[float | jax.Array]
) -> tuple[jax.Array, ...]:
    return tuple(d * a + (1 - d) * new for a, d in zip(old, decays, strict=True))


def safe_rsqrt(x: jax.Array) -> jax.Array:
    """1 / sqrt(x), finite at zero: x is floored at 1e-9."""
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


class Readings(NamedTuple):
    """What is read off the statistics of one tensor, of shape `S`.

    `row` and `col` are of full shape for scalars and vectors, whose second moment is
    not factored. For others `left` and `right` divide a tensor by the root of its
    estimated second moment: `g * left[i] * right[i]` is g over the root of Adafactor's
    rank-one estimate `row * col / mean(row)`.
    """

    momentum: tuple[jax.Array, ...]  # each of shape S
    rms: tuple[jax.Array, ...]  # each of shape S
    row: tuple[jax.Array, ...]  # broadcastable to S
    col: tuple[jax.Array, ...]
    left: tuple[jax.Array, ...]  # likewise; empty for scalars and vectors
    right: tuple[jax.Array, ...]


def read_stats(stats: TensorStats, shape: Sequence[int]) -> Readings:
    """Reads the statistics of a tensor of shape `shape`."""
    dims = factored_dims(shape)
    if dims is None:
        row, col, left, right = stats.diag, stats.diag, (), ()
    else:
        row, col = stats.row, stats.col
        # A factor in the place of a division, as in `start_correction`.
        left = tuple(
            safe_rsqrt(r * (1.0 / (_mean_along(r, dims[0]) + 1e-9))) for r in row
        )
        right = tuple(safe_rsqrt(c) for c in col)
    return Readings(stats.momentum, stats.rms, row, col, left, right)
