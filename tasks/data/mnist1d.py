"""MNIST-1D: noisy, shifted and sheared signals, 40 numbers each. Synthetic.

5,000 examples of 10 classes: one template a digit, transformed at random (Greydanus and
Kobak, "Scaling down deep learning with MNIST-1D", 2024). What `make_dataset` of mnist1d
0.0.2.post1 (Apache-2.0) makes with its default arguments, seed 42; its 1,000 test
examples are the test split here. Numbers are rounded to 16-bit floats, 11 significant
bits; the whole has mean 0 and deviation 1.
"""

import functools
from collections.abc import Mapping

import numpy as np

from tasks.base import Split
from tasks.data.arrays import Examples
from tasks.data.packaged import in_order, read_packaged


SHA256 = "ab2001f0fd1d180eb03c03e86dc47b589cb104acd0c066d2fad846f3c515d1d9"
SOURCE = "Greydanus and Kobak (2024), made by mnist1d 0.0.2.post1 with its defaults"
LICENCE = "Apache-2.0"
SIZES: Mapping[Split, int] = {
    "train": 3000,
    "inner_valid": 500,
    "outer_valid": 500,
    "test": 1000,
}


@functools.cache
def load() -> Examples:
    """Reads the signals, once per process.

    Returns:
        Inputs `[examples, 40]` float32.

    Raises:
        ValueError: the packaged file is damaged.
    """
    arrays = read_packaged("mnist1d.npz", SHA256)
    signals = arrays["signals"].astype(np.float32)
    return in_order(signals, arrays["labels"].astype(np.int32), 10, SIZES)
