"""Metrics of a run on disk: JSON lines and TensorBoard events."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from meta_train.outer import OuterMetrics


def summarise(step: int, metrics: OuterMetrics) -> dict[str, Any]:
    """One row for the outer steps of a dispatch, the last of which made `step`.

    Means of the losses and norms, sums of the counts. Not finite becomes None.
    """
    row: dict[str, Any] = {"step": step}
    for name in ("meta_loss", "gradient_norm"):
        mean = float(np.mean(getattr(metrics, name)))
        row[name] = mean if math.isfinite(mean) else None
    for name in ("valid", "non_finite", "restarts"):
        row[name] = int(np.sum(getattr(metrics, name)))
    row["skipped"] = int(metrics.skipped[-1])
    return row


class JsonLines:
    """A file of JSON lines that can be cut back to a known length."""

    def __init__(self, path: Path, length: int) -> None:
        """Opens `path` for appending behind its first `length` bytes.

        Raises:
            ValueError: the file is shorter.
        """
        self._file = path.open("ab")
        found = path.stat().st_size
        if found < length:
            self._file.close()
            raise ValueError(
                f"{path} must hold the {length} bytes that the checkpoint counts on, "
                f"found {found}"
            )
        self._file.truncate(length)

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line."""
        self._file.write(json.dumps(row).encode() + b"\n")

    def sync(self) -> int:
        """Brings all lines to disk.

        Returns:
            The length of the file in bytes.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Flushes and closes."""
        self._file.close()


class TensorBoard:
    """Scalars as TensorBoard events."""

    def __init__(self, path: Path, step: int) -> None:
        """Opens a new file of events; events after `step` of older files are void."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(path), purge_step=step, flush_secs=30)

    def append(self, row: dict[str, Any]) -> None:
        """Adds every number of a row under its name."""
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()
