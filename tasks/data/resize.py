"""Images made smaller by averaging areas, and grey."""

import numpy as np


LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (Recommendation ITU-R BT.601)."""


def resize(images: np.ndarray, size: int, grey: bool = False) -> np.ndarray:
    """Reduces images to `size` x `size`; each new pixel is the mean of what it covers.

    An old pixel that lies in several new ones counts in each by the area within it, so
    the mean of an image does not change. Along each axis this is a matrix of
    `_overlaps`; images that are not square are squeezed.

    Args:
        images: `[examples, height, width, channels]`, float32, or uint8.
        size: no more than height and width.
        grey: weigh three channels into one, by `LUMA`; one channel is kept.

    Returns:
        `[examples, size, size, channels]`, or 1 channel if grey, in the type of
        `images`; uint8 rounded to the nearest level.

    Raises:
        ValueError: `size` enlarges or is not positive, or the channels cannot be grey.
    """
    _, height, width, channels = images.shape
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"images must be resized to between 1 and {min(height, width)} pixels, "
            f"their own size, got {size}"
        )
    if grey and channels not in (1, 3):
        raise ValueError(
            f"images must have 1 or 3 channels to be made grey, got {channels}"
        )
    levels = images.astype(np.float32)
    if grey and channels == 3:
        levels = (levels @ np.asarray(LUMA, np.float32))[..., None]
    # Contract the later axis first: it leaves the channels where they are.
    levels = np.einsum("jw,nhwc->nhjc", _overlaps(width, size), levels, optimize=True)
    levels = np.einsum("ih,nhjc->nijc", _overlaps(height, size), levels, optimize=True)
    if images.dtype == np.uint8:
        levels = np.rint(levels)
    return np.ascontiguousarray(levels, images.dtype)


def _overlaps(old: int, new: int) -> np.ndarray:
    """`[new, old]`: the share of a new pixel that an old one covers; rows sum to 1."""
    edges = np.arange(new + 1)[:, None] * (old / new)
    pixels = np.arange(old)[None]
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (np.maximum(covered, 0) * (new / old)).astype(np.float32)
