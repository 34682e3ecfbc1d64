"""Stopping in an orderly way on Ctrl-C and SIGTERM."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TypeVar

from l2o.processes import ALONE, Peers
from meta_train.threads import in_thread


SIGNALS = (signal.SIGINT, signal.SIGTERM)

PATIENCE_SECONDS = 5.0
"""How long after a signal work may take to come to an end by itself."""

T = TypeVar("T")

_NOTE = "signal"


class Interrupted(Exception):
    """Work was stopped by a signal at a point where stopping is safe."""


class StopSignal:
    """While entered, notes the first SIGINT or SIGTERM instead of dying of it.

    The second one ends the process at once, with the status that shells give to a death
    by that signal: whoever asks twice does not want to wait for a save. Python runs no
    handler while a program compiles, so a thread watches, which the interpreter tells
    of every signal when it comes.

    Of several processes (`shared`), the first one also notes what came to another, and
    decides for all where they stop.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Prepares; `say` is told, in a thread, that the first signal has come."""
        self._say = say
        self._peers = ALONE
        self._received: int | None = None
        self.abandoned = False  # whether a thread works on, which outlives Python
        self._told = threading.Event()
        self._previous: dict[int, object] = {}
        self._pipe = (-1, -1)
        self._previous_pipe = -1
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StopSignal":
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._watcher.start()
        self._previous_pipe = signal.set_wakeup_fd(
            self._pipe[1], warn_on_full_buffer=False
        )
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        signal.set_wakeup_fd(self._previous_pipe)
        os.close(self._pipe[1])  # which ends the watcher
        self._watcher.join()
        os.close(self._pipe[0])

    @contextmanager
    def shared(self, peers: Peers) -> Iterator[None]:
        """Inside, tells the first of these processes, which listens to the others."""
        over = threading.Event()
        listener = threading.Thread(target=self._listen, args=(peers, over))
        self._peers = peers
        if self._received is not None:  # before there was someone to tell
            peers.post(_NOTE, str(self._received))
        if peers.is_first and peers.count > 1:
            listener.start()
        try:
            yield
        finally:
            over.set()
            if listener.is_alive():
                listener.join()
            self._peers = ALONE

    @property
    def received(self) -> str | None:
        """Name of the signal, None while there was none."""
        return None if self._received is None else signal.Signals(self._received).name

    def check(self) -> None:
        """Raises Interrupted once a signal has come, and has been told of."""
        if self._received is not None:
            # What a caller says of the end comes after it.
            self._told.wait(timeout=1.0)
            raise Interrupted(self.received)

    def unless_stopped(self, work: Callable[[], T]) -> T:
        """Does work that nothing is lost of, in a thread.

        Returns:
            What `work` returns.

        Raises:
            Interrupted: a signal has come, and `PATIENCE_SECONDS` later the thread had
                not come to its own end. It goes on: see `abandoned`.
            Exception: what `work` raises.
        """
        found = in_thread(work)
        while not wait([found], timeout=0.25).done:
            if self._received is not None:
                wait([found], timeout=PATIENCE_SECONDS)
                if not found.done():
                    self.abandoned = True
                    self.check()
        return found.result()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame  # Where it was does not matter: the loop stops where it is safe.
        if self._received is None:
            self._received = number

    def _watch(self) -> None:
        first = True
        while byte := os.read(self._pipe[0], 1):
            if byte[0] not in SIGNALS:
                continue
            if not first:
                if os.isatty(2):
                    os.write(2, b"\x1b[?25h")  # A progress bar hides the cursor.
                os._exit(128 + byte[0])
            first = False
            # The handler may be kept waiting by what the main thread does.
            self._received = self._received or byte[0]
            name = signal.Signals(byte[0]).name
            self._say(f"{name}: stopping when that is safe, or at once on another")
            self._told.set()
            self._peers.post(_NOTE, str(byte[0]))

    def _listen(self, peers: Peers, over: threading.Event) -> None:
        while not over.wait(0.25):
            number = peers.posted(_NOTE)
            if number is None:
                continue
            if self._received is None:
                self._received = int(number)
                self._say(f"{self.received} at another process: stopping all")
                self._told.set()
            return
