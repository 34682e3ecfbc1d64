"""Checkpoints of a run, written while it goes on."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any

from l2o.processes import Peers
from l2o.storage import snapshot
from meta_train.config import CheckpointConfig
from meta_train.directory import STATE, RunDirectory
from meta_train.outer import OuterState


LAST_SECONDS = 10.0
"""How long the last checkpoint has to end after an error."""


class Saver:
    """Writes checkpoints in a thread, one at a time.

    A state is copied on its devices, which does not wait for them; what follows happens
    beside the next outer steps. An error of it is raised by the next call.
    """

    def __init__(
        self, directory: RunDirectory, config: CheckpointConfig, peers: Peers
    ) -> None:
        self._directory = directory
        self._config = config
        self._peers = peers.channel("checkpoint")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pending is not None:
            # Nothing is pending at a good end. After an error it may wait for others.
            wait([self._pending], timeout=LAST_SECONDS)
        self._pool.shutdown(wait=False)

    def save(
        self,
        state: OuterState,
        step: int,
        facts: dict[str, Any],
        spared: int | None = None,
    ) -> None:
        """Begins a checkpoint, when the one before is complete; `RunDirectory.save`.

        Raises:
            OSError, ValueError, PeersError: that one failed.
        """
        self.wait()
        taken = snapshot({STATE: state})
        self._pending = self._pool.submit(
            self._directory.save, taken, step, facts, self._config, self._peers, spared
        )

    def wait(self) -> None:
        """Returns when the last checkpoint is complete.

        Raises:
            OSError, ValueError, PeersError: it failed.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
