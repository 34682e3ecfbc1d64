"""Data sets of TensorFlow Datasets by name: image classification, and text.

They must have been prepared (`l2o prepare NAME`), in the format array_record; reading
them needs the extra `l2o[data]`, and neither TensorFlow nor a network. All of a data
set is decoded once, into memory, and kept in the cache (`tasks.data.cache`).

Their splits become ours:

| ours | of theirs |
|---|---|
| test | `test`; if there is none, `validation`; if there is none, 0.1 of `train` |
| inner_valid | 0.1 of `train` |
| outer_valid | 0.1 of `train` |
| train | the rest of `train`: 0.8, or 0.7 if test is dealt from it |

Examples are dealt by one fixed permutation. Texts are cut into contiguous parts, in the
order of `SPLITS`: the records of a split joined by newlines, of which the first
`TEXT_BYTES` bytes are read (LM1B has 4 billion). Records were shuffled when they were
prepared, so its beginning is a sample of it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.base import SPLITS, Split
from tasks.data import cache
from tasks.data.arrays import Examples, Passages
from tasks.data.tfds_find import (
    data_directory,
    file_format,
    find,
    fingerprint,
    not_prepared,
    prepare_command,
)


TEXT_BYTES = 20_000_000
"""What is read of each split of a text at most."""

SHARES: Mapping[Split, float] = {"train": 0.8, "inner_valid": 0.1, "outer_valid": 0.1}
"""Of `train`, where there is a part to test on."""

SHARES_WITH_TEST: Mapping[Split, float] = {
    "train": 0.7,
    "inner_valid": 0.1,
    "outer_valid": 0.1,
    "test": 0.1,
}
"""Of `train`, where there is none."""

_FORMAT = 1  # of what is cached
_SEED = 0
_RECORDS = 256  # read at a time


def load(name: str, *, data_dir: str | Path | None = None) -> Examples | Passages:
    """Reads a prepared data set.

    Args:
        name: like `cifar10`, `imagenet_resized/8x8` or `mnist:3.0.1`. Without a version
            it is the newest that is there; without a config, the data set's default.
        data_dir: where data sets are; by default `$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`.

    Returns:
        Labelled images, `[examples, height, width, channels]` uint8, or a text.

    Raises:
        ValueError: there is no such data set, it is damaged or incomplete, it is
            neither of labelled images of one size nor of text, or TensorFlow Datasets
            is not installed.
    """
    where = data_directory(data_dir)
    directory = find(name, where)
    stamp = None if directory is None else fingerprint(directory)
    path = _cached_at(name, where)
    arrays = cache.read(path, stamp)
    if arrays is None:
        if directory is None or stamp is None:
            raise not_prepared(name, where)
        with _quiet():
            arrays = _read(_Prepared(name, directory, prepare_command(name, where)))
        try:
            cache.write(path, arrays, stamp)
        except OSError as error:
            warnings.warn(
                f"{path} could not be written, {name} will be decoded again: {error}",
                stacklevel=2,
            )
    if "num_classes" not in arrays:
        return {s: arrays[s] for s in SPLITS}
    return Examples(
        inputs={s: arrays[f"inputs_{s}"] for s in SPLITS},
        labels={s: arrays[f"labels_{s}"] for s in SPLITS},
        num_classes=int(arrays["num_classes"]),
    )


def library() -> Any:
    """The package tensorflow_datasets.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise _not_installed(error) from error


def said(error: BaseException) -> str:
    """What kind of error it is, and the first line of what it says."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}".rstrip(": ")


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """A prepared data set, as the library reads it."""

    name: str
    directory: Path
    command: str  # which prepares it

    @functools.cached_property
    def builder(self) -> Any:
        package = library()
        with self._errors_named():
            return package.builder_from_directory(self.directory)

    def records(self, split: str, places: Sequence[int]) -> Iterator[Any]:
        """The decoded records of `split` at `places`."""
        with self._errors_named():
            source = self.builder.as_data_source(split)
        for start in range(0, len(places), _RECORDS):
            with self._errors_named():
                found = source.__getitems__(list(places[start : start + _RECORDS]))
            yield from found

    def count(self, split: str) -> int:
        """The number of records of `split`; all that were written must be there."""
        info = self.builder.info.splits[split]
        with self._errors_named():
            reader = importlib.import_module("array_record.python.array_record_module")
            found = 0
            for path in info.filepaths:
                shard = reader.ArrayRecordReader(str(path))
                found += shard.num_records()
                shard.close()
        if found != info.num_examples:
            raise self.refused(
                f"must have {info.num_examples} records in {split}, found {found}"
            )
        return found

    def refused(self, rule: str) -> ValueError:
        return ValueError(f"{self.name} {rule}, in {self.directory}")

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise _not_installed(error) from error
        except Exception as error:
            raise ValueError(
                f"{self.name} must be readable, got {said(error)}; remove "
                f"{self.directory} and prepare it again: {self.command}"
            ) from error


def _read(data: _Prepared) -> dict[str, np.ndarray]:
    """All arrays of a data set, by the names under which they are cached."""
    form = file_format(data.directory)
    if form != "array_record":
        # The others need TensorFlow, but for parquet, which loses records.
        raise ValueError(
            f"{data.name} must be prepared as array_record, {data.directory} holds "
            f"{form}; remove it and prepare it again: {data.command}"
        )
    features, splits = dict(data.builder.info.features), data.builder.info.splits
    inputs, labels = _keys(data.builder.info)
    if "train" not in splits:
        raise data.refused(f"must have a split train, got {', '.join(splits)}")
    test = next((s for s in ("test", "validation") if s in splits), None)
    kinds = [type(features.get(key)).__name__ for key in (inputs, labels)]
    if kinds[0] == "Text":
        return _texts(data, inputs, test)
    if kinds == ["Image", "ClassLabel"]:
        return _images(data, inputs, labels, test)
    raise data.refused(f"must be of text, or of images and a label, got {[*features]}")


def _keys(info: Any) -> tuple[str, str]:
    """The features that are a record's input and its label."""
    match info.supervised_keys:
        case (str() as inputs, str() as labels):
            return inputs, labels
    return "image" if "image" in info.features else "text", "label"


def _images(
    data: _Prepared, inputs: str, labels: str, test: str | None
) -> dict[str, np.ndarray]:
    count = data.count("train")
    order = np.random.default_rng(_SEED).permutation(count)
    # In the order of the file, which is read faster; batches are drawn at random.
    parts = {s: ("train", np.sort(p)) for s, p in _deal(order, test).items()}
    if test is not None:
        parts["test"] = (test, np.arange(data.count(test)))
    if min(len(places) for _, places in parts.values()) == 0:
        raise data.refused(f"must have an example for every split, got {count} in all")
    num_classes = data.builder.info.features[labels].num_classes
    shape = next(data.records("train", [0]))[inputs].shape
    arrays = {"num_classes": np.array(num_classes)}
    for split, (source, places) in parts.items():
        images = np.empty((len(places), *shape), np.uint8)
        classes = np.empty(len(places), np.int32)
        for i, record in enumerate(data.records(source, places.tolist())):
            image = record[inputs]
            if image.shape != shape or image.dtype != np.uint8:
                raise data.refused(
                    f"must have images of one shape in uint8, got {shape} and "
                    f"{image.shape} in {image.dtype}"
                )
            images[i], classes[i] = image, record[labels]
        if not 0 <= classes.min() <= classes.max() < num_classes:
            raise data.refused(
                f"must have labels in 0..{num_classes - 1} in {source}, got "
                f"{classes.min()}..{classes.max()}"
            )
        arrays |= {f"inputs_{split}": images, f"labels_{split}": classes}
    return arrays


def _texts(data: _Prepared, key: str, test: str | None) -> dict[str, np.ndarray]:
    parts: dict[str, np.ndarray] = {**_deal(_text(data, key, "train"), test)}
    if test is not None:
        parts["test"] = _text(data, key, test)
    return parts


def _text(data: _Prepared, key: str, split: str) -> np.ndarray:
    """The beginning of a split's text, `[bytes]` uint8."""
    lines, length = [], -1
    for record in data.records(split, range(data.count(split))):
        lines.append(record[key])
        length += 1 + len(lines[-1])
        if length >= TEXT_BYTES:
            break
    return np.frombuffer(b"\n".join(lines)[:TEXT_BYTES], np.uint8)


def _deal(things: np.ndarray, test: str | None) -> dict[Split, np.ndarray]:
    """Cuts what `train` holds into the splits that are dealt from it."""
    shares = SHARES_WITH_TEST if test is None else SHARES
    cuts = np.round(np.cumsum(list(shares.values())) * len(things)).astype(int)
    return dict(zip(shares, np.split(things, cuts[:-1]), strict=True))


def _cached_at(name: str, data_dir: Path) -> Path:
    """One file for each data set of each directory, and for each way to deal it."""
    dealt = [dict(SHARES), dict(SHARES_WITH_TEST), _SEED, TEXT_BYTES]
    recipe = json.dumps([_FORMAT, name, str(data_dir), dealt])
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    readable = re.sub(r"\W+", "-", name)
    return cache.directory() / "tfds" / f"{readable}-{digest}.npz"


def _not_installed(error: ImportError) -> ValueError:
    return ValueError(
        "data sets of TensorFlow Datasets need the extra data: "
        f"pip install 'l2o[data]' ({error})"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's advice to install a faster decoder."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
