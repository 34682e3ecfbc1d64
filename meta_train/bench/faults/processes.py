"""Faults of processes: killed, asked to stop, stopped, failing; other layouts."""

import math
import os
import signal
import time
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

from meta_train.bench.faults.lab import (
    HANG,
    INTERVAL,
    PLAIN,
    STEPS,
    Lab,
    Layout,
    Life,
    Variant,
    last_line,
    stopped_well,
)
from meta_train.bench.faults.tally import Tally
from meta_train.launch import newest_step


HEARTBEAT = 35.0
"""Seconds in which all processes end once one is dead or has failed."""

PATIENCE = 10.0
"""Seconds in which all end that are asked to."""


def layouts(lab: Lab, trials: int) -> Tally:
    """The same run on other processes and devices."""
    tally = Tally()
    shapes = [
        *(Layout(2, 1), Layout(4, 1), Layout(1, 2), Layout(1, 4)),
        *(Layout(2, 4), Layout(4, 2), Layout(1, 8)),
    ]
    possible = [layout for layout in shapes if layout.processes <= lab.processes]
    assert lab.reference
    tally.add()  # The reference is one of them.
    chosen = possible[: trials - 1]
    # Two at once: much of a first start is waiting, and nothing is timed.
    for pair in (chosen[i : i + 2] for i in range(0, len(chosen), 2)):
        lives = [(lab.start(lab.new("layout"), layout), layout) for layout in pair]
        for life, layout in lives:
            tally.add(lab.ended(life, layout))
    return tally


def kills(lab: Lab, trials: int) -> Tally:
    """SIGKILL of a process at a random moment; other layouts go on.

    Of ten moments four are inside a save, and of ten victims at least three are
    process 0.
    """

    def strike(life: Life, i: int) -> tuple[str, float] | None:
        inside, first = i % 10 in (0, 3, 6, 8), i % 10 in (1, 3, 5)
        lost = _kill(lab, life, inside, first)
        if lost is None:
            return None
        wrong = ""
        # Before it has joined the others, they wait for it as long as for a late one.
        if life.is_compiling and not life.group.wait(HEARTBEAT):
            wrong = f"after {HEARTBEAT:g} s statuses are {life.group.statuses}"
        life.kill()
        if newest_step(life.out) < life.committed:
            wrong = f"step {life.committed} was committed and is gone"
        return wrong, lost

    tally = Tally("seconds of work lost", limit=INTERVAL + 1.0)
    return _again_and_again(lab, tally, trials, strike, PLAIN)


def terms(lab: Lab, trials: int) -> Tally:
    """SIGTERM to a process as all compile, step, save or evaluate; they go on later."""

    def strike(life: Life, i: int) -> tuple[str, float] | None:
        moment = moments[i % len(moments)]
        if not life.until(attrgetter(f"is_{moment}")):
            return None
        if moment in ("compiling", "stepping"):
            time.sleep(lab.random.uniform(0.0, 0.5))
        lab.random.choice(life.group.members).send_signal(signal.SIGTERM)
        began = time.monotonic()
        statuses = life.end()
        seconds = time.monotonic() - began
        if not stopped_well(statuses):
            wrong = f"ended with {statuses} while {moment}: {last_line(life.said)}"
            return wrong, seconds
        return "", seconds

    moments = ("compiling", "stepping", "saving", "evaluating")
    evaluated = Variant(overrides=("suite=faults",))
    tally = Tally("seconds until all had ended", limit=PATIENCE)
    return _again_and_again(lab, tally, trials, strike, evaluated)


def other_devices(lab: Lab, trials: int) -> Tally:
    """A run goes on with other devices and processes than it began with."""
    tally = Tally()
    assert lab.reference
    changes = (
        (Layout(1, 4), Layout(1, 3)),
        (Layout(1, 8), Layout(1, 1)),
        (Layout(1, 1), Layout(1, 8)),
        *(((Layout(4, 1), Layout(2, 2)),) if lab.processes >= 4 else ()),
    )
    for before, after in changes[:trials]:
        out = lab.new("devices")
        life = lab.start(out, before)
        came = life.until(lambda life: life.is_stepping and newest_step(life.out) > 0)
        if came:
            life.group.send(signal.SIGTERM)
        statuses = life.end()
        step = newest_step(out)
        if not came or not stopped_well(statuses) or not 0 < step < STEPS:
            tally.add(f"{before} ended with {statuses} at step {step}")
        else:
            tally.add(lab.finish(out, after))
    return tally


def stopped(lab: Lab, trials: int) -> Tally:
    """A process is alive and does nothing: the others end, and so does the run."""
    tally = Tally("seconds until the others had ended", limit=HANG + 5.0)
    if lab.processes < 2:
        tally.skipped = "needs several processes"
        return tally
    for i in range(trials):
        out, layout = lab.new("stopped"), Layout(2, 1)
        life = lab.start(out, layout)
        if not life.until(attrgetter("is_stepping")):
            tally.add(f"ended with {life.end()}")
            continue
        victim = life.group.members[i % 2]
        victim.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        others = [p for p in life.group.members if p is not victim]
        ended = _all_end(life, others)
        seconds = time.monotonic() - began
        life.kill()
        statuses = [p.returncode for p in others]
        if not ended or 0 in statuses:
            tally.add(f"the others ended with {statuses}", figure=seconds)
        else:
            tally.add(lab.finish(out, layout), figure=seconds)
    return tally


def failing(lab: Lab, trials: int) -> Tally:
    """One process raises an exception: all end, and its traceback is to be read."""
    tally = Tally("seconds until all had ended", limit=HEARTBEAT)
    if lab.processes < 2:
        tally.skipped = "needs several processes"
        return tally
    for i in range(trials):
        out, layout = lab.new("failing"), Layout(2, 1)
        life = lab.start(out, layout, Variant(f"failing={i % 2}"))
        if not life.until(lambda life: "a fault of this process" in life.said):
            tally.add(f"ended with {life.end()}: {last_line(life.said)}")
            continue
        began = time.monotonic()
        statuses = life.end()
        seconds = time.monotonic() - began
        if 0 in statuses or "Traceback" not in life.said:
            tally.add(f"ended with {statuses}: {last_line(life.said)}", figure=seconds)
        else:
            tally.add(lab.finish(out, layout), figure=seconds)
    return tally


def _again_and_again(
    lab: Lab,
    tally: Tally,
    trials: int,
    strike: Callable[[Life, int], tuple[str, float] | None],
    variant: Variant,
) -> Tally:
    """Strikes runs until they end: each life is on another layout than the last.

    Args:
        lab: where.
        tally: counts the strikes.
        trials: their number.
        strike: ends a life by the i-th fault; says what was wrong with that, and the
            figure. None when the life ended before.
        variant: of the runs.
    """
    assert lab.reference
    struck: list[tuple[str, float]] = []  # faults that the run has survived so far
    out = lab.new("run")
    for _ in range(3 * trials + 3):
        count = tally.tried + len(struck)
        layout = _any_layout(lab)
        if count == trials:
            wrong = lab.finish(out, layout, variant)
        else:
            life = lab.start(out, layout, variant)
            found = strike(life, count)
            if found is not None:
                struck.append(found)
                continue
            # It was faster than the fault, and must be right all the same.
            statuses = life.end()
            wrong = lab.differs(out)
            if any(statuses):
                wrong = f"ended with {statuses} on {layout}: {last_line(life.said)}"
        for own, figure in struck:
            tally.add(own or wrong, figure)
        struck, out = [], lab.new("run")
        if wrong and count < trials and not tally.wrong:
            tally.add(wrong)
        if tally.tried >= trials:
            break
    return tally


def _any_layout(lab: Lab) -> Layout:
    counts = [n for n in (1, 2, 4) if n <= lab.processes]
    return Layout(lab.random.choice(counts), 1)


def _kill(lab: Lab, life: Life, inside: bool, first: bool) -> float | None:
    """Kills a process of a life, if that does not end before.

    Args:
        lab: draws the moment and the victim.
        life: whose processes they are.
        inside: a save it is to be.
        first: process 0 it is to be.

    Returns:
        Seconds of work that were lost: since the last commit, or the first step of this
        life where that came later; None when it ended before.
    """
    began = math.inf  # of its first step
    # Processes that share a core take longer.
    whole = lab.seconds * max(1.0, len(life.group.members) / (os.cpu_count() or 1))
    moment = life.began + lab.random.uniform(0.2, 1.0) * whole

    def is_stepping(life: Life) -> bool:
        nonlocal began
        if began == math.inf and life.is_stepping:
            began = time.time()
        return began < math.inf

    def is_time(life: Life) -> bool:
        is_stepping(life)
        return time.monotonic() > moment

    # The first save, of a new run, comes before the first step.
    until = (is_stepping,) if lab.random.random() < 0.8 else ()
    for condition in (*until, attrgetter("is_saving")) if inside else (is_time,):
        if not life.until(condition):
            return None
    victim = life.group.members[0] if first else lab.random.choice(life.group.members)
    victim.kill()
    now = time.time()
    is_stepping(life)
    if newest_step(life.out) == STEPS:
        return 0.0  # What came after the last step is no step.
    committed = _time_of_commit(life.out)
    return max(0.0, now - max(committed, min(began, now)))


def _time_of_commit(out: Path) -> float:
    """When the newest checkpoint was complete, in seconds since the epoch."""
    path = out / "checkpoints" / f"step_{newest_step(out):08d}" / "manifest.json"
    return path.stat().st_mtime if path.exists() else 0.0


def _all_end(life: Life, processes: list) -> bool:
    limit = time.monotonic() + 300.0
    while time.monotonic() < limit:
        if all(process.poll() is not None for process in processes):
            return True
        time.sleep(0.01)
    return False
