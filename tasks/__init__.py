"""Tasks: problems to train on, and distributions of them.

A new family is one file with a `TaskFamily` and one row in `FAMILIES`; a new data set
is one loader and one row in `DATASETS`.
"""

from collections.abc import Callable
from typing import Any

from tasks.base import (
    SPLITS as SPLITS,
    Split as Split,
    Task as Task,
    TaskFamily as TaskFamily,
)
from tasks.data import digits
from tasks.data.arrays import Labelled
from tasks.image_mlp import ImageMLP as ImageMLP
from tasks.quadratic import Quadratic as Quadratic


FAMILIES: dict[str, Any] = {
    "image_mlp": ImageMLP,
    "quadratic": Quadratic,
}
"""`TaskFamily`s by name: dataclasses whose static fields are their configuration."""

DATASETS: dict[str, Callable[[], Labelled]] = {"digits": digits.load}
"""Loaders by name, for families with a field `data`."""
