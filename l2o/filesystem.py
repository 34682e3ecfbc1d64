"""Where checkpoints and runs are kept: on a disk, or in a bucket of gs://.

Either way a reader finds all of the old or all of the new, whatever kills a writer.
"""

import importlib.util
import os
import re
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, cast

from l2o.bucket import BUCKET
from l2o.disk import DISK


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_BUCKET = re.compile(r"gs:/+(?=[^/])")  # pathlib makes one slash of two


class Filesystem(Protocol):
    """What differs between a disk and a bucket.

    Errors are OSErrors; of a bucket that cannot be reached, ConnectionErrors.
    """

    def exists(self, path: Path) -> bool:
        """Whether anything is there."""
        ...

    def is_dir(self, path: Path) -> bool:
        """Whether a directory is there."""
        ...

    def is_file(self, path: Path) -> bool:
        """Whether a file is there."""
        ...

    def committed(self, path: Path) -> Path:
        """Where the checkpoint of that path is to be read."""
        ...

    def recover(self, path: Path, trees: Collection[str]) -> None:
        """Ends what a killed writer of such trees to `path` left half done."""

    def begin(self, path: Path, trees: Collection[str], size: int) -> Path:
        """Makes a place for trees of so many bytes, and returns it."""
        ...

    def commit(self, written: Path, path: Path, manifest: str) -> None:
        """Makes what is in that place the checkpoint at `path`."""

    def abandon(self, written: Path, path: Path, trees: Collection[str]) -> None:
        """Removes what is still in that place; what was at `path` is there again."""

    def local_copy(self, folder: Path) -> AbstractContextManager[Path]:
        """The files of a directory on a disk, not to be changed."""
        ...

    def checkpoints(self, parent: Path) -> list[str]:
        """Names of the directories that may be checkpoints."""
        ...

    def tidy(self, parent: Path, trees: Collection[str]) -> None:
        """Ends what killed writers left half done, for who alone may write there."""

    def read(self, path: Path) -> bytes:
        """The content of a file; raises FileNotFoundError if it is not there."""
        ...

    def write(self, path: Path, content: bytes) -> None:
        """Writes a file: all of it or nothing."""

    def move(self, path: Path, target: Path) -> None:
        """Moves a checkpoint to the place of another one, if any."""

    def remove(self, path: Path) -> None:
        """Removes a directory."""


def place(path: str | os.PathLike[str]) -> Path:
    """A path of a disk or of a bucket.

    Raises:
        ValueError: it is of another kind, or the package for buckets is missing.
    """
    text = os.fspath(path)
    if _BUCKET.match(text) is None:
        if _SCHEME.match(text):
            raise ValueError(
                f"a path must be that of a mounted file system or gs://BUCKET/..., "
                f"got {text}"
            )
        return Path(text)
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            "paths of gs:// need the package gcsfs, which is not installed: "
            "pip install 'l2o[gcs]'"
        )
    # Where TensorFlow is installed, etils would import it, and orbax would see a bucket
    # by another client than this module.
    os.environ.setdefault("EPATH_USE_TF", "false")
    from etils import epath

    return cast(Path, epath.Path(_BUCKET.sub("gs://", text, count=1)))


def mounted(path: str | os.PathLike[str]) -> Path:
    """A path of a disk; raises ValueError for others."""
    found = place(path)
    if is_bucket(found):
        raise ValueError(f"this must be a path of a mounted file system, got {found}")
    return found


def resolved(path: str | os.PathLike[str]) -> Path:
    """A path that does not depend on the working directory; raises as `place`."""
    found = place(path)
    return found if is_bucket(found) else found.resolve()


def is_bucket(path: Path) -> bool:
    """Whether a path of `place` is in a bucket."""
    return str(path).startswith("gs://")


def filesystem_of(path: Path) -> Filesystem:
    """Where a path of `place` is."""
    return BUCKET if is_bucket(path) else DISK
