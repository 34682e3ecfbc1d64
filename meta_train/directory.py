"""The directory of a run: its config, its checkpoints, and who may write there.

config.json      the whole config and its hash
checkpoints/     step_N: the whole outer state after N outer steps
metrics.jsonl    a line per dispatch; part of what a resumed run reproduces
timing.jsonl     a line per dispatch: how long it took
tensorboard/     the metrics as TensorBoard events
best/            with validation: the best theta so far, for `l2o.load`
optimizer/       the result, for `l2o.load`
report/          its evaluation
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from l2o.config import config_hash, flat_diff, to_dict
from l2o.storage import CheckpointError, read_tree, write_tree
from meta_train.config import TrainConfig
from meta_train.outer import OuterState


class Restored(NamedTuple):
    """A checkpoint that was read back, and what was found on the way."""

    state: OuterState
    step: int
    facts: dict[str, Any]  # as given to `save`
    damaged: list[str]  # one line per newer checkpoint that was set aside


class RunDirectory:
    """Files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        return self.path / "timing.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def optimizer(self) -> Path:
        return self.path / "optimizer"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def has_run(self) -> bool:
        """Whether a run was begun here."""
        return self.config.is_file()

    @property
    def has_report(self) -> bool:
        """Whether the report is complete."""
        return (self.report / "report.json").is_file()

    def is_finished(self, config: TrainConfig) -> bool:
        """Whether all that `config` asks for is there: optimizer, report if any."""
        trained = config.outer.steps in self.steps() and self.optimizer.is_dir()
        return trained and (not config.suite or self.has_report)

    def require_free(self) -> None:
        """Raises ValueError when there are files here that a new run would change."""
        for path in (
            self._checkpoints,
            self.metrics,
            self.timing,
            self.tensorboard,
            self.best,
            self.optimizer,
            self.report,
        ):
            if path.exists():
                raise ValueError(
                    f"a new run needs a directory of its own, {self.path} holds "
                    f"{path.name} and no config.json"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory against other processes; the lock dies with its owner.

        Raises:
            ValueError: another process holds it, or it cannot be made or written.
        """
        make_directory(self.path)
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(
                f"a run directory must be one that can be written, got {error}"
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(lock, 20).decode().strip() or "unknown"
                raise ValueError(
                    f"a run directory must have one writer, {self.path} is in use by "
                    f"process {owner}"
                ) from None
            with suppress(OSError):  # The number is for people: a full disk can wait.
                os.truncate(lock, 0)
                os.write(lock, f"{os.getpid()}\n".encode())
            yield
        finally:
            os.close(lock)

    def write_config(self, config: TrainConfig) -> None:
        """Records what the run is."""
        mapping = to_dict(config)
        content = {"config": mapping, "config_hash": config_hash(mapping)}
        temporary = self.config.with_suffix(".json.tmp")
        with temporary.open("w") as file:
            json.dump(content, file, indent=2, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.config)

    def require_same_config(self, config: TrainConfig) -> None:
        """Raises ValueError naming a field in which `config` is not that of the run."""
        for field, before, now in flat_diff(self.recorded_config(), to_dict(config)):
            raise ValueError(
                f"a run must be resumed with its own config, {field} was {before!r} "
                f"and is now {now!r} ({self.config})"
            )

    def recorded_config(self) -> dict[str, Any]:
        """The config of the run that was begun here.

        Raises:
            ValueError: it is not as it was written.
        """
        try:
            content = json.loads(self.config.read_bytes())
            mapping, recorded = content["config"], content["config_hash"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.config} must be as it was written, got {error!r}"
            ) from error
        if config_hash(mapping) != recorded:
            raise ValueError(
                f"{self.config} must be as it was written, its config_hash differs"
            )
        return mapping

    def save(
        self, state: OuterState, step: int, facts: dict[str, Any], keep: int
    ) -> None:
        """Writes a checkpoint, then removes all but the newest `keep`."""
        path = self._checkpoint(step)
        write_tree(path, {"state": state}, {"step": step, **facts}, overwrite=True)
        for old in self.steps()[keep:]:
            shutil.rmtree(self._checkpoint(old), ignore_errors=True)

    def restore(self, like: OuterState) -> Restored | None:
        """The newest checkpoint that verifies; None when there never was one.

        Newer ones that do not verify are set aside under another name, and what killed
        writers left half done is removed.

        Raises:
            CheckpointError: there are checkpoints and none is good.
        """
        for leftover in self._checkpoints.glob(".step_*.tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        damaged = []
        for step in self.steps():
            path = self._checkpoint(step)
            try:
                trees, manifest = read_tree(path, like={"state": like})
            except CheckpointError as error:
                damaged.append(str(error))
                continue
            for bad in self.steps():
                if bad > step:
                    self._set_aside(bad)
            return Restored(trees["state"], step, manifest, damaged)
        if damaged:
            raise CheckpointError(
                f"a run must have one good checkpoint to be resumed, all "
                f"{len(damaged)} are damaged, the newest: {damaged[0]}"
            )
        return None

    def steps(self) -> list[int]:
        """Outer steps of the committed checkpoints, newest first."""
        names = (path.name for path in self._checkpoints.glob("step_*"))
        found = (re.fullmatch(r"step_(\d{8,})", name) for name in names)
        return sorted((int(match[1]) for match in found if match), reverse=True)

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _checkpoint(self, step: int) -> Path:
        return self._checkpoints / f"step_{step:08d}"

    def _set_aside(self, step: int) -> None:
        path = self._checkpoint(step)
        target = path.with_name(f"damaged_{path.name}")
        shutil.rmtree(target, ignore_errors=True)
        path.rename(target)


def make_directory(path: Path) -> None:
    """Makes a directory where there is none.

    Raises:
        ValueError: that cannot be done.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path} must be a directory or a place for one: {error.strerror}"
        ) from error


def free_directory(root: Path, name: str) -> Path:
    """`root/name`, or with the first number behind it that is not taken."""
    candidate, number = root / name, 1
    while candidate.exists():
        number += 1
        candidate = root / f"{name}-{number}"
    return candidate


def newest_directory(root: Path, name: str) -> Path:
    """The directory that `free_directory` gave last; `root/name` if it never did."""
    free = free_directory(root, name)
    number = int(free.name.removeprefix(name).removeprefix("-") or 1)
    return root / name if number <= 2 else root / f"{name}-{number - 1}"
