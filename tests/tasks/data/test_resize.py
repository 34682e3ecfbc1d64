import numpy as np
import pytest

from tasks.data.resize import resize


def ramp(size, channels=1, dtype=np.float32):
    """`[1, size, size, channels]`: 0, 1, 2, ... along rows, then columns."""
    count = size * size * channels
    return np.arange(count, dtype=dtype).reshape(1, size, size, channels)


def test_half_the_size_is_the_mean_of_four():
    small = resize(ramp(4), 2)
    np.testing.assert_array_equal(small[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_a_pixel_between_two_new_ones_counts_half_in_each():
    """Each axis weighs (2, 1, 0) / 3 and (0, 1, 2) / 3."""
    small = resize(ramp(3), 2)
    weights = np.array([[2, 1, 0], [0, 1, 2]]) / 3
    np.testing.assert_allclose(
        small[0, :, :, 0], weights @ ramp(3)[0, :, :, 0] @ weights.T, rtol=1e-6
    )
    np.testing.assert_allclose(
        small[0, :, :, 0], [[4 / 3, 8 / 3], [16 / 3, 20 / 3]], rtol=1e-6
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_the_mean_is_kept(size):
    images = np.random.default_rng(0).random((3, 7, 9, 2), np.float32)
    small = resize(images, size)
    assert small.shape == (3, size, size, 2)
    assert small.dtype == np.float32
    np.testing.assert_allclose(
        small.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_same_size_changes_nothing(dtype):
    images = ramp(5, channels=3, dtype=dtype)
    np.testing.assert_array_equal(resize(images, 5), images)


def test_bytes_are_rounded_to_the_nearest_level():
    images = np.array([[0, 1], [1, 1]], np.uint8).reshape(1, 2, 2, 1)
    small = resize(images, 1)
    assert (small.dtype, small.item()) == (np.uint8, 1)
    white = np.full((1, 28, 28, 3), 255, np.uint8)
    assert (resize(white, 8) == 255).all()
    assert (resize(white, 8, grey=True) == 255).all()


def test_grey_weighs_the_channels():
    colours = np.eye(3, dtype=np.float32).reshape(3, 1, 1, 3)
    grey = resize(colours, 1, grey=True)
    np.testing.assert_allclose(grey.ravel(), [0.299, 0.587, 0.114], rtol=1e-6)


def test_grey_keeps_one_channel():
    np.testing.assert_array_equal(resize(ramp(4), 2, grey=True), resize(ramp(4), 2))


@pytest.mark.parametrize("size", [0, 4])
def test_enlarging_is_refused_in_one_line(size):
    rule = rf"^images must be resized to between 1 and 3 pixels, .*, got {size}$"
    with pytest.raises(ValueError, match=rule):
        resize(np.zeros((1, 3, 5, 1), np.uint8), size)


def test_two_channels_cannot_be_grey():
    with pytest.raises(ValueError, match=r"^images must have 1 or 3 channels.*got 2$"):
        resize(ramp(3, channels=2), 2, grey=True)
