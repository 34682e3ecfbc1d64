"""Where faults are tried: a small run, processes of it, and what must be the same."""

import contextlib
import os
import random
import re
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from l2o.storage import CheckpointError, read_manifest
from meta_train.bench.children import environment
from meta_train.launch import Group, newest_step
from meta_train.status import DONE, STOPPED


STEPS = 60
"""Outer steps of the run."""

INTERVAL = 0.2
"""Seconds between its checkpoints."""

HANG = 10.0
"""Seconds after which a process without progress ends itself."""

# Eight blocks. A problem lasts three windows: problems in flight, and the noise that
# they have gathered, are in every checkpoint.
CONFIG = f"""
name = "faults"

[optimizer]
arch = "small_fc"
hidden_size = 2

[task]
family = "quadratic"
dim = 4

[schedule]
kind = "constant"
horizon = 300

[estimator]
pairs = 16
block = 2
window = 100

[outer]
steps = {STEPS}
steps_per_dispatch = 1

[checkpoint]
seconds = {INTERVAL}

[faults]
hang_seconds = {HANG}
"""

LIMIT = 300.0
"""Seconds after which a life that goes on is a hang."""

_MARK = "L2O_FAULTS"
_LEFTOVERS = ("checkpoints/.*", ".*", "report/.*")


class Layout(NamedTuple):
    """Processes, and devices of each."""

    processes: int = 1
    devices: int = 1

    def __str__(self) -> str:
        return f"{self.processes}x{self.devices}"


ONE = Layout()


class Variant(NamedTuple):
    """A run that differs from that of the lab.

    Attributes:
        fault: of `faulty`, like `slow_disk=0.1`.
        overrides: of the config.
    """

    fault: str = ""
    overrides: tuple[str, ...] = ()


PLAIN = Variant()


class Life:
    """A run from a start of its processes to their end.

    Attributes:
        group: its processes.
        out: the directory of the run.
        began: when, on the clock `time.monotonic`.
        committed: outer steps of the newest checkpoint then, -1 of none.
    """

    def __init__(self, group: Group, out: Path, log: Path) -> None:
        self.group = group
        self.out = out
        self.began = time.monotonic()
        self.committed = newest_step(out)
        self._log = log
        self._skip = log.stat().st_size if log.exists() else 0

    @property
    def said(self) -> str:
        """What its processes have written so far."""
        with self._log.open("rb") as file:
            file.seek(self._skip)
            return file.read().decode(errors="replace")

    @property
    def is_compiling(self) -> bool:
        return "compiling, " in self.said

    @property
    def is_stepping(self) -> bool:
        return re.search(rf"^\d+/{STEPS}[,:]", self.said, re.MULTILINE) is not None

    @property
    def is_saving(self) -> bool:
        return any((self.out / "checkpoints").glob(".step_*"))

    @property
    def is_evaluating(self) -> bool:
        # What is not yet a report lies there under a hidden name.
        return any((self.out / "report").glob(".*"))

    def until(self, condition: "Callable[[Life], bool]") -> bool:
        """Waits for a condition; whether it came while all processes ran."""
        limit = time.monotonic() + LIMIT
        while not condition(self):
            if any(s is not None for s in self.group.statuses):
                return False
            if time.monotonic() > limit:
                return False
            time.sleep(0.001)
        return True

    def last(self, seconds: float) -> bool:
        """Lets it go on for so long; whether it still does."""
        return not self.group.wait(seconds)

    def end(self, limit: float = LIMIT) -> list[int]:
        """Waits for its end, and kills what has not ended by then.

        Returns:
            The statuses, 137 of those killed.
        """
        self.group.wait(limit)
        self.group.end(0.0)
        return [status for status in self.group.statuses if status is not None]

    def kill(self) -> None:
        """Kills all processes."""
        self.group.end(0.0)


@dataclass
class Lab:
    """A folder for runs, which shares compiled programs between them.

    Attributes:
        work: the folder; the lab's own.
        seed: of all moments, places and layouts.
        processes: the most processes of a run.
        seconds: that a run takes that nothing disturbs, on one device of one process.
    """

    work: Path
    seed: int
    processes: int
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.work.mkdir(parents=True, exist_ok=True)
        self.config.write_text(CONFIG)
        self.seconds = 0.0
        self._names = 0

    @property
    def config(self) -> Path:
        return self.work / "faults.toml"

    def new(self, name: str) -> Path:
        """The directory of a run to come."""
        self._names += 1
        return self.work / f"{name}-{self._names}"

    def start(
        self,
        out: Path,
        layout: Layout = ONE,
        variant: Variant = PLAIN,
    ) -> Life:
        """Starts a run, or goes on with it."""
        program = [sys.executable, "-m", "meta_train"]
        if variant != PLAIN:
            program[2:] = ["meta_train.bench.faults.faulty", variant.fault]
        program += ["train", str(self.config), "--out", str(out), "--resume"]
        for assignment in variant.overrides:
            program += ["--set", assignment]
        # A restart is cheap where programs are kept, as it should be.
        given = environment(layout.devices, self.work / "programs")
        given |= {_MARK: self.mark, "L2O_CACHE_DIR": str(self.work / "results")}
        log = self.work / f"{out.name}.log"
        # Several processes write to it: each at its end.
        with log.open("ab") as file:
            group = Group(
                program,
                layout.processes,
                environment=given,
                stdout=file,
                stderr=file,
            )
        return Life(group, out, log)

    def finish(self, out: Path, layout: Layout = ONE, variant: Variant = PLAIN) -> str:
        """Goes on to the end.

        Returns:
            What was wrong with that: a status, or the state; empty for nothing.
        """
        return self.ended(self.start(out, layout, variant), layout)

    def ended(self, life: Life, layout: Layout = ONE) -> str:
        """Waits for the end of a life; what was wrong with it, as `finish`."""
        statuses = life.end()
        if any(statuses):
            return f"ended with {statuses} on {layout}: {last_line(life.said)}"
        return self.differs(life.out)

    def differs(self, out: Path) -> str:
        """How the state of a finished run differs from the undisturbed one's."""
        found, wanted = state_of(out), self.reference
        return "" if found == wanted else f"state {found[:12]}, not {wanted[:12]}"

    @property
    def reference_run(self) -> Path:
        """The run that nothing disturbs, on one device of one process."""
        return self.work / "reference"

    @cached_property
    def reference(self) -> str:
        """The sha256 of its last state; it is run when that is asked for first.

        Raises:
            RuntimeError: it did not end well.
        """
        self._undisturbed(self.reference_run)
        # Its programs are kept: those to come take as long as this one.
        self.seconds = self._undisturbed(self.new("timed"))
        return state_of(self.reference_run)

    def _undisturbed(self, out: Path) -> float:
        """Makes a run, and returns the seconds that it took."""
        life = self.start(out)
        statuses = life.end()
        if any(statuses):
            raise RuntimeError(
                f"a run that nothing disturbs must end with status 0, got {statuses}: "
                f"{last_line(life.said)}"
            )
        return time.monotonic() - life.began

    def copy_of_reference(self, name: str) -> Path:
        """A copy of that run, its optimizer and checkpoints included."""
        assert self.reference
        return Path(shutil.copytree(self.reference_run, self.new(name)))

    def clear(self) -> None:
        """Removes all runs but the undisturbed one."""
        for run in self.work.glob("*-*"):
            if run.is_dir():
                shutil.rmtree(run, ignore_errors=True)

    def orphans(self) -> list[str]:
        """Processes that are left, and temporary files of runs; both are removed."""
        found = [f"process {pid}" for pid in self._processes()]
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for run in self.work.glob("*/config.json"):
            for pattern in _LEFTOVERS:
                for path in run.parent.glob(pattern):
                    found.append(str(path.relative_to(self.work)))
                    shutil.rmtree(path, ignore_errors=True)
        return found

    def _processes(self) -> Iterator[int]:
        """Those that a lab of this mark started; where the system shows them."""
        mark = f"{_MARK}={self.mark}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    yield int(path.parent.name)


def state_of(out: Path) -> str:
    """The sha256 of the last state of a run; a word when there is none."""
    step = newest_step(out)
    if step != STEPS:
        return f"of outer step {step}"
    try:
        manifest = read_manifest(out / "checkpoints" / f"step_{step:08d}")
    except CheckpointError as error:
        return str(error)
    return manifest["trees"]["state"]["sha256"]


def stopped_well(statuses: list[int]) -> bool:
    """Whether these are of a run that was asked to stop, or was done by then."""
    return all(status in (DONE, STOPPED) for status in statuses)


def last_line(text: str) -> str:
    """The last error that a program tells of, or just its last line."""
    lines = text.strip().splitlines()
    errors = [line for line in lines if "error: " in line]
    return (errors or lines or ["it said nothing"])[-1]
