"""The directory of a run: its config, its checkpoints, and who may write there.

config.json      the whole config and its hash
checkpoints/     step_N: the whole outer state after N outer steps
metrics.jsonl    a line per dispatch; part of what a resumed run reproduces
timing.jsonl     a line per dispatch: how long it took
tensorboard/     the metrics as TensorBoard events
optimizer/       the result, for `l2o.load`
report/          its evaluation
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
    def optimizer(self) -> Path:
        return self.path / "optimizer"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def has_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "config.json").is_file()

    def is_finished(self, config: TrainConfig) -> bool:
        """Whether all that `config` asks for is there: optimizer and, if any, report."""
        trained = config.outer.steps in self.steps() and self.optimizer.is_dir()
        return trained and (not config.suite or self.report.is_dir())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory against other processes; the lock dies with its owner."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise ValueError(
                    f"a run directory must have one writer, {self.path} is in use by "
                    f"process {owner}"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def write_config(self, config: TrainConfig) -> None:
        """Records what the run is."""
        mapping = to_dict(config)
        content = {"config": mapping, "config_hash": config_hash(mapping)}
        target = self.path / "config.json"
        temporary = target.with_suffix(".json.tmp")
        with temporary.open("w") as file:
            json.dump(content, file, indent=2, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def require_same_config(self, config: TrainConfig) -> None:
        """Raises ValueError naming a field in which `config` is not that of the run."""
        with (self.path / "config.json").open() as file:
            recorded = json.load(file)["config"]
        for field, before, now in flat_diff(recorded, to_dict(config)):
            raise ValueError(
                f"a run must be resumed with its own config, {field} was {before!r} "
                f"and is now {now!r} ({self.path / 'config.json'})"
            )

    def recorded_config(self) -> dict[str, Any]:
        """The config of the run that was begun here."""
        with (self.path / "config.json").open() as file:
            return json.load(file)["config"]

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

        Newer ones that do not verify are set aside under another name.

        Raises:
            CheckpointError: there are checkpoints and none is good.
        """
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
        folder = self.path / "checkpoints"
        names = [p.name for p in folder.glob("step_*")] if folder.is_dir() else []
        return sorted((int(n.removeprefix("step_")) for n in names), reverse=True)

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:08d}"

    def _set_aside(self, step: int) -> None:
        path = self._checkpoint(step)
        target = path.with_name(f"damaged_{path.name}")
        shutil.rmtree(target, ignore_errors=True)
        path.rename(target)


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
