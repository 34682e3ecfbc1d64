"""What a person sees of a run while it goes on."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol


Table = Mapping[str, Mapping[str, Any]]
"""Rows by name, of cells by the names of their columns; the first one tells most."""


class Progress(Protocol):
    """Where a run reports to."""

    def line(self, text: str) -> None:
        """Says something once."""

    def update(
        self, done: int, total: int, facts: dict[str, Any], table: Table | None = None
    ) -> None:
        """Says how far it is: `done` of `total`, numbers by name, and a table."""


class Quiet:
    """Says nothing."""

    def line(self, text: str) -> None:
        del text

    def update(
        self, done: int, total: int, facts: dict[str, Any], table: Table | None = None
    ) -> None:
        del done, total, facts, table


class PlainLines:
    """A line on stderr every `seconds`: for logs and files.

    Of a table of at most four rows it has the first column.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._last = -seconds
        self._start = time.monotonic()
        self._first: int | None = None

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def update(
        self, done: int, total: int, facts: dict[str, Any], table: Table | None = None
    ) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._start = done, now
        if now - self._last < self._seconds and done < total:
            return
        self._last = now
        rate = (done - self._first) / (now - self._start) if now > self._start else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
        numbers = ", ".join(f"{k} {v}" for k, v in facts.items())
        self.line(f"{done}/{total}{left}: {numbers}{_first_column(table)}")


class Live:
    """A bar with time left, under it facts and a table: for terminals."""

    def __init__(self, bar: Any, task: Any, live: Any) -> None:
        self._bar = bar
        self._task = task
        self._live = live
        self._below: list[Any] = []  # the last table, if there was one

    def line(self, text: str) -> None:
        self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(
        self, done: int, total: int, facts: dict[str, Any], table: Table | None = None
    ) -> None:
        from rich.console import Group
        from rich.text import Text

        self._bar.update(self._task, completed=done, total=total)
        # Not beside the bar: a terminal of 80 columns has no room for both.
        numbers = Text("  ".join(f"{k} {v}" for k, v in facts.items()))
        if table:
            self._below = [_drawn(table)]
        # The table comes last: of what is too high for the terminal the end is cut off.
        self._live.update(Group(self._bar, numbers, *self._below))


def _first_column(table: Table | None) -> str:
    """What there is room for in a line."""
    if not table or len(table) > 4:
        return ""
    column = _columns(table)[0]
    cells = ", ".join(f"{name} {_cell(row[column])}" for name, row in table.items())
    return f"; {_spoken(column)}: {cells}"


def _drawn(table: Table) -> Any:
    """A table of rich."""
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(box=None, pad_edge=False)
    columns = _columns(table)
    drawn.add_column("")
    for column in columns:
        drawn.add_column(_spoken(column), justify="right")
    for name, row in table.items():
        # Brackets in a name are no markup.
        drawn.add_row(Text(name), *(_cell(row[column]) for column in columns))
    return drawn


def _columns(table: Table) -> list[str]:
    return list(next(iter(table.values())))


def _spoken(column: str) -> str:
    return column.replace("_", " ")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A bar and a table when stderr is a terminal, plain lines when it is not."""
    if not sys.stderr.isatty():
        yield PlainLines()
        return
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.live import Live as RichLive

    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
    )
    task = bar.add_task(title, total=None)
    with RichLive(bar, console=Console(stderr=True), refresh_per_second=4) as live:
        yield Live(bar, task, live)
