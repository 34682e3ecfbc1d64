"""Programs are kept between runs: most of a restart is tracing and compiling them.

JAX's persistent cache keeps what is compiled; see also
`l2o.processes.keeping_programs`. What it is compiled from, StableHLO, is kept beside.
"""

import hashlib
import os
import platform
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jax
import jax.export


MOST_BYTES = 2**32
"""What the folder may hold; older programs are removed when a run begins."""


def keep_programs() -> None:
    """Turns the cache on, in a folder of the user's alone.

    `JAX_COMPILATION_CACHE_DIR`, where it is set, says where instead, and an empty one
    that there is none. What is in it is executed: a folder that others could write to
    is not used. A program is found again on the same kind of CPU.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    with suppress(OSError, RuntimeError):  # No home, or not ours to write.
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "l2o" / "programs" / f"{jax.__version__}-{_cpu()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        others = stat.S_IWGRP | stat.S_IWOTH
        if found.st_uid != os.getuid() or found.st_mode & others:
            return
        _trim(folder.parent)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # By default only what took a second is kept.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def lowered(key: str, lower: Callable[[], jax.export.Exported]) -> jax.export.Exported:
    """A program before it is compiled: the one that is kept, or else a new one.

    It lies where the compiled ones do, if these are kept on this machine, behind its
    sha256: one that is not as it was written is made again. What is new is written and
    returned as it will be read: XLA is given the same program every time, and then
    finds what it has compiled.

    Args:
        key: a hash of all that the program depends on.
        lower: makes it.

    Raises:
        Exception: what `lower` raises, or what its program cannot be written for.
    """
    path = _path(key)
    if path is not None:
        with suppress(OSError, _DamagedError):
            return _read(path.read_bytes())
    content = bytes(lower().serialize())
    content = hashlib.sha256(content).digest() + content
    if path is not None:
        with suppress(OSError):  # The next one makes it again.
            _write(path, content)
    return _read(content)


def has_lowered(key: str) -> bool:
    """Whether `lowered` has one to read."""
    path = _path(key)
    return path is not None and path.is_file()


class _DamagedError(ValueError):
    """A file is not as it was written."""


def _read(content: bytes) -> jax.export.Exported:
    told, program = content[:32], content[32:]
    if hashlib.sha256(program).digest() != told:
        raise _DamagedError
    return jax.export.deserialize(bytearray(program))


def _write(path: Path, content: bytes) -> None:
    """Writes all or nothing; several processes may write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".stablehlo-")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _path(key: str) -> Path | None:
    """Beside the compiled ones of JAX, where these are in a folder of this machine."""
    settings = jax.config.values
    folder = settings["jax_compilation_cache_dir"]
    if not folder or "://" in folder or not settings["jax_enable_compilation_cache"]:
        return None
    return Path(folder, f"{key}-stablehlo")


def _trim(root: Path) -> None:
    """Removes the oldest programs, not by JAX, which would need another package."""
    files = [(path.stat(), path) for path in root.glob("*/*")]
    files.sort(key=lambda file: file[0].st_mtime, reverse=True)
    total = 0
    for found, path in files:
        total += found.st_size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)


def _cpu() -> str:
    """What a program for a CPU may use of it."""
    text = platform.machine() + platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kinds = ("flags", "Features", "model name")
        text += "".join(sorted({line for line in lines if line.startswith(kinds)}))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
