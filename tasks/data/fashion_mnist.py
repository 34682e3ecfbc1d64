"""Fashion-MNIST in part: articles of clothing, 28x28 grey levels.

6,000 images of 10 classes from Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), MIT
licence: the first 500 of each class among the 60,000 training images, and the first 100
of each among the 10,000 test images, which are the test split here. Every split holds
every class equally often. Not comparable with results on all of Fashion-MNIST: a
twelfth of the training images, a tenth of the test images.
"""

import functools
from collections.abc import Mapping

import numpy as np

from tasks.base import Split
from tasks.data.arrays import Examples
from tasks.data.packaged import in_order, read_packaged


SHA256 = "91071241962417e3971455b4497972b5d7462e986db6e93a6b36f6b4c46abbb4"
SOURCE = "Xiao, Rasul and Vollgraf (2017), Zalando SE, 6,000 images from Debian"
LICENCE = "MIT"
SIZES: Mapping[Split, int] = {
    "train": 4000,
    "inner_valid": 500,
    "outer_valid": 500,
    "test": 1000,
}


@functools.cache
def load() -> Examples:
    """Reads the images, once per process.

    Returns:
        Inputs `[examples, 28, 28, 1]` uint8.

    Raises:
        ValueError: the packaged file is damaged.
    """
    arrays = read_packaged("fashion_mnist.npz", SHA256)
    images, labels = arrays["images"][..., None], arrays["labels"].astype(np.int32)
    return in_order(images, labels, 10, SIZES)
