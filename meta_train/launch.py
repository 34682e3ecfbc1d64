"""Several processes of one run on this machine, started again after a fault.

On Linux a process dies with the launcher, whatever kills that: each asks the kernel for
a SIGKILL at its parent's death before it becomes the program. Elsewhere a launcher that
is killed by SIGKILL leaves its processes behind; any other end takes them along.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from l2o.config import require_positive_int, require_range
from l2o.filesystem import filesystem_of
from meta_train.status import DONE, STOPPED, USAGE


FRUITLESS = 3
"""Restarts without a new checkpoint between them that are a crash loop."""

LONGEST_PAUSE = 60.0
"""Seconds to which the pause before a restart grows."""

_POLL = 0.05  # seconds

_TIED_TO_PARENT = """
import ctypes, os, signal, sys
parent, *program = sys.argv[1:]
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(parent):
    sys.exit(128 + signal.SIGKILL)
os.execv(program[0], program)
"""


class Group:
    """Processes of one program; several are joined by flags behind its arguments.

    Start it in the main thread: on Linux the processes die with the thread that started
    them.
    """

    def __init__(
        self,
        program: Sequence[str],
        processes: int,
        *,
        environment: Mapping[str, str] | None = None,
        stdout: IO[bytes] | int | None = subprocess.PIPE,
        stderr: IO[bytes] | int | None = subprocess.PIPE,
    ) -> None:
        """Starts them.

        Args:
            program: the path of an executable and its arguments. Behind those of
                several processes come `--coordinator`, a free port of 127.0.0.1,
                `--process-id` and `--num-processes`.
            processes: their number.
            environment: of each; that of this process by default.
            stdout: as `subprocess.Popen` takes it.
            stderr: the same.
        """
        tied = sys.platform == "linux"
        parent = [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid())]
        joined = ()
        if processes > 1:
            coordinator = f"127.0.0.1:{free_port()}"
            count = str(processes)
            joined = ("--coordinator", coordinator, "--num-processes", count)
        self.members = [
            subprocess.Popen(
                [
                    *(parent if tied else ()),
                    *program,
                    *joined,
                    *(("--process-id", str(i)) if joined else ()),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                # A Ctrl-C of the terminal reaches them through the launcher alone.
                start_new_session=True,
            )
            for i in range(processes)
        ]

    @property
    def statuses(self) -> list[int | None]:
        """As a shell gives them, 128 + n after signal n; None of those that run."""
        codes = (process.poll() for process in self.members)
        return [128 - code if code is not None and code < 0 else code for code in codes]

    @property
    def is_running(self) -> bool:
        """Whether any of them is."""
        return None in self.statuses

    def send(self, number: int) -> None:
        """Sends a signal to those that run."""
        for process in self.members:
            process.send_signal(number)

    def end(self, grace: float) -> None:
        """Ends those that run: SIGTERM, and after `grace` seconds SIGKILL."""
        if grace and self.is_running:
            self.send(signal.SIGTERM)
            self.wait(grace)
        self.send(signal.SIGKILL)
        for process in self.members:
            process.wait()

    def wait(self, seconds: float) -> bool:
        """Whether all have ended, which it waits for so long at most."""
        limit = time.monotonic() + seconds
        while self.is_running and time.monotonic() < limit:
            time.sleep(_POLL)
        return not self.is_running


def launch(
    program: Sequence[str],
    run: Path,
    *,
    processes: int,
    max_restarts: int = 10,
    grace: float = 10.0,
    pause: float = 1.0,
    environment: Mapping[str, str] | None = None,
    stdout: IO[bytes],
    stderr: IO[bytes],
    say: Callable[[str], None],
) -> tuple[int, int]:
    """Runs a program in several processes until it is done.

    When one of them fails, the others are ended, and all are started again with
    `--resume`. SIGINT and SIGTERM are passed on to all, which are then waited for and
    not started again. Lines that they write are passed on behind their numbers.

    Args:
        program: an executable and its arguments.
        run: the directory of the run, whose checkpoints are counted.
        processes: how many.
        max_restarts: so often at most.
        grace: seconds that processes have to end after SIGTERM, before SIGKILL.
        pause: seconds before a restart, doubled while there is no new checkpoint.
        environment: of the processes.
        stdout: where lines of their standard outputs go.
        stderr: the same for their standard errors.
        say: is told of faults and restarts.

    Returns:
        The exit status of the run, that of the first process that failed; and how often
        it was started again. It is given up, with that status, after `max_restarts`,
        after `FRUITLESS` restarts without a new checkpoint, and when the command line
        is wrong.

    Raises:
        ValueError: a number is out of range.
    """
    require_positive_int("processes", processes)
    require_range("max_restarts", max_restarts, 0, 10**6)
    require_range("grace", grace, 0.0, 3600.0)
    restarts = fruitless = 0
    committed = newest_step(run)
    with _noted_signals() as signals:
        while True:
            group = Group(program, processes, environment=environment)
            try:
                with _labelled(group, stdout, stderr):
                    status = _watch(group, signals, grace, say)
            finally:
                group.end(0.0)
            before, committed = committed, newest_step(run)
            if committed > before:
                fruitless = 0
            if not status or signals.received:
                return status, restarts
            if status == USAGE:
                reason = "the command is wrong"
            elif fruitless == FRUITLESS:
                reason = f"{FRUITLESS} restarts made no new checkpoint"
            elif restarts == max_restarts:
                reason = f"it was started again {max_restarts} times"
            else:
                reason = ""
            if reason:
                say(f"giving up with status {status}: {reason}")
                return status, restarts
            seconds = min(pause * 2**fruitless, LONGEST_PAUSE)
            restarts, fruitless = restarts + 1, fruitless + 1
            where = f"outer step {committed}" if committed >= 0 else "the beginning"
            say(f"restart {restarts} in {seconds:g} s, from {where}")
            if signals.wait(seconds):
                return status, restarts
            if "--resume" not in program:
                program = [*program, "--resume"]


def newest_step(run: Path) -> int:
    """Outer steps of the newest checkpoint in the directory of a run, -1 of none."""
    names = filesystem_of(run).checkpoints(run / "checkpoints")
    steps = (name.removeprefix("step_") for name in names if name.startswith("step_"))
    return max((int(step) for step in steps if step.isdigit()), default=-1)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _watch(
    group: Group, signals: "_Signals", grace: float, say: Callable[[str], None]
) -> int:
    """The status of a group, of which none runs any more."""
    while group.is_running:
        for number in signals.take():
            group.send(number)
        # Those that were asked to stop end one after another, each in good order.
        failed = [
            i for i, s in enumerate(group.statuses) if s not in (None, DONE, STOPPED)
        ]
        if failed:
            break
        time.sleep(_POLL)
    ended = [(i, status) for i, status in enumerate(group.statuses) if status]
    for i, status in ended:
        say(f"process {i} ended with status {status}{_signal_of(status)}")
    if group.is_running:
        say("ending the other processes")
        group.end(grace)
    # What is to be done next depends on those that did not only ask for a restart.
    wrong = [status for _, status in ended if status != STOPPED]
    return (wrong or [status for _, status in ended] or [0])[0]


def _signal_of(status: int) -> str:
    with contextlib.suppress(ValueError):
        return f" ({signal.Signals(status - 128).name})"
    return ""


@contextlib.contextmanager
def _labelled(group: Group, stdout: IO[bytes], stderr: IO[bytes]) -> Iterator[None]:
    """Passes on what a group writes, line by line, behind the numbers of processes."""
    lock = threading.Lock()

    def copy(label: bytes, source: IO[bytes], target: IO[bytes]) -> None:
        with source:
            for line in source:
                # A last line may have no end.
                with lock, contextlib.suppress(OSError):
                    target.write(label + line.rstrip(b"\n") + b"\n")
                    target.flush()

    threads = []
    for i, process in enumerate(group.members):
        pipes = ((process.stdout, stdout), (process.stderr, stderr))
        for source, target in pipes:
            arguments = (f"[{i}] ".encode(), source, target)
            threads.append(threading.Thread(target=copy, args=arguments, daemon=True))
            threads[-1].start()
    yield
    for thread in threads:
        # A process of a process may keep a pipe open.
        thread.join(timeout=1.0)


class _Signals:
    """SIGINT and SIGTERM that came."""

    def __init__(self) -> None:
        self.received = False
        self._new: list[int] = []

    def note(self, number: int, frame: object) -> None:
        del frame
        self.received = True
        self._new.append(number)

    def take(self) -> list[int]:
        """Those that came since this was asked last."""
        new, self._new = self._new, []
        return new

    def wait(self, seconds: float) -> bool:
        """Whether one has come, or comes within so many seconds."""
        limit = time.monotonic() + seconds
        while not self.received and time.monotonic() < limit:
            time.sleep(_POLL)
        return self.received


@contextlib.contextmanager
def _noted_signals() -> Iterator[_Signals]:
    signals = _Signals()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signals.note) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
