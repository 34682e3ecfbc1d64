"""How benchmarks take their time."""

import statistics
import time
from collections.abc import Callable, Sequence


def median_seconds(
    calls: Sequence[Callable[[], None]], *, warm_up: int = 1, repeats: int = 15
) -> list[float]:
    """Times calls in turns, so that a machine that slows down slows all of them.

    Args:
        calls: each returns once its work is done.
        warm_up: how often each is called before.
        repeats: how often each is timed.

    Returns:
        The median of every call, in seconds.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(-warm_up, repeats):
        for call, times in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            if repeat >= 0:
                times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in seconds]
