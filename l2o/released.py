"""Where released checkpoints live, and how a name finds one."""

import os
from pathlib import Path

from l2o import storage
from l2o.config import nearest
from l2o.filesystem import place


def names() -> list[str]:
    """Returns the names of the released optimizers, sorted."""
    folder = _folder()
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if storage.exists(entry))


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """Returns the directory of a checkpoint.

    A path wins over a released name: anything that has a separator, or is the directory
    of a checkpoint, is a path.

    Raises:
        CheckpointError: a name is neither released nor a checkpoint.
        ValueError: a path is of a kind that cannot be read.
    """
    path = place(name_or_path)
    text = os.fspath(name_or_path)
    is_path = not isinstance(name_or_path, str) or "/" in text or os.sep in text
    if is_path or storage.exists(path):
        return path
    known = names()
    if text not in known:
        raise storage.CheckpointError(
            f"an optimizer must be a released name, one of {known}, or a checkpoint's "
            f"directory, got {text!r}{nearest(text, known)}"
        )
    return _folder() / text


def _folder() -> Path:
    package = Path(__file__).parent
    installed = package / "_checkpoints"  # where the wheel puts them
    return installed if installed.is_dir() else package.parent / "checkpoints"
