"""Where the seconds of a run go, and which process keeps the others waiting."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from l2o.processes import Peers


STEPS = "steps"
"""The kind of seconds that a run is for: outer steps, and what is written of them."""


class Ledger:
    """Seconds of this process by what they went into; every one of them once."""

    def __init__(self, kind: str) -> None:
        """Begins with seconds of a kind."""
        self._kind = kind
        self._since = time.monotonic()
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Seconds inside are of this kind."""
        before = self._switch(kind)
        try:
            yield
        finally:
            self._switch(before)

    def shares(self) -> dict[str, float]:
        """The share of each kind in all seconds so far."""
        self._switch(self._kind)
        total = sum(self._seconds.values())
        return {kind: round(s / total, 4) for kind, s in self._seconds.items() if s}

    def _switch(self, kind: str) -> str:
        now = time.monotonic()
        self._seconds[self._kind] += now - self._since
        before, self._kind, self._since = self._kind, kind, now
        return before


class Stragglers:
    """Compares what dispatches cost the processes themselves, without their waiting.

    In step with each other all take as long as the slowest. A straggler is one whose
    own seconds, over `every` dispatches, are more than `FACTOR` times the median of all
    and a tenth of what the dispatches took.
    """

    FACTOR = 3.0

    def __init__(self, peers: Peers, every: int = 50) -> None:
        self._peers = peers
        self._every = every
        self._own: list[float] = []
        self._all = 0.0

    def note(self, own: float, whole: float, patience: float) -> str | None:
        """Notes the seconds of a dispatch.

        Args:
            own: that this process worked.
            whole: that the dispatch took.
            patience: seconds to wait for the others where they are compared.

        Returns:
            A warning that names the straggler, if there is one; None mostly.
        """
        self._own.append(own)
        self._all += whole
        if len(self._own) < self._every:
            return None
        told = [sum(self._own), self._all]
        self._own, self._all = [], 0.0
        found = self._peers.gather("seconds", told, patience)
        worked = [own for own, _ in found]
        slowest = max(range(len(worked)), key=worked.__getitem__)
        own, whole = found[slowest]
        median = statistics.median_low(worked)
        if own <= self.FACTOR * median or own <= whole / 10:
            return None
        return (
            f"warning: process {slowest} keeps the others waiting, it worked {own:.3g} "
            f"s of the last {self._every} dispatches, the median is {median:.3g} s"
        )
