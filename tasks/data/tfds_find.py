"""Where the data sets of TensorFlow Datasets lie once they are prepared.

A prepared data set is a directory `DATA_DIR/NAME[/CONFIG]/VERSION`. It is looked for by
its files alone: without TensorFlow Datasets, and without a network.
"""

import difflib
import json
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path


KNOWN = (
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "imagenet_resized/8x8",
    "imagenet_resized/16x16",
    "imagenet_resized/32x32",
    "imagenet_resized/64x64",
    "lm1b",
    "mnist",
    "svhn_cropped",
)
"""Names to suggest; any other image classification or text of the library will do."""

_NAME = re.compile(
    r"(?P<name>[A-Za-z]\w*)(/(?P<config>\w[\w.+-]*))?(:(?P<version>\d+\.\d+\.\d+))?"
)
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_INFO = "dataset_info.json"


def data_directory(data_dir: str | Path | None = None) -> Path:
    """Where to look: `data_dir`, or `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser().absolute()


def find(name: str, data_dir: Path) -> Path | None:
    """The directory of a prepared data set, or None.

    Args:
        name: like `mnist`, `imagenet_resized/8x8` or `mnist:3.0.1`. Without a version
            it is the newest that is there; without a config, the data set's default.
        data_dir: where to look.

    Raises:
        ValueError: the name is none.
    """
    match = parse(name)
    root = data_dir / match["name"]
    config = match["config"] or (None if _versions(root) else _default_config(root))
    versions = _versions(root / config if config else root)
    wanted = match["version"] or max(versions, key=_as_numbers, default="")
    return versions.get(wanted)


def parse(name: str) -> re.Match[str]:
    """The `name`, `config` and `version` in a name; the last two may be None.

    Raises:
        ValueError: the name is none.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            "a data set of TensorFlow Datasets must be like NAME, NAME/CONFIG or "
            f"NAME:VERSION, got {name!r}"
        )
    return match


def not_prepared(name: str, data_dir: Path) -> ValueError:
    """The error that a data set is not there, and what to do about it."""
    base = name.partition(":")[0]
    there = _prepared(data_dir)
    hint = "" if base in KNOWN else nearest(base, [*there, *KNOWN])
    configs = [n for n in there if n.startswith(f"{base}/")]
    if configs:
        hint = f" (there is {', '.join(configs)})"
    return ValueError(
        "a data set must be embedded (l2o list datasets) or prepared, found no "
        f"{name!r} in {data_dir}{hint}; to prepare it: "
        f"{prepare_command(name, data_dir)}"
    )


def prepare_command(name: str, data_dir: Path) -> str:
    """The command line that prepares a data set."""
    return f"l2o prepare {name} --data-dir {shlex.quote(str(data_dir))}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `" (did you mean 'x'?)"` for the closest known name, or `""`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def file_format(directory: Path) -> str:
    """The format of the files in a prepared data set's directory.

    Raises:
        ValueError: what describes them is damaged.
    """
    try:
        info = json.loads((directory / _INFO).read_text(encoding="utf-8"))
        return info.get("fileFormat") or "tfrecord"
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"{directory / _INFO} must describe a data set, got {error}"
        ) from error


def fingerprint(directory: Path) -> str:
    """A text that changes when a prepared data set is prepared anew."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    facts = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return json.dumps([str(directory), facts])


def _prepared(data_dir: Path) -> list[str]:
    """The names of all data sets that are there."""
    names = []
    for root in _folders(data_dir):
        names += [root.name] if _versions(root) else []
        names += [f"{root.name}/{c.name}" for c in _folders(root) if _versions(c)]
    return names


def _versions(folder: Path) -> dict[str, Path]:
    return {
        path.name: path
        for path in _folders(folder)
        if _VERSION.fullmatch(path.name) and (path / _INFO).is_file()
    }


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _default_config(root: Path) -> str | None:
    """The config that the data set's author made the default."""
    try:
        text = (root / ".config" / "metadata.json").read_text(encoding="utf-8")
        return json.loads(text)["default_config_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
