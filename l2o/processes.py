"""The processes of one run, joined by JAX's coordination service, as one sees them.

What they tell each other here is small and in JSON: decisions, names, hashes. Arrays
travel by collectives of compiled programs. The service is reached by a private part of
JAX (0.10 to 0.12), which no other module touches.

Everything here goes over the network and not over the devices, so that it may be used
in a thread beside a running program.
"""

import contextlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any


_PATIENCE = 60.0
"""Seconds of one call to the service; longer waits are several."""


class PeersError(RuntimeError):
    """Another process failed, went away, or did not come in time."""


class Peers:
    """The processes of a run; one that runs alone waits for nobody.

    All processes make the same calls with the same names in the same order. In threads
    of their own they do so by a `channel` each.

    Attributes:
        index: of this process, from 0 to count - 1.
        count: number of processes.
    """

    def __init__(
        self, index: int = 0, count: int = 1, client: Any = None, prefix: str = "l2o"
    ) -> None:
        """Prepares; `client` is that of the coordination service, None for one process.

        Keys begin with `prefix`.
        """
        self.index = index
        self.count = count
        self._client = client
        self._prefix = prefix
        self._numbers: dict[str, Any] = defaultdict(itertools.count)
        self._read: list[str] = []  # keys of this process that a barrier frees

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which decides and writes."""
        return self.index == 0

    def channel(self, name: str) -> "Peers":
        """The same processes for another thread, whose calls have their own order."""
        return Peers(self.index, self.count, self._client, f"{self._prefix}/{name}")

    def barrier(self, name: str, seconds: float) -> None:
        """Waits until all processes are here.

        Raises:
            PeersError: they were not within so many seconds, or one is gone.
        """
        if self.count > 1:
            self._barrier(self._key(name), name, seconds)

    def agree(self, name: str, value: Any, seconds: float | None = None) -> Any:
        """Tells all processes the value of process 0, which does not wait for them.

        Args:
            name: what it is, for errors.
            value: to tell, JSON-able; that of other processes does not matter.
            seconds: to wait for process 0; None for as long as it lives.

        Returns:
            The value of process 0, as JSON gives it back.

        Raises:
            PeersError: it did not come in time, or process 0 is gone.
        """
        text = json.dumps(value) if self.is_first else ""
        if self.count > 1:
            key = self._key(name)
            if self.is_first:
                self._set(key, text)
            else:
                text = self._get(key, name, seconds)
        return json.loads(text)

    def by_first(
        self, name: str, work: Callable[[], Any], seconds: float | None = None
    ) -> Any:
        """What `work` returns on process 0, which alone calls it; told to all.

        Raises:
            PeersError: not on process 0: it failed, or as `agree`.
            Exception: on process 0, what `work` raises.
        """
        told = None
        if self.is_first:
            try:
                told = {"value": work()}
            except Exception as error:
                self.agree(name, {"error": _one_line(error)})
                raise
        told = self.agree(name, told, seconds)
        if "error" in told:
            raise PeersError(told["error"])
        return told["value"]

    def gather(self, name: str, value: Any, seconds: float) -> list[Any]:
        """The values of all processes, by their indices, as JSON gives them back.

        Raises:
            PeersError: they were not there within so many seconds, or one is gone.
        """
        if self.count == 1:
            return [json.loads(json.dumps(value))]
        key = self._key(name)
        self._set(f"{key}/{self.index}", json.dumps(value), freed=False)
        self._barrier(f"{key}/all", name, seconds)
        self._read.append(f"{key}/{self.index}")
        found = dict(self._client.key_value_dir_get(f"{key}/"))
        return [json.loads(found[f"{key}/{i}"]) for i in range(self.count)]

    def post(self, name: str, text: str) -> None:
        """Leaves a note for whoever asks; the first one of a name stays."""
        if self._client is not None:
            # That there is one already is as good, and without a service nobody asks.
            with contextlib.suppress(Exception):
                self._client.key_value_set(f"{self._prefix}/{name}", text)

    def posted(self, name: str) -> str | None:
        """The note of that name, without waiting for one."""
        if self._client is None:
            return None
        try:
            return self._client.key_value_try_get(f"{self._prefix}/{name}")
        except Exception:  # There is none; the error of that is JAX's own.
            return None

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}/{next(self._numbers[name])}"

    def _set(self, key: str, text: str, *, freed: bool = True) -> None:
        self._call("be told", key, lambda: self._client.key_value_set(key, text))
        if freed:
            self._read.append(key)

    def _barrier(self, key: str, name: str, seconds: float) -> None:
        wait = lambda: self._client.wait_at_barrier(key, round(1000 * seconds))
        self._call(f"all arrive within {seconds:g} s", name, wait)
        # What this process told before, all others have read before they came here.
        for old in self._read:
            self._client.key_value_delete(old)
        self._read.clear()

    def _get(self, key: str, name: str, seconds: float | None) -> str:
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            left = _PATIENCE if end is None else min(_PATIENCE, end - time.monotonic())
            try:
                return self._client.blocking_key_value_get(
                    key, max(1, round(1000 * left))
                )
            except Exception as error:
                over = end is not None and time.monotonic() >= end
                if over or "DEADLINE_EXCEEDED" not in str(error):
                    limit = "" if seconds is None else f" within {seconds:g} s"
                    raise PeersError(
                        f"process 0 must tell {name!r}{limit}, process {self.index} "
                        f"got {_one_line(error)}"
                    ) from error

    def _call(self, rule: str, name: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:
            raise PeersError(
                f"{self.count} processes must {rule} at {name!r}, process "
                f"{self.index} got {_one_line(error)}"
            ) from error


ALONE = Peers()
"""One process that runs by itself."""


def joined() -> Peers:
    """The processes that `jax.distributed.initialize` has joined, or this one alone."""
    from jax._src import distributed

    state = distributed.global_state
    if state.client is None:
        return ALONE
    return Peers(state.process_id, state.num_processes, state.client)


@contextlib.contextmanager
def keeping_programs() -> Iterator[None]:
    """Inside, every process writes what it compiles to JAX's persistent cache.

    JAX lets process 0 alone write, for fear of contention. But on CPUs each process
    looks for a key of its own, and so would compile at every restart what it does not
    share with process 0. Not to be entered twice at a time.
    """
    from jax._src import distributed

    state = distributed.global_state
    index, state.process_id = state.process_id, 0
    try:
        yield
    finally:
        state.process_id = index


def _one_line(error: Exception) -> str:
    """The first line: what gRPC adds is of no use to people."""
    text = str(error).strip().splitlines()
    return " ".join(text[0].split()) if text else type(error).__name__
