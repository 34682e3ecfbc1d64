"""Checks of what families are built from: one line that says rule, cause and value."""

import math
from collections.abc import Iterable, Sequence
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


def require_number(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """`value` must be a finite number in [low, high]."""
    ok = type(value) in (int, float) and math.isfinite(value)
    if not ok or not low <= value <= high:
        rule = "finite and" if high == math.inf else f"at most {high} and"
        raise ValueError(f"{name} must be {rule} at least {low}, got {value!r}")


def require_choices(name: str, values: Any, known: Iterable[str]) -> None:
    """`values` must be one or more different names out of `known`."""
    known = list(known)
    ok = isinstance(values, tuple) and values and set(values) <= set(known)
    if not ok or len(set(values)) < len(values):
        raise ValueError(
            f"{name} must be one or more of {', '.join(known)}, got {values!r}"
        )
