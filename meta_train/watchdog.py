"""Ending a process that hangs: a peer that is stuck raises no error."""

import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from meta_train import status


FACTOR = 10
"""Times the median between two signs of progress that are still no hang."""

_RECENT = 101
"""Signs of progress that the median is taken over."""


def end() -> None:
    """Ends this process with the status of a hang."""
    os._exit(status.HUNG)


_STOPPED = 20
"""Intervals without a look after which it is sure that nothing of the process ran."""


class Watchdog:
    """While entered, ends the process when it makes no progress for too long.

    That is `seconds`, or `FACTOR` times the median time between two signs of progress
    if that is longer. Time in which the whole process stood still, as after Ctrl-Z,
    does not count. The stacks of all threads go to stderr before the end.
    """

    def __init__(self, seconds: float, end: Callable[[], None] = end) -> None:
        """Prepares; `end` is called, in a thread, when it is time."""
        self._seconds = seconds
        self._end = end
        self._lock = threading.Lock()
        self._phase = "the first sign of progress"
        self._limit: float | None = seconds
        self._last = time.monotonic()
        self._times: deque[float] = deque(maxlen=_RECENT)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def progress(self) -> None:
        """Notes a sign of progress, like a dispatch that is done."""
        now = time.monotonic()
        with self._lock:
            self._times.append(now - self._last)
            median = statistics.median(self._times)
            self._last, self._phase = now, "a dispatch"
            self._limit = max(self._seconds, FACTOR * median)

    @contextmanager
    def phase(self, name: str, seconds: float | None) -> Iterator[None]:
        """Allows what is inside so many seconds, None for any number.

        It counts neither as progress nor towards the median.
        """
        with self._lock:
            before = self._phase, self._limit
            self._phase, self._limit = name, seconds
            self._last = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._phase, self._limit = before
                self._last = time.monotonic()

    def _watch(self) -> None:
        interval = min(1.0, self._seconds / 5)
        looked = self._last
        while not self._over.wait(interval):
            now = time.monotonic()
            stood, looked = now - looked, now
            with self._lock:
                if stood > _STOPPED * interval:
                    # Something may have happened since it goes on.
                    self._last = min(self._last + stood, now)
                waited = now - self._last
                name, limit = self._phase, self._limit
            if limit is None or waited <= limit:
                continue
            print(
                f"l2o: error: {name} must take at most {limit:.0f} s, it hangs for "
                f"{waited:.0f} s; all threads:",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            self._end()
            return
