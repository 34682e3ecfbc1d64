"""One writer of a run directory: by a lock of the kernel, or a lease in a bucket.

A lock of the kernel dies with its owner. A lease is an object that its owner made where
there was none, and renews; one that was not renewed for `LEASE` seconds, by the clock
of the store, is of a dead owner, and the next one takes it over. Between finding that
and doing it there is a moment in which two may do it at once: each waits a while and
looks whose the lease is. A writer that stood still for so long that its lease was taken
over finds out before its next checkpoint.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

from l2o.bucket import BUCKET
from l2o.filesystem import is_bucket


LEASE = 60.0
"""Seconds after its last renewal at which a lease is that of a dead owner."""

RENEWAL = 10.0
"""Seconds from a renewal to the next."""

SETTLING = 2.0
"""Seconds in which others that took over the same lease have made it theirs."""


class Lock(Protocol):
    """The right to write to a directory."""

    def confirm(self) -> None:
        """Raises ValueError if another process has it now."""


@contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[Lock]:
    """Holds a directory against other processes.

    Args:
        path: of the directory; one of a disk is there.
        say: is told that it waits for the lease of a process that may be dead.

    Raises:
        ValueError: another process holds it, or it cannot be written.
        OSError: a bucket cannot be reached.
    """
    with _leased(path, say) if is_bucket(path) else _file_locked(path) as lock:
        yield lock


class _FileLock:
    """A lock that the kernel keeps; nobody takes it over."""

    def confirm(self) -> None: ...


@contextmanager
def _file_locked(path: Path) -> Iterator[Lock]:
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ValueError(
            f"a run directory must be one that can be written, got {error}"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 20).decode().strip() or "unknown"
            raise _in_use(path, owner) from None
        with suppress(OSError):  # The number is for people: a full disk can wait.
            os.truncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
        yield _FileLock()
    finally:
        os.close(lock)


def _in_use(path: Path, owner: str) -> ValueError:
    return ValueError(
        f"a run directory must have one writer, {path} is in use by process {owner}"
    )


class _Holder(NamedTuple):
    """Who has a lease."""

    owner: str  # of all that ever had one, this alone
    process: str  # for people

    @classmethod
    def parse(cls, content: bytes) -> "_Holder":
        try:
            fields = json.loads(content)
            process = " ".join(str(fields["process"]).split())
            return cls(str(fields["owner"]), process[:100])
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls("", "unknown")


class _Lease:
    """The lease of this process on a directory."""

    def __init__(self, path: Path) -> None:
        self._directory = path
        self._path = path / "lock"
        process = f"{os.getpid()} on {socket.gethostname()}"
        self._own = _Holder(uuid.uuid4().hex, process)
        self._content = json.dumps(self._own._asdict()).encode()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def confirm(self) -> None:
        try:
            holder = self._holder()
        except FileNotFoundError:
            holder = _Holder("", "unknown")
        if holder.owner != self._own.owner:
            raise _in_use(self._directory, holder.process)

    def take(self, say: Callable[[str], None]) -> None:
        """Waits until the lease is that of this process, or lives in another."""
        since: datetime | None = None  # when the other owner renewed it
        clock: Callable[[], datetime] | None = None
        while not self._made():
            try:
                renewed, holder = BUCKET.modified(self._path), self._holder()
            except FileNotFoundError:
                continue
            if holder.owner == self._own.owner:  # An answer was lost, and asked again.
                break
            if since not in (None, renewed):
                raise _in_use(self._directory, holder.process)
            if clock is None:
                clock = self._clock()
            left = LEASE - (clock() - renewed).total_seconds()
            if left <= 0.0:
                with suppress(FileNotFoundError):
                    BUCKET.delete(self._path)
                if self._made():
                    time.sleep(SETTLING)
                    self.confirm()
                    break
                continue
            if since is None:
                say(
                    f"{self._directory} was in use by process {holder.process} "
                    f"{LEASE - left:.0f} s ago: waiting {left:.0f} s for a sign of it"
                )
            since = renewed
            time.sleep(min(1.0, left))
        self._thread.start()

    def release(self) -> None:
        """Gives it back."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError, ValueError):  # If it is not: it runs out.
            self.confirm()
            BUCKET.delete(self._path)

    def _made(self) -> bool:
        try:
            BUCKET.create(self._path, self._content)
        except FileExistsError:
            return False
        return True

    def _holder(self) -> _Holder:
        return _Holder.parse(BUCKET.read(self._path))

    def _clock(self) -> Callable[[], datetime]:
        """The clock of the store, which may not be that of this machine."""
        probe = self._path.with_name(f"lock.{self._own.owner}")
        BUCKET.write(probe, b"")
        now, here = BUCKET.modified(probe), time.monotonic()
        BUCKET.delete(probe)
        return lambda: now + timedelta(seconds=time.monotonic() - here)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL):
            try:
                self.confirm()
                BUCKET.write(self._path, self._content)
            except ValueError:  # The next checkpoint will say it.
                return
            except OSError:  # The store may be back before the lease is over.
                continue


@contextmanager
def _leased(path: Path, say: Callable[[str], None]) -> Iterator[Lock]:
    lease = _Lease(path)
    lease.take(say)
    try:
        yield lease
    finally:
        lease.release()
