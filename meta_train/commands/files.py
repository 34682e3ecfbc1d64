"""`l2o plot`, `import`, `reference` and `prepare`."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import l2o
from l2o.config import override
from l2o.filesystem import is_bucket, place
from l2o.storage import is_free, read_manifest
from meta_test import (
    reference as references,
)
from meta_test.suites import Cell, suite_named
from meta_train import plot as plots
from meta_train.commands.said import print_json, say
from meta_train.progress import progress
from meta_train.signals import Interrupted, StopSignal
from tasks import DATASETS
from tasks.data import tfds, tfds_prepare
from tasks.data.arrays import Examples
from tasks.data.tfds_find import data_directory, find


def plot(*, runs: Sequence[str], out: str, as_json: bool) -> int:
    """`l2o plot`: the course of runs in one picture."""
    curves = [plots.read_run(place(run)) for run in runs]
    beside = len(runs) == 1 and not is_bucket(place(runs[0]))
    default = Path(runs[0]) / "curves.png" if beside else Path("meta-training.png")
    figure = Path(out) if out else default
    plots.write(curves, figure)
    say(f"figure:    {figure}")
    ends = {r.name: {"steps": r.rows[-1]["step"], "last": r.rows[-1]} for r in curves}
    print_json(as_json, {"figure": str(figure), "runs": ends})
    return 0


def import_weights(
    *,
    file: Path,
    arch: str,
    out: Path,
    overrides: Sequence[str],
    licence: str,
    as_json: bool,
) -> int:
    """`l2o import`: a checkpoint of published weights, and where they came from."""
    if not is_free(out):
        raise FileExistsError(f"--out must be a directory to make, {out} exists")
    flags: dict[str, Any] = {}
    for assignment in overrides:
        flags = override(flags, assignment)
    lopt, theta = l2o.import_public(file, arch, **flags)
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    source = {"file": file.name, "sha256": sha256, "arch": arch}
    l2o.save(out, lopt, theta, licence=licence, source=source)
    manifest = read_manifest(out)
    shown = ("architecture", "sizes", "num_meta_parameters", "theta_sha256", "licence")
    if as_json:
        summary = {"directory": str(out), "source": source}
        print_json(True, summary | {name: manifest[name] for name in shown})
    else:
        print(
            f"{out}: {manifest['architecture']}, {manifest['num_meta_parameters']:,} "
            f"meta-parameters, from {file.name} of sha256 {sha256}"
        )
    return 0


def reference(*, suites: Sequence[str], out: Path, as_json: bool) -> int:
    """`l2o reference`: measure where trainings start and where tuned Adam ends."""
    chosen = [suite_named(name) for name in suites]
    found = {}
    with StopSignal(say) as stop:
        try:
            for one in chosen:
                with progress(one.name) as bar:

                    def on_cell(done: int, total: int, cell: Cell) -> None:
                        stop.check()
                        bar.update(done, total, {"cell": cell.name})

                    found[one.name] = references.update(one, out, on_cell)
        except Interrupted as signal:
            say(
                f"stopped by {signal}, the cells measured so far are saved in {out}; "
                "to go on: the same command again"
            )
            print_json(as_json, {"finished": False, "stopped_by": str(signal)})
            return 0
    print_json(as_json, found)
    if not as_json:
        for name, rows in found.items():
            print(f"{out / name}.json: {len(rows)} cells")
    return 0


def prepare(*, name: str, data_dir: str, as_json: bool) -> int:
    """`l2o prepare`: download a data set, and read all of it once."""
    where = data_directory(data_dir)
    directory = find(name, where)
    if directory is None:
        directory = tfds_prepare.prepare(name, where)
    else:
        say(f"{name} is already prepared")
    if name in DATASETS:
        say(
            f"{name} names the embedded data set, that of TensorFlow Datasets is "
            f"{name}:{directory.name}"
        )
    data = tfds.load(name, data_dir=where)
    if isinstance(data, Examples):
        kind, arrays, unit = "images", data.inputs, "examples"
    else:
        kind, arrays, unit = "text", data, "bytes"
    sizes = {split: len(array) for split, array in arrays.items()}
    if as_json:
        summary = {"name": name, "directory": str(directory), "kind": kind}
        print_json(True, summary | {unit: sizes})
    else:
        listed = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
        print(f"{directory}: {kind}, {listed} {unit}")
    return 0
