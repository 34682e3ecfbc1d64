"""What tests of several packages share. Imports none of them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest


ROOT = Path(__file__).parent.parent
# Recorded whether or not the persistent cache has the program; the same in JAX 0.10
# and 0.12.
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def count_compiles() -> Iterator[list[str]]:
    """Collects the names of the programs that are compiled inside the block."""
    names: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs
        if event == _COMPILE_EVENT:
            names.append(str(kwargs.get("fun_name", "?")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def assert_no_recompile() -> Iterator[None]:
    """Fails when anything is compiled inside the block.

    Make the arguments before the block, and call the function once: `jnp.ones(3)` and
    `jax.random.key(0)` are programs too.
    """
    with count_compiles() as names:
        yield
    if names:
        pytest.fail(f"compiled again: {', '.join(names)}")


def nightly(rows: Iterable[Any], *, but: Collection[Any]) -> list[Any]:
    """Rows of `pytest.mark.parametrize`, all of them `nightly` but for some."""
    mark = pytest.mark.nightly
    return [row if row in but else pytest.param(row, marks=mark) for row in rows]


def on_explicit_axes(
    shapes: dict[str, tuple[int, ...]], lie: dict[str, jax.sharding.PartitionSpec]
) -> tuple[jax.sharding.AbstractMesh, dict[str, jax.ShapeDtypeStruct]]:
    """A mesh of 2 x 2 devices, "x" and "y", as `jax.make_mesh` makes it, and arrays.

    Args:
        shapes: of arrays of float32.
        lie: along which axes of the mesh they are sharded.
    """
    explicit = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.sharding.AbstractMesh((2, 2), ("x", "y"), axis_types=explicit)
    arrays = {
        name: jax.ShapeDtypeStruct(
            shape, "float32", sharding=jax.sharding.NamedSharding(mesh, lie[name])
        )
        for name, shape in shapes.items()
    }
    return mesh, arrays


def run_python(code: str, *, devices: int = 1, timeout: float = 100.0) -> str:
    """Runs `code` in a new interpreter and returns what it prints on stdout.

    For what one process cannot show: an import on its own, several devices, another
    environment. The tests' own process has one device, as most users have.

    Args:
        code: a program; a failed `assert` in it fails the test.
        devices: number of virtual CPU devices.
        timeout: in seconds.
    """
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
