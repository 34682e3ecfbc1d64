"""Stopping in good order: the first signal is noted, the second one is the end."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from meta_train import signals
from meta_train.signals import SIGNALS, Interrupted, StopSignal
from tests.meta_train import runs


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted(number):
    before = {n: signal.getsignal(n) for n in SIGNALS}
    said = []
    with StopSignal(said.append) as stop:
        assert stop.received is None
        stop.check()
        signal.raise_signal(number)
        assert stop.received == number.name
        with pytest.raises(Interrupted, match=number.name):
            stop.check()
    assert said == [f"{number.name}: stopping when that is safe, or at once on another"]
    assert {n: signal.getsignal(n) for n in SIGNALS} == before


def test_without_a_signal_nothing_is_left_behind():
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    with StopSignal() as stop:
        pass
    assert stop.received is None
    assert signal.set_wakeup_fd(wakeup) == wakeup
    assert os.dup(0) == lowest_free
    os.close(lowest_free)


# As while a program compiles: C code without the interpreter's lock, and no handler
# runs before it returns, which takes days here.
BUSY = """
import hashlib, os, signal, sys, threading
from meta_train import signals
from meta_train.signals import StopSignal

def twice():
    os.kill(os.getpid(), signal.{name})
    said.wait()
    os.kill(os.getpid(), signal.{name})

said = threading.Event()
with StopSignal(lambda text: said.set()):
    threading.Thread(target=twice).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_even_a_busy_process_at_once(number):
    done = subprocess.run(
        [sys.executable, "-c", BUSY.format(name=number.name)],
        env=runs.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


def test_work_that_goes_on_after_a_signal_is_left(monkeypatch):
    monkeypatch.setattr(signals, "PATIENCE_SECONDS", 0.2)
    over = threading.Event()
    with StopSignal() as stop:
        assert stop.unless_stopped(lambda: 3) == 3
        with pytest.raises(ZeroDivisionError):
            stop.unless_stopped(lambda: 1 // 0)
        signal.raise_signal(signal.SIGTERM)
        # What ends by itself has said what it has to say.
        assert stop.unless_stopped(lambda: over.wait(0.1)) is False
        assert not stop.abandoned
        with pytest.raises(Interrupted, match="SIGTERM"):
            stop.unless_stopped(over.wait)
        assert stop.abandoned
        over.set()
