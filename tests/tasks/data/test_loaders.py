"""Every embedded data set of labelled examples: shapes, splits, values."""

import itertools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from tasks.base import SPLITS
from tasks.data import (
    digits,
    fashion_mnist,
    mnist,
    mnist1d,
    photo_patches,
    tabular,
)
from tasks.data.arrays import Examples
from tasks.data.packaged import read_packaged


class Row(NamedTuple):
    load: Callable[[], Examples]
    shape: tuple[int, ...]
    dtype: type
    num_classes: int
    sizes: tuple[int, ...]  # In the order of SPLITS.
    dealt: int  # Checksum of all labels: the same examples in each split as ever.


ROWS = {
    "breast_cancer": Row(
        tabular.breast_cancer, (30,), np.float32, 2, (341, 57, 57, 114), 0x5801437C
    ),
    "diabetes": Row(
        tabular.diabetes, (10,), np.float32, 4, (265, 44, 45, 88), 0x73A4979D
    ),
    "digits": Row(
        digits.load, (8, 8, 1), np.float32, 10, (1078, 180, 180, 359), 0x2BF440A3
    ),
    "fashion_mnist": Row(
        fashion_mnist.load, (28, 28, 1), np.uint8, 10, (4000, 500, 500, 1000), 0xEE76D7
    ),
    "iris": Row(tabular.iris, (4,), np.float32, 3, (89, 15, 15, 30), 0xAB0F6944),
    "mnist": Row(
        mnist.load, (28, 28, 1), np.uint8, 10, (3000, 500, 500, 1000), 0x44787650
    ),
    "mnist1d": Row(
        mnist1d.load, (40,), np.float32, 10, (3000, 500, 500, 1000), 0x662B872C
    ),
    "photo_patches": Row(
        photo_patches.load,
        (16, 16, 3),
        np.uint8,
        10,
        (4111, 455, 458, 1351),
        0xA7F6693E,
    ),
    "wine": Row(tabular.wine, (13,), np.float32, 3, (107, 18, 17, 36), 0x33C9F8EF),
}


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


def everything(arrays):
    return np.concatenate([arrays[s] for s in SPLITS])


def test_splits_have_the_published_sizes_and_shapes(row):
    data = row.load()
    assert data.num_classes == row.num_classes
    for split, size in zip(SPLITS, row.sizes, strict=True):
        assert data.inputs[split].shape == (size, *row.shape)
        assert data.inputs[split].dtype == row.dtype
        assert data.labels[split].shape == (size,)
        assert data.labels[split].dtype == np.int32


def test_every_split_has_every_class(row):
    data = row.load()
    for split in SPLITS:
        assert set(data.labels[split].tolist()) == set(range(row.num_classes)), split


def test_examples_are_dealt_as_ever(row):
    labels = everything(row.load().labels).astype("<i4")
    assert zlib.crc32(labels.tobytes()) == row.dealt


def test_no_example_is_in_two_splits(row):
    inputs = row.load().inputs
    rows = {s: {example.tobytes() for example in inputs[s]} for s in SPLITS}
    for one, two in itertools.combinations(SPLITS, 2):
        assert rows[one].isdisjoint(rows[two]), (one, two)


def test_levels_of_images_span_their_range(row):
    inputs = everything(row.load().inputs)
    if len(row.shape) == 1:
        assert np.isfinite(inputs).all()
        return
    greatest = 255 if row.dtype == np.uint8 else 1.0
    assert (inputs.min(), inputs.max()) == (0, greatest)


def test_mnist_holds_500_of_each_digit():
    labels = everything(mnist.load().labels)
    np.testing.assert_array_equal(np.bincount(labels), [500] * 10)


def test_every_split_of_fashion_mnist_is_balanced():
    for split, labels in fashion_mnist.load().labels.items():
        counts = np.bincount(labels)
        np.testing.assert_array_equal(counts, [len(labels) // 10] * 10, err_msg=split)


def test_mnist1d_has_mean_zero_and_deviation_one():
    """Exactly so before rounding to 16 bits, by at most 2**-11 of each number."""
    signals = everything(mnist1d.load().inputs).astype(np.float64)
    assert signals.mean() == pytest.approx(0.0, abs=1e-4)
    assert signals.std() == pytest.approx(1.0, abs=1e-4)


def test_bands_of_photographs_do_not_overlap_and_fill_the_width():
    bands = [photo_patches.BANDS[s] for s in SPLITS]
    assert (bands[0][0], bands[-1][1]) == (0, 256)
    assert all(one[1] == two[0] for one, two in itertools.pairwise(bands))


def test_a_patch_is_a_piece_of_its_photograph():
    photos = read_packaged("photo_patches.npz", photo_patches.SHA256)["photos"]
    data = photo_patches.load()
    coffee = photo_patches.PHOTOS.index("coffee")
    patches = data.inputs["test"][data.labels["test"] == coffee]
    left, right = photo_patches.BANDS["test"]
    # None of this photograph's is of one colour: 23 rows of 6, from the top left.
    assert len(patches) == 23 * 6
    band = photos[coffee][:, left:right]
    np.testing.assert_array_equal(patches[0], band[:16, :16])
    np.testing.assert_array_equal(patches[1], band[:16, 8:24])
    np.testing.assert_array_equal(patches[-1], band[-16:, -16:])


def test_patches_of_one_colour_are_left_out():
    for inputs in photo_patches.load().inputs.values():
        spread = np.ptp(inputs.reshape(len(inputs), -1, 3), axis=1)
        assert spread.max(axis=1).min() >= 8
