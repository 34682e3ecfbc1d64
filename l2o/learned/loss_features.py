"""Features of the course of the loss: where it stands against its own averages."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


NUM_AVERAGES = 10
NUM_LOSS_FEATURES = NUM_AVERAGES - 1

# The running minimum before the first loss; any real average lies below.
_NO_MINIMUM = 999999999999.0

# A fall by e^10 is as far as one is told.
_FARTHEST = math.exp(-10.0)


class LossAverages(NamedTuple):
    """Exponential averages of the loss over half-lives from 10 steps to the horizon."""

    means: jax.Array  # shape=(10,), dtype=jnp.float32
    running_min: jax.Array  # shape=(10,), of the bias-corrected means
    seen: jax.Array  # shape=(), dtype=jnp.int32: losses so far


def _decays(num_steps: jax.Array) -> jax.Array:
    halflives = jnp.logspace(1.0, jnp.log10(num_steps), NUM_AVERAGES, dtype=jnp.float32)
    return jnp.exp(-1.0 / halflives)


def init_loss_averages() -> LossAverages:
    """No loss seen yet."""
    return LossAverages(
        means=jnp.zeros((NUM_AVERAGES,), jnp.float32),
        running_min=jnp.full((NUM_AVERAGES,), _NO_MINIMUM, jnp.float32),
        seen=jnp.zeros((), jnp.int32),
    )


def update_loss_averages(
    state: LossAverages, loss: jax.Array, num_steps: jax.Array
) -> LossAverages:
    """Adds a loss, cut off at twice the largest average so that a spike passes."""
    decays = _decays(num_steps)
    correction = 1.0 - decays ** (state.seen.astype(jnp.float32) + 1.0)
    largest = jnp.max(state.means / correction)
    largest = jnp.where(state.seen == 0, loss, largest)
    loss = jnp.minimum(2.0 * jnp.abs(largest), loss)
    means = state.means * decays + loss * (1.0 - decays)
    return LossAverages(
        means=means,
        running_min=jnp.minimum(state.running_min, means / correction),
        seen=state.seen + 1,
    )


def loss_features(state: LossAverages, num_steps: jax.Array) -> jax.Array:
    """`[9]` values in -1..1: each average between its minimum and the next longer one.

    Zero for the first two steps, when the averages are nothing but the first losses.
    """
    decays = _decays(num_steps)
    means = state.means / (1.0 - decays ** state.seen.astype(jnp.float32))
    low = state.running_min[:-1]
    span = jnp.maximum(1e-8, means[1:] - low)
    position = jnp.clip((means[:-1] - low) / span - 1.0, -1.0, 1.0)
    return jnp.where(state.seen <= 2, 0.0, position)


def loss_fall(state: LossAverages, num_steps: jax.Array) -> jax.Array:
    r"""How far the loss has fallen below its average over the training, a scalar.

    The logarithm of the longest average over the shortest, in -10..10: 0 for a loss
    that stays where it is, whatever its scale, and large for one that nears 0. It is 0
    too where one of them is negative or not finite, as such a loss nears nothing.

    Args:
        state: of one loss at least.
        num_steps: the longest half-life.
    """
    decays = _decays(num_steps)
    means = state.means / (1.0 - decays ** state.seen.astype(jnp.float32))
    short, long = means[0], means[-1]
    low, high = jnp.minimum(short, long), jnp.maximum(short, long)
    defined = (low >= 0) & (high > 0) & jnp.isfinite(high)
    # Bounds before the division, which then has a derivative at a loss of 0.
    longest, shortest = (
        jnp.where(defined, jnp.maximum(x, _FARTHEST * high), 1.0) for x in (long, short)
    )
    return jnp.log(longest / shortest)
