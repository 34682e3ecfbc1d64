"""Checks of what families are built from: one line that says rule, cause and value."""

import math
from collections.abc import Sequence
from typing import Any


def require_sizes(name: str, values: Sequence[Any]) -> None:
    """Every entry must be a positive whole number."""
    for value in values:
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value!r}")


def require_range(name: str, bounds: Any) -> None:
    """`bounds` must be a pair `(low, high)` with 0 < low <= high, finite."""
    ok = isinstance(bounds, tuple) and len(bounds) == 2
    if not ok or not 0 < bounds[0] <= bounds[1] < math.inf:
        raise ValueError(
            f"{name} must be a range (low, high) with 0 < low <= high, got {bounds!r}"
        )
