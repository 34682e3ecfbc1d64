"""How benchmarks take their time."""

import statistics
import time
from collections.abc import Callable, Sequence


def median_seconds(
    calls: Sequence[Callable[[], None]], repeats: int = 15
) -> list[float]:
    """Times calls in turns, so that a machine that slows down slows all of them.

    Args:
        calls: each returns once its work is done.
        repeats: how often each is timed, after once to warm up.

    Returns:
        The median of every call, in seconds.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(1 + repeats):
        for call, times in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            if repeat:
                times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in seconds]
