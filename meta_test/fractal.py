"""Where a map is rough, and how rough: the boundary of a set and its dimension."""

import dataclasses
import math

import numpy as np


MIN_PIXELS = 16
"""A boundary of fewer pixels has no dimension."""

_BOXES = 4
"""So many of the largest boxes stand side by side, at least."""

_REGIONS = 8
"""So many regions of a map stand side by side."""


@dataclasses.dataclass(frozen=True)
class Dimension:
    """The slope of a straight line through counts of boxes.

    Attributes:
        value: between 1 for a smooth curve and 2 for an area.
        standard_error: of the slope, by the residuals of the line. Counts at different
            sizes are of the same pixels, so that it tells how straight the line is, and
            not how far off the dimension.
    """

    value: float
    standard_error: float


def boundary(mask: np.ndarray) -> np.ndarray:
    """Where a pixel and its neighbours to the next row and column are not all alike.

    A point of it is the corner between four pixels, of which the one that comes first
    has its place. So a straight line has the same dimension in every direction, which
    it had not if two neighbours were looked at and not the diagonal one.

    Args:
        mask: `[rows, columns]`, bool.

    Returns:
        `[rows, columns]`, bool; there is nothing beyond the last row and column.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    others = (padded[1:, :-1], padded[:-1, 1:], padded[1:, 1:])
    return np.logical_or.reduce([mask != other for other in others])


def count_boxes(points: np.ndarray, side: int) -> int:
    """How many boxes of a grid have a point in them.

    Args:
        points: `[rows, columns]`, bool.
        side: of a box, in pixels. The last box of a row or a column may be cut off.
    """
    return int((_sums(points, side) > 0).sum())


def box_dimension(points: np.ndarray) -> Dimension | None:
    r"""The dimension of a set of pixels, by counting boxes.

    $$ \log N(s) \approx c + D \log \frac1s $$

    where N(s) of the boxes of side s have a point in them, for s = 1, 2, 4, ... up to a
    quarter of the shorter side of the picture; D is the slope by least squares.

    Args:
        points: `[rows, columns]`, bool.

    Returns:
        The slope, or None where there are fewer than `MIN_PIXELS` points or fewer than
        three sizes of boxes.

    Source: Sohl-Dickstein 2024, "The boundary of neural network trainability is
    fractal", arXiv 2402.06184, takes the median of the slopes between neighbouring
    sizes, over many maps; one slope has an error that a single map can tell.
    """
    sides = [2**k for k in range(max(1, min(points.shape)).bit_length())]
    sides = [side for side in sides if _BOXES * side <= min(points.shape)]
    if points.sum() < MIN_PIXELS or len(sides) < 3:
        return None
    x = -np.log(sides)
    y = np.log([count_boxes(points, side) for side in sides])
    x, y = x - x.mean(), y - y.mean()
    slope = (x @ y) / (x @ x)
    residuals = y - slope * x
    variance = (residuals @ residuals) / (len(sides) - 2)
    return Dimension(float(slope), math.sqrt(variance / (x @ x)))


def richest(points: np.ndarray) -> tuple[int, int]:
    """The point nearest to the middle of the region that has most points.

    The picture is cut into 8 x 8 regions; of several, the first of the lowest row.

    Args:
        points: `[rows, columns]`, bool; not all False.

    Returns:
        Its row and its column.
    """
    side = max(1, -(-max(points.shape) // _REGIONS))
    sums = _sums(points, side)
    row, column = np.unravel_index(np.argmax(sums), sums.shape)
    middle = (side - 1) / 2
    return nearest_point(points, side * row + middle, side * column + middle)


def nearest_point(points: np.ndarray, row: float, column: float) -> tuple[int, int]:
    """The point nearest to a place, in pixels.

    Args:
        points: `[rows, columns]`, bool; not all False.
        row: of the place; may be between pixels, or outside.
        column: likewise.

    Returns:
        Its row and its column.
    """
    rows, columns = np.nonzero(points)
    index = np.argmin((rows - row) ** 2 + (columns - column) ** 2)
    return int(rows[index]), int(columns[index])


def _sums(points: np.ndarray, side: int) -> np.ndarray:
    """Points in each box of a grid, `[boxes, boxes]`."""
    rows, columns = (-n % side for n in points.shape)
    padded = np.pad(points, ((0, rows), (0, columns)))
    height, width = (n // side for n in padded.shape)
    return padded.reshape(height, side, width, side).sum(axis=(1, 3))
