"""Means of losses with what noise there is in them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


_LARGEST = 1e15
"""Difference of neighbouring losses; a sum of 1e8 squares is finite in float32."""


class Level(NamedTuple):
    """A mean of losses; float32."""

    mean: jax.Array
    variance: jax.Array  # of the mean


class Window(NamedTuple):
    """Losses that are being averaged."""

    number: jax.Array  # shape=(), dtype=jnp.int32
    mean: jax.Array
    squares: jax.Array  # sum of squared differences of neighbours
    last: jax.Array
    lowest: jax.Array


def unknown() -> Level:
    """A level that was not measured: above all others, without noise."""
    return Level(jnp.full((), jnp.inf, jnp.float32), jnp.zeros((), jnp.float32))


def empty() -> Window:
    """A window that has seen nothing."""
    zero = lambda: jnp.zeros((), jnp.float32)
    none = jnp.full((), jnp.inf, jnp.float32)
    return Window(jnp.zeros((), jnp.int32), zero(), zero(), zero(), none)


def add(window: Window, loss: jax.Array) -> Window:
    """A window that has seen one loss more."""
    count = window.number + 1
    step = jnp.where(window.number > 0, loss - window.last, 0.0)
    # Beyond that the squares are infinite, and with such noise nothing is above.
    step = jnp.clip(step, -_LARGEST, _LARGEST)
    return Window(
        number=count,
        mean=window.mean + (loss - window.mean) / count,
        squares=window.squares + jnp.square(step),
        last=loss,
        lowest=jnp.minimum(window.lowest, loss),
    )


def level_of(window: Window) -> Level:
    """Of a window, its variance from neighbours: a trend is not taken for noise."""
    variance = window.squares / (2 * jnp.maximum(window.number - 1, 1))
    return Level(window.mean, variance / jnp.maximum(window.number, 1))


def at_end(earlier: Level, later: Level) -> Level:
    """By the line through the means of two halves: half a half after the later mean."""
    return Level(
        1.5 * later.mean - 0.5 * earlier.mean,
        2.25 * later.variance + 0.25 * earlier.variance,
    )


def above(
    one: Level, other: Level, deviations: float, allowed: jax.Array | float = 0.0
) -> jax.Array:
    """Whether a level is above another by more than noise and what is allowed."""
    noise = jnp.sqrt(one.variance + other.variance)
    return one.mean - other.mean > allowed + deviations * noise
