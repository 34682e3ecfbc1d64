"""Faults of checkpoints and of disks."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from l2o.storage import CheckpointError, read_manifest
from meta_train import config as configs
from meta_train.bench.faults.lab import Lab, Variant, last_line
from meta_train.bench.faults.tally import Tally
from meta_train.build import build_trainer
from meta_train.directory import RunDirectory
from meta_train.launch import newest_step
from meta_train.outer import OuterState


def bit_flips(lab: Lab, trials: int) -> Tally:
    """A bit of a random file of the newest checkpoint is another one.

    The reading is that of a resumed run, in this process; one run goes on to the end.
    """
    tally = Tally()
    shapes = _shapes(lab)
    for _ in range(trials):
        out = lab.copy_of_reference("flip")
        file = lab.random.choice(_files(_newest(out)))
        content = bytearray(file.read_bytes())
        place, bit = lab.random.randrange(len(content)), lab.random.randrange(8)
        content[place] ^= 1 << bit
        file.write_bytes(content)
        tally.add(_falls_back(out, shapes, f"bit {bit} of byte {place} of {file.name}"))
        shutil.rmtree(out)
    tally.add(_goes_on(lab, lambda file: file.write_bytes(file.read_bytes()[::-1])))
    return tally


def damaged_files(lab: Lab, trials: int) -> Tally:
    """Every file of the newest checkpoint is emptied, cut in half, deleted.

    At most `trials` files, the manifest among them; one run goes on to the end.
    """
    tally = Tally()
    shapes = _shapes(lab)
    newest = _newest(lab.copy_of_reference("names"))
    names = [file.relative_to(newest) for file in _files(newest)]
    # The manifest is the one file that the others are judged by.
    names.sort(key=lambda name: name.name != "manifest.json")
    for name in names[:trials]:
        for damage in ("emptied", "halved", "deleted"):
            out = lab.copy_of_reference("damage")
            file = _newest(out) / name
            if damage == "deleted":
                file.unlink()
            else:
                size = file.stat().st_size
                with file.open("r+b") as opened:
                    opened.truncate(0 if damage == "emptied" else size // 2)
            tally.add(_falls_back(out, shapes, f"{name} {damage}"))
            shutil.rmtree(out)
    tally.add(_goes_on(lab, Path.unlink))
    return tally


def all_damaged(lab: Lab, trials: int) -> Tally:
    """No checkpoint is good: an error, and no start from the beginning."""
    tally = Tally()
    for _ in range(trials):
        out = lab.copy_of_reference("hopeless")
        for step in RunDirectory(out).steps():
            file = lab.random.choice(_files(out / "checkpoints" / f"step_{step:08d}"))
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2])
        before = sorted(path.name for path in (out / "checkpoints").iterdir())
        shutil.rmtree(out / "optimizer")
        life = lab.start(out)
        statuses = life.end()
        after = sorted(path.name for path in (out / "checkpoints").iterdir())
        if statuses != [1] or "damaged" not in last_line(life.said):
            tally.add(f"ended with {statuses}: {last_line(life.said)}")
        elif after != before:
            tally.add(f"checkpoints were {before}, are {after}")
        else:
            tally.add()
    return tally


def full_disk(lab: Lab, trials: int) -> Tally:
    """The disk is full for a while: the run stops, or waits, and then goes on."""
    tally = Tally()
    for _ in range(trials):
        with _small_disk(lab.new("disk")) as disk:
            if disk is None:
                tally.skipped = "needs the right to mount a small file system"
                return tally
            tally.add(_on_full_disk(lab, disk))
    return tally


def slow_disk(lab: Lab, trials: int) -> Tally:
    """What brings a file to disk takes long: saves never overlap, the state is it."""
    tally = Tally("saves at a time", limit=1.0)
    for _ in range(trials):
        out = lab.new("slow")
        life, most = lab.start(out, variant=Variant("slow_disk=0.05")), 0
        while life.last(0.002):
            most = max(most, len(list((out / "checkpoints").glob(".step_*"))))
        statuses = life.end()
        if any(statuses):
            tally.add(f"ended with {statuses}: {last_line(life.said)}")
        else:
            tally.add(lab.differs(out), figure=float(most))
    return tally


def _newest(out: Path) -> Path:
    return out / "checkpoints" / f"step_{newest_step(out):08d}"


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def _shapes(lab: Lab) -> OuterState:
    trainer = build_trainer(configs.load(str(lab.config)))
    return jax.eval_shape(lambda t: t.init(jax.random.key(0)), trainer)


def _falls_back(out: Path, shapes: OuterState, damage: str) -> str:
    """What is wrong with a restore, which must be of the newest but one."""
    step = RunDirectory(out).steps()[1]
    try:
        restored = RunDirectory(out).restore(shapes)
    except CheckpointError as error:
        return f"{damage}: {error}"
    if restored is None or restored.step != step or len(restored.damaged) != 1:
        return f"{damage}: {restored and (restored.step, restored.damaged)}"
    return ""


def _goes_on(lab: Lab, damage: Callable[[Path], object]) -> str:
    """What is wrong with the end of a run whose newest checkpoint is damaged."""
    out = lab.copy_of_reference("damaged")
    shutil.rmtree(out / "optimizer")
    damage(lab.random.choice(_files(_newest(out))))
    return lab.finish(out)


def _on_full_disk(lab: Lab, disk: Path) -> str:
    """What was wrong with a run on a disk that is full, and later is not."""
    assert lab.reference
    out = disk / "run"
    shutil.copytree(lab.reference_run, out)
    shutil.rmtree(out / "optimizer")
    shutil.rmtree(_newest(out))
    before = RunDirectory(out).steps()
    filler = disk / "filler"
    with filler.open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    life = lab.start(out)
    statuses = life.end()
    left = [path.name for path in (out / "checkpoints").glob(".*")]
    if statuses != [1]:
        return f"ended with {statuses} on a full disk: {last_line(life.said)}"
    if RunDirectory(out).steps() != before or left:
        return f"checkpoints were {before}, are {RunDirectory(out).steps()} and {left}"
    for step in before:
        read_manifest(out / "checkpoints" / f"step_{step:08d}")
    filler.unlink()
    return lab.finish(out)


@contextlib.contextmanager
def _small_disk(path: Path) -> Iterator[Path | None]:
    """A file system of 4 MB of its own, None where that may not be mounted."""
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "none", str(path)]
    mount = shutil.which("mount") if sys.platform == "linux" else None
    if not mount or subprocess.run([mount, *options], capture_output=True).returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
