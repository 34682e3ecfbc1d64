"""Metrics of a run: JSON lines and TensorBoard events on disk, Weights & Biases."""

import importlib
import json
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorboardX import RecordWriter
from tensorboardX.proto import event_pb2, summary_pb2

from meta_train.outer import OuterMetrics


# protobuf makes these when it is imported, unseen by type checkers.
_Event: Any = vars(event_pb2)["Event"]
_SessionLog: Any = vars(event_pb2)["SessionLog"]
_Summary: Any = vars(summary_pb2)["Summary"]


def summarise(step: int, metrics: OuterMetrics, names: Sequence[str]) -> dict[str, Any]:
    """One row for the outer steps of a dispatch, the last of which made `step`.

    Means of the losses and norms over the outer steps that were not skipped, sums of
    the counts. Not finite becomes None.

    Args:
        step: outer steps made.
        metrics: of the dispatch, with a leading axis of outer steps.
        names: of the families.
    """
    made = np.asarray(metrics.skipped) == 0
    row: dict[str, Any] = {
        "step": step,
        "meta_loss": _mean(np.asarray(metrics.meta_loss)[made]),
        "gradient_norm": _mean(np.asarray(metrics.gradient_norm)[made]),
        "skipped": int(metrics.skipped[-1]),
    }
    counts = ("valid", "non_finite", "restarts")
    families = metrics.families
    for name in counts:
        row[name] = int(np.sum(getattr(families, name)))
    row["families"] = {}
    for i, family in enumerate(names):
        used = np.asarray(families.used)[:, i] == 1
        row["families"][family] = {
            "meta_loss": _mean(np.asarray(families.meta_loss)[used, i]),
            "gradient_norm": _mean(np.asarray(families.gradient_norm)[used, i]),
            **{n: int(np.sum(np.asarray(getattr(families, n))[:, i])) for n in counts},
            "updates": int(np.sum(used)),
        }
    return row


def _mean(values: Any) -> float | None:
    """The mean; None where there is nothing, or something is not finite."""
    mean = float(np.mean(values)) if np.size(values) else math.nan
    return mean if math.isfinite(mean) else None


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a row by their paths, like `families/quadratic/meta_loss`."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif value is not None:
            found[f"{prefix}{name}"] = value
    return found


class Log(Protocol):
    """Where rows go."""

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row."""

    def sync(self) -> Any:
        """Lets readers see all rows."""

    def close(self) -> None:
        """Ends it."""


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


def read_lines(path: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    """Reads a file of JSON lines, which may be growing: a torn last one is left out.

    Args:
        path: the file; one that is not there has no lines.
        needed: what every line names.

    Raises:
        ValueError: a line is no JSON object, or lacks something.
    """
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path} must hold a JSON object a line, line {number}: {error}"
            ) from error
        if not isinstance(row, dict) or not row.keys() >= set(needed):
            raise ValueError(
                f"a line of {path} must be a JSON object of {', '.join(needed)}, line "
                f"{number} is {line.decode()[:80]}"
            )
        rows.append(row)
    return rows


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
            for name, value in flat(row).items()
            if name != "step"
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


class WandB:
    """A run of Weights & Biases; what is resumed goes on in the same one."""

    def __init__(
        self, project: str, name: str, run_id: str, config: dict[str, Any]
    ) -> None:
        """Begins or continues the run.

        Args:
            project: where it is listed.
            name: of the run.
            run_id: what no other run has, and this one has whenever it goes on.
            config: of the run.

        Raises:
            ValueError: the package is not installed.
        """
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ValueError(
                "log.wandb needs the package wandb, which is not installed: "
                "pip install wandb"
            ) from error
        self._run: Any = wandb.init(
            project=project,
            name=name,
            id=run_id,
            resume="allow",
            config=config,
        )

    def append(self, row: dict[str, Any]) -> None:
        """Adds every number of a row under its path."""
        values = flat(row)
        self._run.log(values, step=int(values.pop("step")))

    def sync(self) -> None:
        """Nothing to do: rows are sent as they come."""

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()
