"""Work in a thread that nothing waits for, not even Python at its end."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar


T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Begins work; the future has what it returns or raises."""
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found
