"""The faults of the campaign, one after another, and the report."""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax

from meta_train.bench.faults import directories, files, numbers, processes
from meta_train.bench.faults.lab import Lab
from meta_train.bench.faults.tally import Tally
from meta_train.directory import make_directory


class Fault(NamedTuple):
    """A kind of fault.

    Attributes:
        inject: tries it so often in a lab.
        trials: how often.
        quick: how often in a quick campaign.
    """

    inject: Callable[[Lab, int], Tally]
    trials: int
    quick: int


FAULTS: dict[str, Fault] = {
    "other layouts": Fault(processes.layouts, 8, 3),
    "kill -9": Fault(processes.kills, 50, 3),
    "SIGTERM": Fault(processes.terms, 20, 4),
    "a stopped process": Fault(processes.stopped, 2, 1),
    "an exception in one process": Fault(processes.failing, 2, 1),
    "other devices to go on with": Fault(processes.other_devices, 4, 1),
    "a bit of a checkpoint": Fault(files.bit_flips, 200, 20),
    "a file of a checkpoint": Fault(files.damaged_files, 99, 3),
    "all checkpoints damaged": Fault(files.all_damaged, 3, 1),
    "a full disk": Fault(files.full_disk, 3, 1),
    "a slow disk": Fault(files.slow_disk, 2, 1),
    "NaN in some particles": Fault(numbers.some_particles, 2, 1),
    "NaN in a family": Fault(numbers.a_family, 2, 1),
    "NaN in everything": Fault(numbers.everything, 2, 1),
    "a changed config": Fault(directories.changed_config, 3, 1),
    "a finished run": Fault(directories.finished, 2, 1),
    "two runs in a directory": Fault(directories.two_runs, 2, 1),
}
"""By name, in their order."""

PROCESSES, QUICK_PROCESSES = 4, 2
"""The most processes of a run; more than the cores of a machine take their time."""


def faults(
    say: Callable[[str], None],
    *,
    quick: bool = False,
    seed: int = 0,
    names: Iterable[str] = tuple(FAULTS),
) -> dict[str, Any]:
    """Tries faults against runs of this machine.

    After a fault that a run is to survive, sha256 of the last state (theta, the outer
    optimizer and all particles) must be that of a run on one device of one process that
    nothing disturbed.

    Args:
        say: is told what is going on.
        quick: few of each kind.
        seed: of moments, places and layouts.
        names: which of `FAULTS`.

    Returns:
        `rows`: by name how many were `tried` and `passed`, the `worst` figure with its
        `limit`, the `verdict`, what was `wrong`, and `orphans`: processes and temporary
        files that were left. `reference`: the sha256. And on what it was measured.
    """
    began = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="l2o-faults-"))
    lab = Lab(work, seed, QUICK_PROCESSES if quick else PROCESSES)
    rows: dict[str, Any] = {}
    try:
        say(f"the undisturbed run: {lab.reference[:12]}, {lab.seconds:.1f} s")
        for name in names:
            fault, start = FAULTS[name], time.monotonic()
            tally = fault.inject(lab, fault.quick if quick else fault.trials)
            seconds = time.monotonic() - start
            rows[name] = tally.as_json() | {
                "orphans": lab.orphans(),
                "seconds": round(seconds, 1),
            }
            say(f"{name}: {tally.passed}/{tally.tried} in {seconds:.0f} s")
            lab.clear()
    finally:
        lab.orphans()
        shutil.rmtree(work, ignore_errors=True)
    return {
        "reference": lab.reference,
        "rows": rows,
        "quick": quick,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
    }


def is_passed(result: dict[str, Any]) -> bool:
    """Whether every fault was survived, and nothing was left behind."""
    return not any(
        row["verdict"] == "failed" or row["orphans"] for row in result["rows"].values()
    )


def text(result: dict[str, Any]) -> str:
    """The table for people, and what was wrong."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("fault")
    for column in ("passed", "worst"):
        table.add_column(column, justify="right")
    for column in ("", "orphans", "verdict"):
        table.add_column(column)
    for name, row in result["rows"].items():
        worst = "" if row["worst"] is None else f"{row['worst']:.3g}"
        limit = f" of {row['limit']:g}" if row["limit"] is not None and worst else ""
        table.add_row(
            name,
            f"{row['passed']}/{row['tried']}",
            worst + limit,
            row["figure"],
            str(len(row["orphans"]) or "none"),
            row["verdict"],
        )
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table)
    lines = [line.rstrip() for line in shown.get().splitlines()]
    for name, row in result["rows"].items():
        found = [*row["wrong"], *(f"left {orphan}" for orphan in row["orphans"])]
        lines += [f"{name}: {wrong}" for wrong in found]
    lines.append(
        f"state {result['reference'][:16]} everywhere else, in {result['seconds']:.0f} "
        f"s on {result['cores']} cores, seed {result['seed']}, JAX {result['jax']}"
    )
    return "\n".join(lines)


def write(result: dict[str, Any], out: Path) -> None:
    """Leaves `faults.json` and `faults.txt` in a directory."""
    make_directory(out)
    content = json.dumps(result, indent=2) + "\n"
    (out / "faults.json").write_text(content, encoding="utf-8")
    (out / "faults.txt").write_text(text(result) + "\n", encoding="utf-8")
