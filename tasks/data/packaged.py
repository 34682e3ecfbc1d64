"""Data sets that travel with the code: how their files are read and split."""

import hashlib
import io
from collections.abc import Mapping
from importlib import resources

import numpy as np

from tasks.base import SPLITS, Split
from tasks.data.arrays import Examples


SHARES: Mapping[Split, float] = {
    "train": 0.6,
    "inner_valid": 0.1,
    "outer_valid": 0.1,
    "test": 0.2,
}
"""Of the examples of a data set that comes without splits of its own."""


def read_packaged(file: str, sha256: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a file in `tasks/data/files`.

    Args:
        file: its name, in NumPy's npz format.
        sha256: of the file as it was published, in hexadecimal.

    Returns:
        The arrays by name.

    Raises:
        ValueError: the file is not the one that was published.
    """
    content = (resources.files("tasks.data") / "files" / file).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{file} must have sha256 {sha256}, found {found}: "
            "the packaged data set is damaged; reinstall l2o"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def in_order(
    inputs: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    sizes: Mapping[Split, int],
) -> Examples:
    """Cuts examples that lie in the order of `SPLITS` into those splits.

    Args:
        inputs: `[examples, ...]`.
        labels: `[examples]`.
        num_classes: number of classes.
        sizes: examples of each split; all of them together.

    Returns:
        The examples of every split.
    """
    cuts = np.cumsum([sizes[s] for s in SPLITS])
    if cuts[-1] != len(inputs):
        raise ValueError(
            f"the splits must hold all {len(inputs)} examples, got {dict(sizes)}"
        )
    return Examples(
        inputs=dict(zip(SPLITS, np.split(inputs, cuts[:-1]), strict=True)),
        labels=dict(zip(SPLITS, np.split(labels, cuts[:-1]), strict=True)),
        num_classes=num_classes,
    )
