"""Checkpoints on a local or mounted file system, with renames and locks.

A checkpoint is written beside its place under a hidden name, made durable, and renamed
into place.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from l2o.layout import MANIFEST, MODEL_CARD, old_of


class Disk:
    """The `Filesystem` of paths of pathlib.

    The two renames of a commit have a moment between them in which only the old
    checkpoint exists, under its other name: readers look there too, and the next writer
    puts it back.
    """

    def exists(self, path: Path) -> bool:
        return path.exists()

    def is_dir(self, path: Path) -> bool:
        return path.is_dir()

    def is_file(self, path: Path) -> bool:
        return path.is_file()

    def committed(self, path: Path) -> Path:
        return path if path.exists() or not old_of(path).exists() else old_of(path)

    def recover(self, path: Path, trees: Collection[str]) -> None:
        del trees
        if not path.exists() and old_of(path).exists():
            old_of(path).rename(path)

    def begin(self, path: Path, trees: Collection[str], size: int) -> Path:
        _make_directory(path.parent)
        remove_leftovers(path)
        _require_space(path, size)
        temporary = temporary_of(path)
        try:
            temporary.mkdir()
            for name in trees:
                (temporary / name).mkdir()
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return temporary

    def commit(self, written: Path, path: Path, manifest: str) -> None:
        for entry in written.rglob("*"):
            _fsync(entry)
        (written / MANIFEST).write_text(manifest, encoding="utf-8")
        _fsync(written / MANIFEST)
        if (path / MODEL_CARD).is_file():
            shutil.copyfile(path / MODEL_CARD, written / MODEL_CARD)
            _fsync(written / MODEL_CARD)
        _fsync(written)
        if path.exists():
            shutil.rmtree(old_of(path), ignore_errors=True)
            path.rename(old_of(path))
        written.rename(path)
        _fsync(path.parent)
        shutil.rmtree(old_of(path), ignore_errors=True)

    def abandon(self, written: Path, path: Path, trees: Collection[str]) -> None:
        shutil.rmtree(written, ignore_errors=True)
        self.recover(path, trees)

    @contextlib.contextmanager
    def local_copy(self, folder: Path) -> Iterator[Path]:
        yield folder

    def checkpoints(self, parent: Path) -> list[str]:
        return [path.name for path in parent.glob("*")]

    def tidy(self, parent: Path, trees: Collection[str]) -> None:
        del trees
        for leftover in parent.glob(".*.tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f"{path.name}.tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def move(self, path: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        path.rename(target)

    def remove(self, path: Path) -> None:
        shutil.rmtree(path)


DISK = Disk()


def temporary_of(path: Path) -> Path:
    """Where this process writes what is to be at `path` in the end."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def remove_leftovers(path: Path) -> None:
    """Removes what killed writers left behind, not what a live one is writing."""
    prefix = f".{path.name}.tmp-"
    for entry in path.parent.iterdir():
        pid = entry.name.removeprefix(prefix)
        if (
            entry.name.startswith(prefix)
            and pid.isdecimal()
            and not _is_alive(int(pid))
        ):
            shutil.rmtree(entry, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():  # a number used again, as in containers it often is
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _make_directory(path: Path) -> None:
    missing = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        _fsync(directory.parent)


def _require_space(path: Path, size: int) -> None:
    # Twice: orbax may hold a tree once as it is written and once merged.
    needed = 2 * size + 2**20
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"writing {path} needs {needed:,} bytes free on its disk, got {free:,}",
        )


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
