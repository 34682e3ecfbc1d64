"""Checkpoints in a bucket of an object store: no renames, no locks, no directories.

There are only objects, each of which appears whole. A checkpoint is what has a
manifest, which is written last and removed first.

A bucket is reached by etils, as orbax reaches it. Its paths are those of etils, which
have what is used of `pathlib.Path`, and are annotated as such.
"""

import contextlib
import datetime as dt
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from l2o.layout import MANIFEST, MODEL_CARD, old_of


_PART = re.compile(r"d|manifest\.ocdbt|ocdbt\.process_\d+|_METADATA")


class Bucket:
    """The `Filesystem` of paths of `gs://`.

    Parts are written where they stay. While a checkpoint is replaced, a copy of the old
    one, which the store makes, is beside it: readers look there where the manifest is
    missing, and the next writer puts it back. What has neither a manifest nor anything
    but parts of trees, a killed writer has left: the next one removes it.
    """

    def exists(self, path: Path) -> bool:
        return self.is_dir(path) or self.is_file(path)

    def is_dir(self, path: Path) -> bool:
        return bool(self._objects(path))

    def is_file(self, path: Path) -> bool:
        return path.name in self._objects(path.parent, path.name)

    def committed(self, path: Path) -> Path:
        if self._is_whole(self._objects(path)):
            return path
        return old_of(path) if self._is_whole(self._objects(old_of(path))) else path

    def recover(self, path: Path, trees: Collection[str]) -> None:
        objects = self._objects(path)
        if not self._is_whole(objects):
            if self._is_whole(self._objects(old_of(path))):
                self._clear(path, objects)
                self._copy(old_of(path), path)
            elif objects and _are_parts(objects, trees):
                self._clear(path, objects)
        self.remove(old_of(path))

    def begin(self, path: Path, trees: Collection[str], size: int) -> Path:
        del trees, size
        objects = self._objects(path)
        if self._is_whole(objects):
            self._copy(path, old_of(path))
        self._clear(path, {n: o for n, o in objects.items() if n != MODEL_CARD})
        return path

    def commit(self, written: Path, path: Path, manifest: str) -> None:
        del written
        self.write(path / MANIFEST, manifest.encode())
        self.remove(old_of(path))

    def abandon(self, written: Path, path: Path, trees: Collection[str]) -> None:
        del written
        with contextlib.suppress(OSError):  # The next writer will do it.
            self.recover(path, trees)

    @contextlib.contextmanager
    def local_copy(self, folder: Path) -> Iterator[Path]:
        with contextlib.ExitStack() as stack:
            with _answering(folder):  # Without room here, nothing is known of it.
                directory = tempfile.TemporaryDirectory(prefix="l2o-")
                here = Path(stack.enter_context(directory))
            self.download(folder, self._objects(folder), here)
            yield here

    def checkpoints(self, parent: Path) -> list[str]:
        names = (PurePosixPath(name) for name in self._objects(parent))
        return [n.parts[0] for n in names if n.parts[1:] == (MANIFEST,)]

    def tidy(self, parent: Path, trees: Collection[str]) -> None:
        found = {PurePosixPath(name).parts[0] for name in self._objects(parent)}
        for name in {n.removeprefix(".").removesuffix(".old") for n in found}:
            self.recover(parent / name, trees)

    def read(self, path: Path) -> bytes:
        with _answering(path):
            return self._client.cat_file(str(path))

    def write(self, path: Path, content: bytes) -> None:
        self.write_all({path: content})

    def move(self, path: Path, target: Path) -> None:
        self.remove(target)
        self._copy(path, target)
        self.remove(path)

    def remove(self, path: Path) -> None:
        self._clear(path, self._objects(path))

    def write_all(self, contents: Mapping[Path, bytes]) -> None:
        """Writes objects, each of which appears whole."""
        if contents:
            with _answering(next(iter(contents))):
                self._client.pipe({str(path): c for path, c in contents.items()})

    def create(self, path: Path, content: bytes) -> None:
        """Writes an object that is not there; raises FileExistsError if it is."""
        with _answering(path):
            self._client.pipe_file(str(path), content, mode="create")

    def modified(self, path: Path) -> dt.datetime:
        """When an object was written, by the clock of the store."""
        with _answering(path):
            return self._client.modified(str(path))

    def delete(self, path: Path) -> None:
        """Removes an object; raises FileNotFoundError if it is not there."""
        with _answering(path):
            self._client.rm_file(str(path))

    def names(self, folder: Path, prefix: str = "") -> list[str]:
        """Names of the objects in a folder that begin with a prefix."""
        return list(self._objects(folder, prefix))

    def download(self, folder: Path, names: Collection[str], here: Path) -> None:
        """Copies objects of a folder, by their names in it, to a directory of a disk.

        Raises:
            ValueError: a name is not one of a file there.
        """
        for name in names:
            # Names of objects are any text, `..` included.
            if PurePosixPath(name).is_absolute() or ".." in name.split("/"):
                raise ValueError(f"{folder} must hold names of files, got {name!r}")
        with _answering(folder):
            self._client.get(
                [str(folder / name) for name in names],
                [str(here / name) for name in names],
            )

    @property
    def _client(self) -> Any:
        """The client by which orbax, too, sees buckets; here its answers are new."""
        from etils.epath import backend

        client: Any = backend.fsspec_backend.fs("gs://")
        # Other processes write to the same directories: what was listed before is
        # nothing to rely on.
        client.dircache.use_listings_cache = False
        client.invalidate_cache()
        return client

    def _objects(self, folder: Path, prefix: str = "") -> dict[str, str]:
        """What is in a folder, by the names in it, which begin with `prefix`."""
        root = str(folder).removeprefix("gs://") + "/"
        with _answering(folder):
            found = self._client.find(str(folder), prefix=prefix)
        # A name that ends with a slash is made by consoles to show an empty folder.
        names = (n for n in found if n.startswith(root) and not n.endswith("/"))
        return {name.removeprefix(root): name for name in names}

    def _is_whole(self, objects: Collection[str]) -> bool:
        return MANIFEST in objects

    def _copy(self, path: Path, target: Path) -> None:
        """Copies by the store itself, the manifest last."""
        names = self._objects(path)
        with _answering(path):
            for some in (names.keys() - {MANIFEST}, names.keys() & {MANIFEST}):
                sources, targets = (
                    [str(root / name) for name in some] for root in (path, target)
                )
                self._client.copy(sources, targets)

    def _clear(self, path: Path, objects: Mapping[str, str]) -> None:
        """Removes objects, the manifest first."""
        with _answering(path):
            for some in (objects.keys() & {MANIFEST}, objects.keys() - {MANIFEST}):
                if some:
                    self._client.rm([objects[name] for name in some])


BUCKET = Bucket()


@contextlib.contextmanager
def _answering(path: Path) -> Iterator[None]:
    """Makes one kind of error of all by which a store gives no answer."""
    try:
        yield
    except (FileExistsError, FileNotFoundError, ConnectionError):
        raise
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(f"{path} must be within reach, got {told}") from error


def _are_parts(objects: Collection[str], trees: Collection[str]) -> bool:
    """Whether there is what orbax writes of trees, or a part of it, and no other."""
    parts = [PurePosixPath(name).parts for name in objects]
    return all(part[0] in trees for part in parts) and any(
        _PART.fullmatch(part[1]) for part in parts if len(part) > 1
    )
