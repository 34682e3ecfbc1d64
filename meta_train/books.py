"""The rows of a run: to files of lines, TensorBoard and Weights & Biases."""

from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from l2o.config import to_dict
from meta_train.config import TrainConfig
from meta_train.directory import RunDirectory
from meta_train.metrics import JsonLines, Log, TensorBoard, WandB


class Lengths(NamedTuple):
    """Bytes of the files of lines at the moment of a checkpoint."""

    metrics: int = 0
    timing: int = 0


class Books(Protocol):
    """Where rows are written."""

    def append(self, row: dict[str, Any], timing: dict[str, Any]) -> None:
        """Adds a row of metrics, and what is to be told of its time."""

    def sync(self) -> Lengths:
        """Brings all to disk."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class RunBooks:
    """Those of process 0, which go on behind what a checkpoint counts on."""

    def __init__(
        self, directory: RunDirectory, config: TrainConfig, step: int, lengths: Lengths
    ) -> None:
        """Opens them; the directory is locked.

        Raises:
            OSError, ValueError: that cannot be done.
        """
        with ExitStack() as stack:
            self._metrics, self._timing = (
                stack.enter_context(closing(JsonLines(directory.local(path), length)))
                for path, length in (
                    (directory.metrics, lengths.metrics),
                    (directory.timing, lengths.timing),
                )
            )
            self._others: list[Log] = [
                TensorBoard(directory.local(directory.tensorboard), step)
            ]
            if config.log.wandb:
                self._others.append(
                    WandB(
                        config.log.wandb,
                        config.name,
                        directory.run_id(),
                        to_dict(config),
                    )
                )
            for log in self._others:
                stack.enter_context(closing(log))
            self._stack = stack.pop_all()

    def __enter__(self) -> "RunBooks":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def append(self, row: dict[str, Any], timing: dict[str, Any]) -> None:
        self._metrics.append(row)
        rate = timing["inner_steps_per_second"]
        for log in self._others:
            log.append({**row, "inner_steps_per_second": rate})
        self._timing.append(timing)

    def sync(self) -> Lengths:
        for log in self._others:
            log.sync()
        return Lengths(metrics=self._metrics.sync(), timing=self._timing.sync())


class NoBooks:
    """Those of other processes: rows are the same there, and written once."""

    def __enter__(self) -> "NoBooks":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def append(self, row: dict[str, Any], timing: dict[str, Any]) -> None:
        del row, timing

    def sync(self) -> Lengths:
        return Lengths()
