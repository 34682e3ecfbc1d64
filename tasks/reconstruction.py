"""What tasks that reconstruct images share: how pixels are spread, losses of pixels."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tasks.data.arrays import Labelled
from tasks.sampling import index, pick


_ENOUGH = 1000
"""Images from which the distribution of pixels is known well enough."""


class PixelSpec(NamedTuple):
    """The images of one problem, and how their pixels are spread."""

    source: jax.Array  # shape=(), int32: which of the data sets
    mean: jax.Array  # shape=(), float32: of all pixels
    variance: jax.Array  # shape=(), float32: of all pixels
    entropy: jax.Array  # shape=(), float32: mean of `entropy(pixel)`


def entropy(chance: jax.Array) -> jax.Array:
    """Entropy in nats of coins that show heads with these chances; elementwise."""
    return jax.scipy.special.entr(chance) + jax.scipy.special.entr(1.0 - chance)


def sample_pixels(key: jax.Array, data: Labelled) -> PixelSpec:
    """Draws one of the data sets; vmap me."""
    return pixels_of(data, index(key, data.names))


def pixels_of(data: Labelled, source: jax.Array) -> PixelSpec:
    """How the pixels of the first thousand training images of a data set are spread.

    Args:
        data: images with pixels in 0..1.
        source: which of the data sets.

    Raises:
        ValueError: the data are no images.
    """
    if len(data.shape) != 3:
        raise ValueError(
            "data must be images [height, width, channels], "
            f"got examples of shape {data.shape}"
        )
    seen, begin = [], 0
    # All data sets whatever the source: nothing is repeated for each of many specs.
    for count in data.counts[0]:
        places = begin + jnp.arange(min(count, _ENOUGH), dtype=jnp.int32)
        pixels, _ = data.take("train", places)
        seen.append((jnp.mean(pixels), jnp.var(pixels), jnp.mean(entropy(pixels))))
        begin += count
    return PixelSpec(source, *(pick(each, source) for each in zip(*seen, strict=True)))


def log_odds(chance: jax.Array) -> jax.Array:
    """The logit of a chance: what a network's logits of pixels are added to.

    So the network starts near the mean pixel, the best constant, under either loss.
    """
    return jnp.log(chance) - jnp.log1p(-chance)


def _squared(logits: jax.Array, pixels: jax.Array) -> jax.Array:
    return jnp.square(jax.nn.sigmoid(logits) - pixels)


def _cross_entropy(logits: jax.Array, pixels: jax.Array) -> jax.Array:
    return jax.nn.softplus(logits) - pixels * logits


class _Loss(NamedTuple):
    function: Callable[[jax.Array, jax.Array], jax.Array]
    start: Callable[[PixelSpec], jax.Array]  # of the mean pixel everywhere
    best: Callable[[PixelSpec], jax.Array]  # of the pixels themselves


RECONSTRUCTION = {
    "squared": _Loss(_squared, lambda p: p.variance, lambda p: jnp.zeros_like(p.mean)),
    "cross_entropy": _Loss(
        _cross_entropy, lambda p: entropy(p.mean), lambda p: p.entropy
    ),
}
"""Squared error of the pixel, and binary cross-entropy in nats with grey as a chance.

Functions of logits and pixels, elementwise. No prediction has a cross-entropy below the
entropy of the grey pixels.
"""


def pixel_count(data: Labelled) -> int:
    """Pixels of one image, those of each channel counted."""
    return math.prod(data.shape)
