"""Where seconds go, and who keeps the others waiting."""

import pytest

from l2o.processes import ALONE, Peers
from meta_train import goodput
from meta_train.goodput import Ledger, Stragglers


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(goodput, "time", found)
    return found


def test_every_second_counts_once(clock):
    ledger = Ledger("init")
    clock.now = 2.0
    with ledger.spending("steps"):
        clock.now = 8.0
        with ledger.spending("checkpoint"):
            clock.now = 9.0
        clock.now = 10.0
        assert ledger.shares() == {"init": 0.2, "steps": 0.7, "checkpoint": 0.1}
    clock.now = 20.0
    assert ledger.shares() == {"init": 0.6, "steps": 0.35, "checkpoint": 0.05}


class Told(Peers):
    """Process 0 of several, which hears what the test says."""

    def __init__(self, others):
        super().__init__(0, 1 + len(others))
        self.others = others

    def gather(self, name, value, seconds):
        return [value, *self.others]


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ([[0.3, 10.0], [3.1, 10.0]], 2),
        ([[0.3, 10.0], [2.9, 10.0]], None),  # not three times the median, 1
        ([[1.0, 40.0], [3.1, 40.0]], None),  # not a tenth of the dispatches
        ([[4.0, 10.0]], 1),  # of two the smaller one is the median
    ],
)
def test_a_straggler_is_named(others, found):
    stragglers = Stragglers(Told(others), every=2)
    assert stragglers.note(0.5, 5.0, 0.0) is None
    warning = stragglers.note(0.5, 5.0, 0.0)
    assert (warning is None) == (found is None)
    if warning is not None:
        assert f"process {found} keeps the others waiting" in warning
        assert "of the last 2 dispatches, the median is 1 s" in warning
    # It begins anew.
    assert stragglers.note(0.5, 5.0, 0.0) is None


def test_one_process_keeps_nobody_waiting():
    stragglers = Stragglers(ALONE, every=1)
    assert stragglers.note(5.0, 5.0, 0.0) is None
