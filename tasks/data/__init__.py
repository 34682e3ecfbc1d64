"""Data sets by name: embedded ones, and those of TensorFlow Datasets.

A new embedded data set is one loader and one row in `DATASETS`.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from tasks.base import SPLITS
from tasks.data import (
    digits,
    fashion_mnist,
    mnist,
    mnist1d,
    photo_patches,
    tabular,
    text,
    tfds,
)
from tasks.data.arrays import Examples, Labelled, Text, on_device, texts_on_device
from tasks.data.resize import resize
from tasks.data.tfds_find import nearest


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An embedded data set.

    Attributes:
        kind: images `[examples, height, width, channels]`, vectors `[examples,
            features]`, or a text as bytes.
        load: reads it, once per process.
        about: what it is, in a line.
        source: who made it.
        licence: under which it is redistributed.
    """

    kind: Literal["images", "vectors", "text"]
    load: Callable[[], Any]
    about: str
    source: str
    licence: str


def _images(module: Any, about: str) -> Dataset:
    return Dataset("images", module.load, about, module.SOURCE, module.LICENCE)


def _table(load: Callable[[], Any], about: str) -> Dataset:
    name = load.__name__
    sources, licences = tabular.SOURCES, tabular.LICENCES
    return Dataset("vectors", load, about, sources[name], licences[name])


def _text(load: Callable[[], Any], about: str) -> Dataset:
    name = load.__name__
    return Dataset("text", load, about, text.SOURCES[name], text.LICENCES[name])


DATASETS: dict[str, Dataset] = {
    "digits": _images(digits, "handwritten digits, 8x8 grey"),
    "mnist": _images(mnist, "handwritten digits, 28x28 grey"),
    "fashion_mnist": _images(fashion_mnist, "pieces of clothing, 28x28 grey"),
    "photo_patches": _images(photo_patches, "of which photograph: 16x16 patches"),
    "mnist1d": Dataset(
        "vectors",
        mnist1d.load,
        "synthetic signals of length 40 in the place of digits",
        mnist1d.SOURCE,
        mnist1d.LICENCE,
    ),
    "breast_cancer": _table(tabular.breast_cancer, "nuclei of cells: benign or not"),
    "diabetes": _table(tabular.diabetes, "patients: quarters of progression"),
    "iris": _table(tabular.iris, "lengths of a flower: which species"),
    "wine": _table(tabular.wine, "chemical analyses: which grower"),
    "kjv": _text(text.kjv, "the King James Bible, its first megabyte"),
    "python_topics": _text(text.python_topics, "the help topics of Python 3.11"),
}

_NAME = re.compile(r"(?P<name>[\w./:-]+?)(@(?P<size>\d+)(?P<grey>grey)?)?")


def load(names: str | Sequence[str]) -> Labelled:
    """Labelled data sets of one shape as device arrays.

    Args:
        names: one or several: an embedded data set, else one of TensorFlow Datasets
            that has been prepared. Images may be asked for at a size: `mnist@8` is
            8 x 8, and `photo_patches@8grey` grey besides.

    Raises:
        ValueError: an unknown name, a text, data that are not there or are damaged, or
            data sets that do not fit together.
    """
    found = _found(names)
    if texts := [n for n, d in found.items() if not isinstance(d, Examples)]:
        raise ValueError(f"data must be labelled examples, got {', '.join(texts)}")
    return on_device(found)


def load_text(names: str | Sequence[str]) -> Text:
    """Texts as bytes on the device.

    Args:
        names: one or several, as for `load`.

    Raises:
        ValueError: an unknown name, labelled examples, or data that are not there or
            are damaged.
    """
    found = _found(names)
    if others := [n for n, d in found.items() if isinstance(d, Examples)]:
        raise ValueError(f"data must be texts, got {', '.join(others)}")
    return texts_on_device(found)


def _found(names: str | Sequence[str]) -> dict[str, Any]:
    wanted = (names,) if isinstance(names, str) else tuple(names)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(
            f"data must be a name or several different ones, got {names!r}"
        )
    return {name: _one(name) for name in wanted}


def _one(wanted: str) -> Any:
    match = _NAME.fullmatch(wanted)
    if match is None:
        raise ValueError(
            f"a data set must be like NAME, NAME@SIZE or NAME@SIZEgrey, got {wanted!r}"
        )
    name, size = match["name"], match["size"]
    if size is None:
        return _read(name)
    # What is embedded stays as it is, and a suite asks for the same images many times.
    resized = _resized_once if name in DATASETS else _resized
    return resized(name, int(size), bool(match["grey"]))


def _resized(name: str, size: int, grey: bool) -> Examples:
    data = _read(name)
    if not isinstance(data, Examples) or data.inputs["train"].ndim != 4:
        wanted = f"{name}@{size}{'grey' * grey}"
        raise ValueError(f"only images can be resized, got {wanted!r}")
    inputs = {s: resize(data.inputs[s], size, grey=grey) for s in SPLITS}
    return data._replace(inputs=inputs)


_resized_once = functools.lru_cache(maxsize=16)(_resized)


def _read(name: str) -> Any:
    if name in DATASETS:
        return DATASETS[name].load()
    try:
        return tfds.load(name)
    except ValueError as error:
        raise ValueError(f"{error}{nearest(name, DATASETS)}") from error
