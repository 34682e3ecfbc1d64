"""Handwritten digits, 8x8 grey levels: the smallest images.

1,797 images of 10 classes: the test part of "Optical Recognition of Handwritten Digits"
(Alpaydin and Kaynak, 1998), UCI Machine Learning Repository, CC BY 4.0, as distributed
with scikit-learn.
"""

import functools

import numpy as np

from tasks.data.arrays import Examples, deal
from tasks.data.packaged import SHARES, read_packaged


SHA256 = "b2dab7b501728c22e9119ad76740b2e17c77a231e42d1e592380d90886f1a05e"
SOURCE = (
    "Alpaydin and Kaynak (1998), UCI Machine Learning Repository, from scikit-learn"
)
LICENCE = "CC BY 4.0"


@functools.cache
def load() -> Examples:
    """Reads the images, once per process.

    Returns:
        Inputs `[examples, 8, 8, 1]` float32 in 0..1: the 17 grey levels over 16.

    Raises:
        ValueError: the packaged file is damaged.
    """
    arrays = read_packaged("digits.npz", SHA256)
    images = arrays["images"][..., None].astype(np.float32) / 16.0
    labels = arrays["labels"].astype(np.int32)
    return deal(images, labels, 10, SHARES, seed=0)
