"""Where the files of a run that grow are written: in place, or beside a bucket.

Objects cannot be appended to. What a run writes line by line, and what is drawn, is
made in a directory of this machine, and copied to the bucket as a whole.
"""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from l2o.bucket import BUCKET
from l2o.filesystem import is_bucket


class Workspace(Protocol):
    """A directory of a disk that stands for that of a run."""

    root: Path

    def publish(self) -> None:
        """Lets others see what is there."""


class InPlace:
    """The directory itself."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self) -> None: ...


class _Copied:
    """A copy of parts of a directory in a bucket."""

    def __init__(self, root: Path, target: Path) -> None:
        self.root = root
        self._target = target
        self._published: dict[Path, tuple[int, int]] = {}

    def publish(self) -> None:
        found = {
            file: (file.stat().st_size, file.stat().st_mtime_ns)
            for file in self.root.rglob("*")
            if file.is_file()
        }
        BUCKET.write_all(
            {
                # What it is now, however it grows meanwhile.
                self._target / str(file.relative_to(self.root)): file.read_bytes()
                for file, version in found.items()
                if self._published.get(file) != version
            }
        )
        self._published = found


@contextmanager
def workspace(path: Path, names: Collection[str]) -> Iterator[Workspace]:
    """Opens that of a run.

    Args:
        path: the directory of the run.
        names: the files and directories in it that the run goes on with.

    Raises:
        ValueError: an object has a name that no file can have.
        ConnectionError: a bucket cannot be reached.
    """
    if not is_bucket(path):
        yield InPlace(path)
        return
    with tempfile.TemporaryDirectory(prefix="l2o-") as here:
        for name in names:
            BUCKET.download(path, BUCKET.names(path, name), Path(here))
        yield _Copied(Path(here), path)
