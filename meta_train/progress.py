"""What a person sees of a run while it goes on."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """Where a run reports to."""

    def line(self, text: str) -> None:
        """Says something once."""

    def update(self, done: int, total: int, facts: dict[str, Any]) -> None:
        """Says how far it is: `done` of `total`, and numbers by name."""


class Quiet:
    """Says nothing."""

    def line(self, text: str) -> None:
        del text

    def update(self, done: int, total: int, facts: dict[str, Any]) -> None:
        del done, total, facts


class PlainLines:
    """A line on stderr every `seconds`: for logs and files."""

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._last = -seconds
        self._start = time.monotonic()
        self._first: int | None = None

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def update(self, done: int, total: int, facts: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._start = done, now
        if now - self._last < self._seconds and done < total:
            return
        self._last = now
        rate = (done - self._first) / (now - self._start) if now > self._start else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
        numbers = ", ".join(f"{k} {v}" for k, v in facts.items())
        self.line(f"{done}/{total}{left}: {numbers}")


class Bar:
    """A progress bar with rate and time left: for terminals."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar = bar
        self._task = task

    def line(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, done: int, total: int, facts: dict[str, Any]) -> None:
        numbers = "  ".join(f"{k} {v}" for k, v in facts.items())
        self._bar.update(self._task, completed=done, total=total, numbers=numbers)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A bar when stderr is a terminal, plain lines when it is not."""
    if not sys.stderr.isatty():
        yield PlainLines()
        return
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[numbers]}"),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bar:
        yield Bar(bar, bar.add_task(title, total=None, numbers=""))
