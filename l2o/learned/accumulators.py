"""Running statistics of the gradient, shared by the per-parameter architectures.

All are plain exponential averages without bias correction, kept in float32. A decay may
be a traced scalar, since some architectures learn it.
"""

from collections.abc import Sequence
from typing import NamedTuple

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


def factored_dims(shape: Sequence[int]) -> tuple[int, int] | None:
    """The two largest axes `(d1, d0)`, `d0` the larger, or None below two axes.

    Source: Adafactor (Shazeer and Stern, 2018), with the tie-breaking of the public
    VeLO code: the later axis counts as the larger.
    """
    if len(shape) < 2:
        return None
    order = np.argsort(shape)
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


def clip_gradient(g: jax.Array) -> jax.Array:
    """The gradient in float32, cut off at -1000 and 1000 as in VeLO and Celo."""
    return jnp.clip(g.astype(jnp.float32), -1000.0, 1000.0)


def update_stats(stats: TensorStats, g: jax.Array, decays: Decays) -> TensorStats:
    """Moves every average one step towards the gradient `g` (float32)."""
    # A learned decay may leave [0, 1]; a second moment must not turn negative.
    rms_decays = [jnp.clip(d, 0.0, 1.0) for d in decays.rms]
    fac_decays = [jnp.clip(d, 0.0, 1.0) for d in decays.factored]
    square = g * g
    # Adafactor's floor, which keeps an all-zero gradient away from 0 / 0.
    floored = square + 1e-30
    dims = factored_dims(g.shape)
    row: tuple[jax.Array, ...] = ()
    col: tuple[jax.Array, ...] = ()
    diag: tuple[jax.Array, ...] = ()
    if dims is None:
        diag = _averages(stats.diag, floored, fac_decays)
    else:
        d1, d0 = dims
        row = _averages(stats.row, _mean_along(floored, d0), fac_decays)
        col = _averages(stats.col, _mean_along(floored, d1), fac_decays)
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


class Preconditioner(NamedTuple):
    """Factors that divide a tensor by the root of its estimated second moment.

    One entry per decay, broadcastable to the tensor's shape:
    `g * left[i] * right[i]` is g over the root of Adafactor's rank-one estimate
    `row * col / mean(row)`.
    """

    left: tuple[jax.Array, ...]
    right: tuple[jax.Array, ...]


def factored_preconditioner(stats: TensorStats, shape: Sequence[int]) -> Preconditioner:
    """Adafactor's rank-one inverse root for tensors with at least two axes."""
    dims = factored_dims(shape)
    if dims is None:
        raise ValueError(f"factored moments need two axes or more, got shape {shape}")
    d1, _ = dims
    left = tuple(safe_rsqrt(r / (_mean_along(r, d1) + 1e-9)) for r in stats.row)
    right = tuple(safe_rsqrt(c) for c in stats.col)
    return Preconditioner(left, right)
