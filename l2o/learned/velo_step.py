"""The step that VeLO and Celo make of the outputs of a per-parameter MLP."""

from typing import Any

import jax
import jax.numpy as jnp

from l2o.learned.accumulators import DECAYS, TensorStats, clip_gradient, update_stats
from l2o.learned.features import (
    moment_features,
    second_moment_scales,
    velo_features,
)
from l2o.learned.network import per_parameter_mlp


NUM_FEATURES = (
    3 + 2 * len(DECAYS.momentum) + 3 * len(DECAYS.rms) + 6 * len(DECAYS.factored)
)
NUM_OUTPUTS = 3
"""Direction, magnitude, and one that the public codes do not read."""


def mean(x: jax.Array) -> jax.Array:
    """The mean, 0 of an empty tensor."""
    return jnp.mean(x) if x.size else jnp.zeros((), x.dtype)


def velo_step(
    g: jax.Array,
    p: jax.Array,
    stats: TensorStats,
    layers: Any,
    rate: float | jax.Array,
    *,
    exp_mult: float,
) -> tuple[jax.Array, TensorStats]:
    r"""The update $-\lambda \, \mathrm{rms}(p) \, d \, e^{\epsilon s}$ of one tensor.

    Args:
        g: the gradient.
        p: the tensor, of the gradient's shape.
        stats: the tensor's statistics before this step.
        layers: the MLP, whose first outputs are d and s.
        rate: $\lambda$.
        exp_mult: $\epsilon$.

    Returns:
        The update, of the shape and type of `p`, and the statistics after this step.
    """
    dtype = p.dtype
    g, p = clip_gradient(g), p.astype(jnp.float32)
    stats = update_stats(stats, g, DECAYS)
    features = velo_features(moment_features(stats, g, diagonal_floor=0.0), g, p)
    scales = second_moment_scales(features, eps=1e-5)
    direction, magnitude, _ = per_parameter_mlp(layers, features, scales, p.shape)
    unit = jnp.sqrt(mean(jnp.square(p)) + 1e-9) * rate
    step = direction * jnp.exp(magnitude * exp_mult) * unit
    return (-jnp.broadcast_to(step, p.shape)).astype(dtype), stats
