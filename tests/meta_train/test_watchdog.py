"""The end of a process that hangs."""

import threading
import time

import pytest

from meta_train.watchdog import Watchdog


@pytest.fixture
def ended():
    return threading.Event()


def test_no_progress_is_the_end_and_says_where(ended, capfd):
    with Watchdog(0.1, ended.set) as watchdog:
        watchdog.progress()
        assert ended.wait(5)
    error = capfd.readouterr().err
    assert "l2o: error: a dispatch must take at most 0 s, it hangs for 0 s" in error
    assert "test_no_progress_is_the_end_and_says_where" in error


def test_progress_and_phases_without_a_limit_are_no_hang(ended):
    with Watchdog(0.4, ended.set) as watchdog:
        for _ in range(10):
            watchdog.progress()
            time.sleep(0.06)
        with watchdog.phase("validation", None):
            time.sleep(0.6)
        # It starts anew where the phase ends.
        assert not ended.wait(0.1)
        with watchdog.phase("a checkpoint", 0.05):
            assert ended.wait(5)


def test_what_is_always_slow_does_not_hang(ended):
    """Ten times the median is allowed, where that is longer."""
    with Watchdog(0.1, ended.set) as watchdog:
        for _ in range(3):
            with watchdog.phase("slow", None):
                time.sleep(0.15)
            time.sleep(0.06)
            watchdog.progress()
        assert not ended.wait(0.3)


def test_a_process_that_was_stopped_did_not_hang(ended, monkeypatch):
    """Its clock went on, as it does after Ctrl-Z; what hangs after that is ended."""
    clock, late = time.monotonic, [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock() + late[0])
    with Watchdog(0.5, ended.set):
        late[0] = 1000.0
        assert not ended.wait(0.3)
        assert ended.wait(5)


def test_what_was_done_since_is_not_put_into_the_future(ended, monkeypatch):
    clock, late = time.monotonic, [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock() + late[0])
    with Watchdog(0.5, ended.set) as watchdog:
        late[0] = 1000.0
        # The median is not that of the first alone.
        for _ in range(3):
            watchdog.progress()
        assert ended.wait(5)
