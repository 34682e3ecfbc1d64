"""Compiled programs are kept between runs: most of a restart is compilation.

JAX's persistent cache does it; see also `l2o.processes.keeping_programs`.
"""

import hashlib
import os
import platform
import stat
from contextlib import suppress
from pathlib import Path

import jax


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
