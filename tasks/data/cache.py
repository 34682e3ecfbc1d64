"""Arrays that are kept between processes, in files that are whole or not there.

A file is NumPy's npz, never a pickle. It is written beside its place and then renamed,
so that a reader finds all of it or nothing. Every array in it carries a CRC-32 that is
checked when it is read, and one of them lists the others.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


_STAMP = "stamp"


def directory() -> Path:
    """Where they are kept: `$L2O_CACHE_DIR`, or `l2o` in the user's cache directory."""
    chosen = os.environ.get("L2O_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "l2o"


def read(path: Path, stamp: str | None) -> dict[str, np.ndarray] | None:
    """Reads the arrays of a file.

    Args:
        path: the file.
        stamp: of what the arrays were made, as it was given to `write`; None if any
            will do.

    Returns:
        The arrays by name; None if there is no such file, if it is damaged, or if it
        was made of something else.
    """
    try:
        # Opened here, as numpy leaves open what it cannot read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            written, names = json.loads(str(arrays[_STAMP]))
            if stamp is not None and written != stamp:
                return None
            return {name: arrays[name] for name in names}
    # Damage shows in many ways, and the remedy is one: to make the file again.
    except Exception:
        return None


def write(path: Path, arrays: Mapping[str, np.ndarray], stamp: str) -> None:
    """Writes arrays to a file, in place of one that is there.

    Args:
        path: the file; its directory is made.
        arrays: by name.
        stamp: of what they were made.

    Raises:
        OSError: the file cannot be written; one that was there is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            listed = np.array(json.dumps([stamp, list(arrays)]))
            np.savez(stream, allow_pickle=False, **{_STAMP: listed, **arrays})
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
