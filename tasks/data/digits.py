"""Handwritten digits, 8x8 grey levels: the embedded data set.

1,797 images of 10 classes: the test part of "Optical Recognition of Handwritten Digits"
(Alpaydin and Kaynak, 1998), UCI Machine Learning Repository, CC BY 4.0, as distributed
with scikit-learn.
"""

import functools
import hashlib
import io
from importlib import resources

import numpy as np

from tasks.base import Split
from tasks.data.arrays import Labelled, split_at_random


SHA256 = "b2dab7b501728c22e9119ad76740b2e17c77a231e42d1e592380d90886f1a05e"
SPLIT_FRACTIONS: dict[Split, float] = {
    "train": 0.6,
    "inner_valid": 0.1,
    "outer_valid": 0.1,
    "test": 0.2,
}


@functools.cache
def load() -> Labelled:
    """Reads the images into device arrays, once per process.

    Returns:
        Inputs of shape `[examples, 64]` scaled to 0..1, in four disjoint splits.

    Raises:
        ValueError: when the packaged file is not the one that was published.
    """
    file = resources.files("tasks.data") / "digits.npz"
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"digits.npz must have sha256 {SHA256}, found {found}: "
            "the packaged data set is damaged; reinstall l2o"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    pixels = images.reshape(len(images), -1).astype(np.float32) / 16.0
    return split_at_random(pixels, labels, 10, SPLIT_FRACTIONS, seed=0)
