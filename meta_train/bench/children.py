"""Processes that a bench starts on this machine."""

import os
import sys
from pathlib import Path


def environment(devices: int, programs: Path | None = None) -> dict[str, str]:
    """Of a Python with this one's packages, and so many virtual CPU devices.

    Args:
        devices: of each process.
        programs: a folder of its own for what is compiled; None for the user's.
    """
    given = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        # As of a package that is installed, the source is not compiled at every start.
        "PYTHONDONTWRITEBYTECODE": "",
    }
    if programs is not None:
        given |= {
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return given
