"""Stopping in an orderly way on Ctrl-C and SIGTERM."""

import signal
from types import FrameType, TracebackType


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Work was stopped by a signal at a point where stopping is safe."""


class StopSignal:
    """While entered, notes the first SIGINT or SIGTERM instead of dying of it.

    The second one acts as it would without this: whoever asks twice does not want to
    wait for a save.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    @property
    def received(self) -> str | None:
        """Name of the signal, None while there was none."""
        return None if self._received is None else signal.Signals(self._received).name

    def check(self) -> None:
        """Raises Interrupted once a signal has come."""
        if self._received is not None:
            raise Interrupted(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame  # Where it was does not matter: the loop stops where it is safe.
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
