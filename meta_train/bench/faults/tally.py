"""What came of the faults of one kind."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """Counts faults, and keeps the worst figure of what they cost.

    Attributes:
        figure: what the figure is, with its unit.
        limit: what it is to be at most; None for no such wish.
        tried: faults.
        passed: those after which everything was as it must be, at whatever cost.
        worst: the largest figure, None of none.
        wrong: a line for each that did not pass.
        skipped: why none was tried, empty where they were.
    """

    figure: str = ""
    limit: float | None = None
    tried: int = 0
    passed: int = 0
    worst: float | None = None
    wrong: list[str] = field(default_factory=list)
    skipped: str = ""

    def add(self, wrong: str = "", figure: float | None = None) -> None:
        """Counts a fault; `wrong` says what was not as it must be."""
        self.tried += 1
        if wrong:
            self.wrong.append(wrong)
        else:
            self.passed += 1
        if figure is not None:
            self.worst = figure if self.worst is None else max(self.worst, figure)

    @property
    def verdict(self) -> str:
        """`passed`, `slow` when a limit was not kept, `failed`, or why not tried."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        if self.passed < self.tried or not self.tried:
            return "failed"
        over = None not in (self.limit, self.worst) and self.worst > self.limit  # pyright: ignore
        return "slow" if over else "passed"

    def as_json(self) -> dict[str, Any]:
        return {
            "tried": self.tried,
            "passed": self.passed,
            "figure": self.figure,
            "worst": None if self.worst is None else round(self.worst, 3),
            "limit": self.limit,
            "verdict": self.verdict,
            "wrong": self.wrong,
        }
