"""Metrics of a run on disk: JSON lines and TensorBoard events."""

import json
import math
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import RecordWriter
from tensorboardX.proto import event_pb2, summary_pb2

from meta_train.outer import OuterMetrics


# protobuf makes these when it is imported, unseen by type checkers.
_Event: Any = vars(event_pb2)["Event"]
_SessionLog: Any = vars(event_pb2)["SessionLog"]
_Summary: Any = vars(summary_pb2)["Summary"]


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
        found = path.stat().st_size if path.exists() else 0
        if found < length:
            raise ValueError(
                f"{path} must hold the {length} bytes that the checkpoint counts on, "
                f"found {found}"
            )
        if found > length:
            os.truncate(path, length)
        self._file = path.open("ab")

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
    """Scalars as TensorBoard events.

    Not by tensorboardX's `SummaryWriter`, which writes from a thread: on a full disk
    the thread dies with a traceback, and the next scalars wait for it for ever.
    """

    def __init__(self, path: Path, step: int) -> None:
        """Opens a new file of events; events after `step` of older files are void."""
        path.mkdir(exist_ok=True)
        # The process in the name: two lives may begin within one second.
        place = f"{socket.gethostname()}.{os.getpid()}"
        file = path / f"events.out.tfevents.{time.time():010.0f}.{place}"
        self._writer = RecordWriter(str(file))
        self._write(file_version="brain.Event:2")
        start = _SessionLog(status=_SessionLog.START)
        # TensorBoard voids what is at this step or later.
        self._write(step=step + 1, session_log=start)

    def append(self, row: dict[str, Any]) -> None:
        """Adds every number of a row under its name."""
        values = [
            _Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name != "step" and value is not None
        ]
        self._write(step=row["step"], summary=_Summary(value=values))

    def sync(self) -> None:
        """Lets readers see all events."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()

    def _write(self, **content: Any) -> None:
        event = _Event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())
