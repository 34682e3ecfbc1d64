"""The directory of a run: its config, its checkpoints, and who may write there.

config.json      the whole config and its hash
checkpoints/     step_N: the whole outer state after N outer steps
metrics.jsonl    a line per dispatch; part of what a resumed run reproduces
timing.jsonl     a line per dispatch: how long it took
run_id           where W&B is told of it: a word that no other run has
tensorboard/     the metrics as TensorBoard events
best/            with validation: the best theta so far, for `l2o.load`
optimizer/       the result, for `l2o.load`
report/          its evaluation

The directory may be in a bucket, `gs://`.
"""

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from l2o.config import build, config_hash, flat_diff, to_dict
from l2o.filesystem import filesystem_of, is_bucket, place
from l2o.processes import ALONE, Peers
from l2o.storage import (
    CheckpointError,
    Snapshot,
    exists,
    read_manifest,
    read_tree,
    write_snapshot,
)
from meta_train.config import CheckpointConfig, TrainConfig
from meta_train.locks import Lock, locked
from meta_train.outer import OuterState
from meta_train.workspace import InPlace, Workspace, workspace


STATE = "state"
"""Name of the tree of a checkpoint."""


class Restored(NamedTuple):
    """A checkpoint that was read back, and what was found on the way."""

    state: OuterState
    step: int
    facts: dict[str, Any]  # as given to `save`
    damaged: list[str]  # one line per newer checkpoint that was set aside


class RunDirectory:
    """Files of one run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Looks at a directory; raises ValueError as `l2o.filesystem.place`."""
        self.path = place(path)
        self._files = filesystem_of(self.path)
        self._lock: Lock | None = None
        self._workspace: Workspace = InPlace(self.path)

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
        return self._files.is_file(self.config)

    @property
    def has_optimizer(self) -> bool:
        """Whether the result is there."""
        return exists(self.optimizer)

    @property
    def has_report(self) -> bool:
        """Whether the report is complete, and of the optimizer that is there."""
        try:
            path = self.local(self.report) / "report.json"
            tree = json.loads(path.read_text(encoding="utf-8"))
            judged = tree["contenders"][0]["provenance"]["theta_sha256"]
            return judged == read_manifest(self.optimizer)["theta_sha256"]
        except (OSError, ValueError, TypeError, LookupError):  # Or not as written.
            return False

    def is_finished(self, config: TrainConfig) -> bool:
        """Whether all that `config` asks for is there: optimizer, report if any."""
        wanted = config.outer.steps
        if wanted not in self.steps() or not self.has_optimizer:
            return False
        try:
            if self.facts(wanted)["best"]:
                wanted = read_manifest(self.best)["outer_step"]
            found = read_manifest(self.optimizer)["outer_step"]
        except (CheckpointError, KeyError):  # They are to be made again.
            return False
        # A budget may have ended an earlier life of the run with another one.
        return found == wanted and (not config.suite or self.has_report)

    def facts(self, step: int) -> dict[str, Any]:
        """What was saved beside the checkpoint of so many outer steps.

        Raises:
            CheckpointError: its manifest is damaged, or there is none.
        """
        return read_manifest(self._checkpoint(step))

    def last_row(self) -> dict[str, Any] | None:
        """The last row of metrics that is whole, if there is any."""
        with suppress(OSError, ValueError, IndexError):
            text = self.local(self.metrics).read_text(encoding="utf-8")
            return json.loads(text.splitlines()[-1])
        return None

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
            if self._files.exists(path):
                raise ValueError(
                    f"a new run needs a directory of its own, {self.path} holds "
                    f"{path.name} and no config.json"
                )

    @contextmanager
    def locked(self, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Holds the directory against other processes; the lock dies with its owner.

        Args:
            say: is told that it waits for an owner of a bucket that may be dead.

        Raises:
            ValueError: another process holds it, or it cannot be made or written.
            OSError: a bucket cannot be reached.
        """
        if not is_bucket(self.path):  # That has none.
            make_directory(self.path)
        names = (self.metrics.name, self.timing.name, self.report.name)
        with locked(self.path, say) as lock, workspace(self.path, names) as opened:
            before = self._workspace
            self._lock, self._workspace = lock, opened
            try:
                yield
            except BaseException:
                with suppress(OSError, ValueError):  # That error says more.
                    self._publish()
                raise
            else:
                self._publish()
            finally:
                self._lock, self._workspace = None, before

    def _publish(self) -> None:
        if self._lock is not None:
            self._lock.confirm()
        self._workspace.publish()

    def local(self, path: Path) -> Path:
        """Where to write a file that grows, or is drawn, while `locked`."""
        return self._workspace.root / path.relative_to(self.path)

    def run_id(self) -> str:
        """A random word that is this run's alone, from the first time it is asked."""
        path = self.path / "run_id"
        if not self._files.is_file(path):
            self._files.write(path, secrets.token_hex(8).encode())
        return self._files.read(path).decode()

    def write_config(self, config: TrainConfig) -> None:
        """Records what the run is."""
        mapping = to_dict(config)
        content = {"config": mapping, "config_hash": config_hash(mapping)}
        # In the order as it is: where several patterns match, the last one counts.
        text = json.dumps(content, indent=2) + "\n"
        self._files.write(self.config, text.encode())

    def require_same_config(self, config: TrainConfig) -> None:
        """Raises ValueError naming a field in which `config` is not that of the run."""
        # What is new since the run was begun is as by default.
        recorded = build(TrainConfig, self.recorded_config(), where=str(self.config))
        for field, before, now in flat_diff(to_dict(recorded), to_dict(config)):
            raise ValueError(
                f"a run must be resumed with its own config, {field} was {before!r} "
                f"and is now {now!r} ({self.config})"
            )
        given = config.patterns()
        for field, before in recorded.patterns().items():
            if given[field] != before:
                raise ValueError(
                    f"a run must be resumed with its own config, {field} had the order "
                    f"{', '.join(before)} and has now {', '.join(given[field])} "
                    f"({self.config})"
                )

    def recorded_config(self) -> dict[str, Any]:
        """The config of the run that was begun here.

        Raises:
            ValueError: it is not as it was written.
        """
        try:
            content = json.loads(self._files.read(self.config))
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
        self,
        state: Snapshot,
        step: int,
        facts: dict[str, Any],
        config: CheckpointConfig,
        peers: Peers = ALONE,
        spared: int | None = None,
    ) -> None:
        """Writes a checkpoint, then removes those that are not to be kept.

        Args:
            state: of `STATE` alone, an outer state, from `l2o.storage.snapshot`.
            step: outer steps made.
            facts: to be kept beside it.
            config: which checkpoints stay.
            peers: who writes other parts of it.
            spared: the outer step of one that stays for now, whatever its age.

        Raises:
            OSError: it cannot be written; others are intact.
            ValueError: another process has taken over the directory.
            PeersError: one of these happened in another process, or that is gone.
        """
        path = self._checkpoint(step)
        facts = {"step": step, **facts}
        # A checkpoint counts on the lines that were written before it.
        peers.by_first("publishing", self._publish)
        write_snapshot(path, state, facts, overwrite=True, peers=peers)
        if peers.is_first:
            for old in self.steps()[config.keep :]:
                regular = config.keep_every and old % config.keep_every == 0
                if not regular and old != spared:
                    with suppress(OSError):  # It is tried again at the next one.
                        self._files.remove(self._checkpoint(old))

    def restore(self, like: OuterState, peers: Peers = ALONE) -> Restored | None:
        """The newest checkpoint that verifies; None when there never was one.

        Process 0 finds it. Newer ones that do not verify are set aside under another
        name, and what killed writers left half done is removed.

        Raises:
            CheckpointError: there are checkpoints and none is good.
            PeersError: process 0 says so.
        """
        read: dict[str, Any] = {}

        def find() -> dict[str, Any] | None:
            found = self._newest(like)
            if found is not None:
                read.update(state=found.state, facts=found.facts)
                return {"step": found.step, "damaged": found.damaged}
            return None

        if (found := peers.by_first("restore", find)) is None:
            return None
        if not read:
            trees, facts = read_tree(self._checkpoint(found["step"]), {STATE: like})
            read.update(state=trees[STATE], facts=facts)
        return Restored(read["state"], found["step"], read["facts"], found["damaged"])

    def find_good(
        self, like: OuterState, before: int | None, peers: Peers = ALONE
    ) -> Restored | None:
        """The newest checkpoint that verifies, and whose last step was not skipped.

        Args:
            like: shapes of an outer state.
            before: only those of fewer outer steps; None for all.
            peers: who is to have it as well.
        """

        def find() -> int | None:
            for step in self.steps():
                if before is not None and step >= before:
                    continue
                with suppress(CheckpointError):
                    _, facts = read_tree(self._checkpoint(step), {STATE: like})
                    if not facts.get("skipped"):
                        return step
            return None

        if (step := peers.by_first("roll-back", find)) is None:
            return None
        trees, facts = read_tree(self._checkpoint(step), {STATE: like})
        return Restored(trees[STATE], step, facts, [])

    def remove_after(self, step: int) -> None:
        """Removes the checkpoints of more outer steps."""
        for newer in self.steps():
            if newer > step:
                self._files.remove(self._checkpoint(newer))

    def _newest(self, like: OuterState) -> Restored | None:
        self._files.tidy(self._checkpoints, [STATE])
        damaged = []
        for step in self.steps():
            path = self._checkpoint(step)
            try:
                trees, manifest = read_tree(path, like={STATE: like})
            except CheckpointError as error:
                damaged.append(str(error))
                continue
            for bad in self.steps():
                if bad > step:
                    self._set_aside(bad)
            return Restored(trees[STATE], step, manifest, damaged)
        if damaged:
            raise CheckpointError(
                f"a run must have one good checkpoint to be resumed, all "
                f"{len(damaged)} are damaged, the newest: {damaged[0]}"
            )
        return None

    def steps(self) -> list[int]:
        """Outer steps of the committed checkpoints, newest first."""
        names = self._files.checkpoints(self._checkpoints)
        found = (re.fullmatch(r"step_(\d{8,})", name) for name in names)
        return sorted((int(match[1]) for match in found if match), reverse=True)

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _checkpoint(self, step: int) -> Path:
        return self._checkpoints / f"step_{step:08d}"

    def _set_aside(self, step: int) -> None:
        path = self._checkpoint(step)
        self._files.move(path, path.with_name(f"damaged_{path.name}"))


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
    """The one with the highest number; `root/name` without any."""
    found = (re.fullmatch(rf"{re.escape(name)}-(\d+)", p.name) for p in root.glob("*"))
    numbers = [int(match[1]) for match in found if match]
    return root / f"{name}-{max(numbers)}" if numbers else root / name
