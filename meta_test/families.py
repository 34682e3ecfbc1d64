"""Task families from tables, as configs and suites give them."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from l2o.config import build, nearest, spelled
from meta_test.gradient_source import GradientSource
from meta_test.optimizer_training import OptimizerTraining
from tasks import (
    AUGMENTATIONS as _AUGMENTATIONS,
    FAMILIES as _FAMILIES,
    TaskFamily,
    load,
    load_text,
)
from tasks.data.arrays import Labelled, Text


T = TypeVar("T")

FAMILIES: dict[str, Any] = {**_FAMILIES, "optimizer_training": OptimizerTraining}
"""All families by name: those of `tasks`, and those made of an optimizer and a task."""


AUGMENTATIONS: dict[str, Any] = {**_AUGMENTATIONS, "gradient_source": GradientSource}
"""All augmentations by name: those of `tasks`, and other sources of the gradient."""

_READERS = {Labelled: load, Text: load_text}


def build_family(table: Mapping[str, Any], where: str = "task") -> TaskFamily:
    """The family that a table describes.

    Args:
        table: `family`, a name of `FAMILIES`; its static fields; where it has data,
            `data`, a name or a list of them, as `tasks.load` takes them; where it is
            made of another family, that one's table as `inner`; and `augment`, a list
            of tables of an augmentation's `kind` and fields, the innermost first.
        where: what the table is, for error messages.

    Raises:
        ValueError: a name is unknown or a field is wrong.
    """
    fields = dict(table)
    augmentations = fields.pop("augment", [])
    family = _made(*choose(f"{where}.family", FAMILIES, fields), where)
    for i, one in enumerate(augmentations):
        place = f"{where}.augment[{i}]"
        cls, rest = choose(f"{place}.kind", AUGMENTATIONS, one)
        family = _made(cls, rest, place, inner=family)
    return family


def choose(
    field: str, known: Mapping[str, T], table: Mapping[str, Any]
) -> tuple[T, dict[str, Any]]:
    """The entry that a table names, and the table's other fields.

    Args:
        field: dotted; the last part is the name's key in the table.
        known: what there is.
        table: has the name.
    """
    fields = dict(table)
    name = fields.pop(field.rpartition(".")[2], None)
    if isinstance(name, str):
        name = spelled(name, known)
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"{field} must be one of {', '.join(known)}, "
            f"got {name!r}{nearest(str(name), known)}"
        )
    return known[name], fields


def _made(cls: Any, table: Mapping[str, Any], where: str, **arrays: Any) -> TaskFamily:
    fields = dict(table)
    static = [f for f in dataclasses.fields(cls) if f.metadata.get("static")]
    wanted = {f.name for f in dataclasses.fields(cls)} - {f.name for f in static}
    if "data" in wanted:
        if not fields.get("data"):
            raise ValueError(f"{where}.data must name a data set, got none")
        read = _READERS[typing.get_type_hints(cls)["data"]]
        try:
            arrays["data"] = read(fields.pop("data"))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if "inner" in wanted - arrays.keys():
        arrays["inner"] = build_family(fields.pop("inner", {}), f"{where}.inner")
    # Checked as a dataclass of the plain fields alone: arrays are not configuration.
    plain = dataclasses.make_dataclass(
        cls.__name__,
        [(f.name, f.type, dataclasses.field(default=f.default)) for f in static],
        frozen=True,
    )
    checked = build(plain, fields, where=where)
    return cls(**arrays, **{f.name: getattr(checked, f.name) for f in static})


TYPICAL: dict[str, dict[str, Any]] = {
    "graph_network": {},
    "image_autoencoder": {"data": "digits"},
    "image_conv": {"data": "digits"},
    "image_mlp": {"data": "digits"},
    "image_resnet": {"data": "digits"},
    "image_vae": {"data": "digits"},
    "image_vit": {"data": "digits"},
    "lm_rnn": {"data": "kjv"},
    "lm_transformer": {"data": "kjv"},
    "matrix_factorisation": {},
    "nonconvex": {},
    "optimizer_training": {"inner": {"family": "quadratic", "dim": 8}},
    "physics_informed": {},
    "policy_gradient": {},
    "quadratic": {},
    "softmax_regression": {"data": "wine"},
}
"""What a family's defaults lack: its data. For listings and benchmarks."""
