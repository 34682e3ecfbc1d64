"""Trainings that were made, kept on disk under a hash of all that they depend on."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from meta_test.inner_loop import Curve, Evaluation


PACKAGES = ("l2o", "tasks", "meta_test")
"""Whose source is part of every key: other code, other trainings."""

AFTERWARDS = frozenset(
    {
        *("across", "across_figure", "adjustable", "aggregates", "card", "card_figure"),
        *("card_trainings", "compare", "evaluate", "figure", "fractal", "guards"),
        *("inspection", "inspection_figure", "listing", "optimizer_step"),
        *("page", "pictures"),
        *("reference", "report", "results", "spreadsheet", "statistics", "table"),
        *("trainability", "trainability_axes", "trainability_figure"),
        *("tuning", "tuning_report", "way", "wishes"),
    }
)
"""Modules and packages of `meta_test` that are left out: they choose trainings, as the
key says, or look at what came of them, but do not make them."""

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file raises."""


_EVALUATED = ("initial", "evaluations")
_SWEEP = (
    *("train_loss", "steps", "seconds_per_step"),
    *(f"{part}.{name}" for part in _EVALUATED for name in Evaluation._fields),
)
"""The arrays of a sweep in its file."""

_SUMMARY = "summary."
"""How the names of those begin that a sweep has beside."""


class Sweep(NamedTuple):
    """Trainings of one contender on one cell, and what a step took."""

    curve: Curve  # leading axis [trials]
    seconds_per_step: float


class Results:
    """A folder with a file per sweep, or of other arrays that trainings left.

    A key is the sha256 of the cell and its data, the contender, the seeds, the
    protocol, the code of this project, the versions of its libraries and the kind of
    device: what is found under it is what would be computed. Files are arrays and JSON,
    written whole; several processes may share the folder.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], None], *, read: bool = True
    ) -> None:
        """Makes nothing yet.

        Args:
            folder: where files are; made when there is one to keep.
            say: told in a line of what cannot be read or written: the trainings are
                then made, or not kept.
            read: whether what is here is looked at; else it is only written.
        """
        self._folder = folder
        self._say = say
        self._read = read

    def key(
        self,
        *,
        cell: Mapping[str, Any],
        contender: Any,
        settings: Mapping[str, Any],
    ) -> str | None:
        """The key of trainings; None if what they are cannot be written down.

        Args:
            cell: its `meta_test.suites.Cell.fingerprint`, with whatever is trained of
                it.
            contender: of which `plain` makes a description.
            settings: whatever else trainings depend on.
        """
        content = {
            "cell": cell,
            "contender": contender,
            "settings": settings,
            "environment": environment(),
        }
        try:
            text = json.dumps(plain(content), sort_keys=True)
        except Indescribable:
            return None
        # An address in a field's repr: of an object that only this process knows.
        return None if " at 0x" in text else hashlib.sha256(text.encode()).hexdigest()

    def find(self, key: str | None) -> Sweep | None:
        """The sweep of a key, if it is here and whole."""
        found = self.find_arrays(key, _SWEEP, prefix=_SUMMARY)
        if found is None:
            return None
        initial, evaluations = (
            Evaluation(*(found[f"{part}.{name}"] for name in Evaluation._fields))
            for part in _EVALUATED
        )
        summary = {
            name.removeprefix(_SUMMARY): array
            for name, array in found.items()
            if name.startswith(_SUMMARY)
        }
        losses, steps = found["train_loss"], found["steps"]
        curve = Curve(initial, losses, evaluations, steps, summary)
        return Sweep(curve, float(found["seconds_per_step"]))

    def find_arrays(
        self, key: str | None, names: Iterable[str], *, prefix: str | None = None
    ) -> dict[str, Any] | None:
        """The arrays of a key by these names, if they are here and whole.

        Args:
            key: of the trainings.
            names: without which the file is not whole.
            prefix: all whose names begin so are given too.
        """
        path = self._folder / f"{key}.npz"
        if key is None or not self._read or not path.is_file():
            return None
        try:
            # Read at once: numpy leaves a file open that it cannot make sense of.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                more = (n for n in file if prefix is not None and n.startswith(prefix))
                return {name: file[name] for name in (*names, *more)}
        except _DAMAGED as error:
            self._say(f"kept results must be whole, {path} is made again: {error}")
            return None

    def keep(self, key: str | None, sweep: Sweep) -> None:
        """Writes a sweep: all of it or nothing."""
        curve = sweep.curve
        arrays = {
            "train_loss": curve.train_loss,
            "steps": curve.steps,
            "seconds_per_step": np.float64(sweep.seconds_per_step),
        }
        for part in _EVALUATED:
            for name, value in getattr(curve, part)._asdict().items():
                arrays[f"{part}.{name}"] = value
        for name, value in curve.summary.items():
            arrays[f"{_SUMMARY}{name}"] = value
        self.keep_arrays(key, arrays)

    def keep_arrays(self, key: str | None, arrays: Mapping[str, Any]) -> None:
        """Writes arrays by name: all of them or nothing."""
        if key is None:
            return
        path = self._folder / f"{key}.npz"
        partial = path.with_name(f".{key}.{os.getpid()}.npz")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(partial, **arrays)
            partial.replace(path)
        except OSError as error:
            self._say(f"results could not be kept, the evaluation goes on: {error}")
            with contextlib.suppress(OSError):
                partial.unlink()


class Indescribable(ValueError):
    """Something has no description that another process would recognise."""


def plain(thing: Any) -> Any:
    """A description that JSON can hold, the same in every process.

    Functions are named, so that they must be found in a module; dataclasses are their
    fields; arrays are the hashes of their bytes.

    Raises:
        Indescribable: a lambda or an inner function, or an object of unknown kind.
    """
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, Mapping):
        return {str(name): plain(value) for name, value in thing.items()}
    if isinstance(thing, jax.Array | np.ndarray | np.generic):
        array = np.asarray(thing)
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return [str(array.dtype), list(array.shape), digest]
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing)}
        return {"class": _name(type(thing)), **plain(fields)}
    if isinstance(thing, list | tuple):
        return [plain(value) for value in thing]
    if isinstance(thing, functools.partial):
        return [plain(thing.func), plain(thing.args), plain(thing.keywords)]
    return _name(thing)


def _name(thing: Any) -> str:
    name = getattr(thing, "__qualname__", "<nameless>")
    if "<" in name:
        raise Indescribable(f"must be found in a module by its name, got {thing!r}")
    return f"{thing.__module__}.{name}"


@functools.cache
def environment() -> dict[str, Any]:
    """What results depend on beside what is asked for."""
    device = jax.local_devices()[0]
    return {
        "source": source_sha256(),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "device": [device.platform, device.device_kind],
    }


def source_sha256() -> str:
    """The sha256 of the project's own modules that trainings are made of."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root)
            if package != "meta_test" or Path(name.parts[0]).stem not in AFTERWARDS:
                digest.update(str(name).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def default_folder() -> Path:
    """`$L2O_CACHE_DIR`, else the user's cache folder."""
    given = os.environ.get("L2O_CACHE_DIR")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "l2o" / "results"
