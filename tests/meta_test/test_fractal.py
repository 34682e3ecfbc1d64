"""Dimensions of sets that are known."""

import math
from typing import Any

import numpy as np
import pytest

from meta_test.fractal import (
    MIN_PIXELS,
    boundary,
    box_dimension,
    count_boxes,
    nearest_point,
    richest,
)


SIZE = 128
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]


def koch(size: int, depth: int = 6) -> np.ndarray:
    """Pixels of Koch's curve."""
    points: Any = np.array([0.0, 1.0], complex)
    for _ in range(depth):
        a, b = points[:-1], points[1:]
        third = (b - a) / 3
        tip = a + third * (1 + np.exp(1j * math.pi / 3))
        points = np.stack([a, a + third, tip, b - third], axis=1).ravel()
        points = np.append(points, 1.0)
    # As close together as pixels are.
    fine = (points[:-1, None] + np.diff(points)[:, None] * np.linspace(0, 1, 8)).ravel()
    picture = np.zeros((size, size), bool)
    rows, columns = np.stack([fine.imag, fine.real]) * (size - 1)
    picture[rows.astype(int), columns.astype(int)] = True
    return picture


@pytest.mark.parametrize(
    "mask",
    [
        COLUMNS < 50,
        ROWS < 64,
        ROWS > COLUMNS,
        2 * ROWS + 10 > COLUMNS,
        0.31 * COLUMNS + 40 < ROWS,
        100 - 0.5 * COLUMNS < ROWS,
        127 - COLUMNS < ROWS,
    ],
    ids=["vertical", "horizontal", "diagonal", "steep", "flat", "down", "downwards"],
)
def test_a_straight_line(mask):
    found = box_dimension(boundary(mask))
    assert found is not None
    assert found.value == pytest.approx(1.0, abs=0.05)
    assert found.standard_error < 0.02


def test_a_boundary_that_is_everywhere():
    found = box_dimension(boundary((ROWS + COLUMNS) % 2 == 0))
    assert found is not None
    assert found.value == pytest.approx(2.0, abs=0.01)
    assert found.standard_error < 0.01


@pytest.mark.parametrize(
    ("points", "dimension"),
    [
        # Pascal's triangle, odd numbers.
        (ROWS & COLUMNS == 0, math.log2(3)),
        (koch(512), math.log(4) / math.log(3)),
    ],
    ids=["sierpinski", "koch"],
)
def test_fractals(points, dimension):
    found = box_dimension(points)
    assert found is not None
    assert found.value == pytest.approx(dimension, abs=0.1)


def test_the_error_is_that_of_the_slope():
    """Against a fit that is written otherwise."""
    points = boundary(koch(128))
    found = box_dimension(points)
    sides = np.array([1, 2, 4, 8, 16, 32])
    counts = [count_boxes(points, side) for side in sides]
    (slope, _), covariance = np.polyfit(-np.log(sides), np.log(counts), 1, cov=True)
    assert found is not None
    assert found.value == pytest.approx(slope)
    assert found.standard_error == pytest.approx(math.sqrt(covariance[0, 0]))


def test_boundary_by_hand():
    mask = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 0]], bool)
    np.testing.assert_array_equal(boundary(mask), [[0, 1, 1], [0, 1, 1], [0, 1, 0]])


def test_boxes_by_hand():
    points = np.zeros((5, 5), bool)
    points[0, 0] = points[1, 1] = points[4, 4] = points[0, 4] = True
    assert [count_boxes(points, side) for side in (1, 2, 4, 5)] == [4, 3, 3, 1]


def test_what_has_no_dimension():
    assert box_dimension(np.zeros((SIZE, SIZE), bool)) is None
    few = (ROWS == 5) & (COLUMNS < MIN_PIXELS)
    assert box_dimension(few) is not None
    assert box_dimension(few & (COLUMNS > 0)) is None
    assert box_dimension(np.ones((15, 15), bool)) is None


def test_the_richest_place():
    points = np.zeros((64, 64), bool)
    points[:, 3] = True  # 8 in each of its regions
    points[40:44, 32:35] = True  # 12 in one, whose middle is 43.5, 35.5
    assert richest(points) == (43, 34)
    assert nearest_point(points, 0.0, 0.0) == (0, 3)
    assert nearest_point(points, -9.0, 99.0) == (40, 34)
    one = np.zeros((10, 10), bool)
    one[9, 9] = True
    assert richest(one) == (9, 9)
