"""Configs are built strictly; every error is one line that names the dotted path."""

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pytest

from l2o import config
from tests.helpers import run_python


@dataclasses.dataclass(frozen=True)
class Estimator:
    pairs: int
    std: float = 0.01
    kind: Literal["pes", "es"] = "pes"

    def __post_init__(self):
        config.require_positive_int("pairs", self.pairs)
        if self.pairs > 1000:
            raise ValueError("so many particles do not fit")


@dataclasses.dataclass(frozen=True)
class Train:
    estimator: Estimator
    lr: float
    name: str = "run"
    resume: bool = False
    clip: float | None = None
    sizes: tuple[int, ...] = (8, 8)
    lr_range: tuple[float, float] = (1e-4, 1e-1)
    limit: int | float | Literal["none"] = 1
    task: dict[str, Any] = dataclasses.field(default_factory=dict)
    inner: Estimator | None = None


@dataclasses.dataclass(frozen=True)
class Top:
    train: Train
    seed: int = 0


MINIMAL = {"train": {"estimator": {"pairs": 8}, "lr": 1}}


def minimal(**train: Any) -> dict[str, Any]:
    return {"train": MINIMAL["train"] | train}


def error_of(function, *args) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller matches
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_toml_becomes_nested_dataclasses():
    text = """
    seed = 3
    [train]
    lr = 1
    clip = 2.5
    sizes = [4, 5, 6]
    lr_range = [1, 0.5]
    task = { family = "mlp", depth = [1, 2] }
    estimator = { pairs = 8, kind = "es" }
    """
    built = config.build(Top, tomllib.loads(text))
    assert built == Top(
        seed=3,
        train=Train(
            lr=1.0,
            clip=2.5,
            sizes=(4, 5, 6),
            lr_range=(1.0, 0.5),
            task={"family": "mlp", "depth": [1, 2]},
            estimator=Estimator(pairs=8, kind="es"),
        ),
    )
    assert type(built.train.lr) is float
    assert type(built.train.lr_range[0]) is float
    assert config.build(Top, config.to_dict(built)) == built


def test_to_dict_is_plain():
    built = config.build(Top, MINIMAL)
    assert config.to_dict(built) == {
        "seed": 0,
        "train": {
            "estimator": {"pairs": 8, "std": 0.01, "kind": "pes"},
            "lr": 1.0,
            "name": "run",
            "resume": False,
            "clip": None,
            "sizes": [8, 8],
            "lr_range": [1e-4, 1e-1],
            "limit": 1,
            "task": {},
            "inner": None,
        },
    }


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            minimal(estimator={"pair": 8}),
            "config: train.estimator.pair is not a field of Estimator "
            "(did you mean 'pairs'?), got 8",
        ),
        (
            minimal(estimator={}),
            "config: train.estimator.pairs must be given: "
            "Estimator has no default for it",
        ),
        (
            minimal(estimator={"pairs": 8.0}),
            "config: train.estimator.pairs must be an integer, got 8.0",
        ),
        (
            minimal(estimator={"pairs": True}),
            "config: train.estimator.pairs must be an integer, got True",
        ),
        (
            minimal(estimator={"pairs": 0}),
            "config: train.estimator.pairs must be an integer of at least 1, got 0",
        ),
        (
            minimal(estimator={"pairs": 1001}),
            "config: train.estimator: so many particles do not fit",
        ),
        (
            minimal(estimator={"pairs": 1, "kind": "pez"}),
            "config: train.estimator.kind must be one of 'pes', 'es', "
            "got 'pez' (did you mean 'pes'?)",
        ),
        (
            minimal(estimator=[1]),
            "config: train.estimator must be a table of Estimator's fields, got [1]",
        ),
        (minimal(lr=True), "config: train.lr must be a finite number, got True"),
        (minimal(lr="1"), "config: train.lr must be a finite number, got '1'"),
        (minimal(lr=math.nan), "config: train.lr must be a finite number, got nan"),
        (minimal(clip=math.inf), "config: train.clip must be a finite number, got inf"),
        (minimal(name=1), "config: train.name must be a string, got 1"),
        (minimal(resume=1), "config: train.resume must be true or false, got 1"),
        (minimal(sizes=4), "config: train.sizes must be a list, got 4"),
        (minimal(sizes="48"), "config: train.sizes must be a list, got '48'"),
        (minimal(sizes=[4, 5.0]), "config: train.sizes[1] must be an integer, got 5.0"),
        (
            minimal(lr_range=[1.0]),
            "config: train.lr_range must be a list of 2, got 1: [1.0]",
        ),
        (minimal(task=[]), "config: train.task must be a table, got []"),
        (minimal(task={1: 2}), "config: train.task must be a table, got {1: 2}"),
        (
            minimal(inner={"pairs": "8"}),
            "config: train.inner.pairs must be an integer, got '8'",
        ),
        ([], "config: the top level must be a table of Top's fields, got []"),
        ({}, "config: train must be given: Top has no default for it"),
    ],
)
def test_errors_say_path_rule_and_value(mapping, message):
    assert error_of(config.build, Top, mapping) == message


def test_where_and_long_messages_stay_one_line():
    message = error_of(config.build, Top, {"a\nb": 1}, "runs/x.toml")
    assert message == "runs/x.toml: a b is not a field of Top, got 1"


@pytest.mark.parametrize("value", [2, 2.5, "none"])
def test_unions_keep_the_exact_type(value):
    built = config.build(Top, minimal(limit=value)).train.limit
    assert built == value
    assert type(built) is type(value)


def test_unions_refuse_what_no_member_takes():
    assert (
        "train.limit must be an integer or a finite number or 'none', got"
        in error_of(config.build, Top, minimal(limit="some"))
    )


def test_a_field_of_unsupported_type_is_the_programs_fault():
    @dataclasses.dataclass(frozen=True)
    class Wrong:
        x: set[int]

    with pytest.raises(TypeError, match="config fields cannot be of type set"):
        config.build(Wrong, {"x": [1]})


def test_to_plain_takes_scalars_of_arrays_and_paths():
    given = {
        "a": np.float32(1.5),
        "b": jnp.int32(3),
        "c": np.bool_(True),
        "d": Path("x"),
    }
    assert config.to_plain("x", given) == {"a": 1.5, "b": 3, "c": True, "d": "x"}
    with pytest.raises(TypeError, match=r"^x must be made of finite numbers"):
        config.to_plain("x", np.float32(np.nan))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SmallFC", "small_fc"), ("small-fc", "small_fc"), ("VeLO", "velo"), ("x", "x")],
)
def test_other_spellings_of_a_name(name, expected):
    assert config.spelled(name, ["small_fc", "velo"]) == expected


@pytest.mark.parametrize("value", [math.nan, {1: 2}, b"x", object, {1}])
def test_to_plain_refuses_what_json_cannot_hold(value):
    with pytest.raises(TypeError, match=r"^x\.y must be made of finite numbers"):
        config.to_plain("x", {"y": value})


def test_hash_is_of_the_content():
    a = {"x": 1, "y": {"z": [1, 2]}}
    assert config.config_hash(a) == config.config_hash({"y": {"z": (1, 2)}, "x": 1})
    # sha256 of {"x":1,"y":{"z":[1,2]}}: hashes must not change between versions.
    assert config.config_hash(a) == (
        "4d40ea1c0ecdd7dcc568a4132d16b0533e303a3a6cb6683b03d42efbe1655e85"
    )
    others = [{**a, "x": 2}, {**a, "x": 1.0}, {**a, "x": True}, {**a, "w": None}]
    assert len({config.config_hash(m) for m in [a, *others]}) == 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.lr=0.5", 0.5),
        ("train.lr = 3", 3),
        ("train.lr=true", True),
        ("train.lr='a b'", "a b"),
        ("train.lr=velo-small", "velo-small"),
        ("train.lr=runs/1", "runs/1"),
        ("train.lr=2024-01-31", "2024-01-31"),
        ("train.lr=[1, 2]", [1, 2]),
        ("train.lr={a = 1}", {"a": 1}),
        ("train.lr='a=b'", "a=b"),
    ],
)
def test_override_reads_toml_and_bare_words(text, value):
    changed = config.override(MINIMAL, text)
    assert changed["train"]["lr"] == value
    assert type(changed["train"]["lr"]) is type(value)
    assert MINIMAL["train"]["lr"] == 1
    assert changed["train"]["estimator"] == {"pairs": 8}


def test_override_makes_tables():
    assert config.override({}, "a.b.c=1") == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "=1", "a=", "a..b=1", ".a=1", "a b=1"),
        *("a=[1", "a='x", "a=1\nb=2", "a=two words", "train.lr.x=1"),
    ],
)
def test_override_refuses_what_is_malformed(text):
    assert repr(text) in error_of(config.override, MINIMAL, text)


def test_flat_diff_names_the_changed_fields():
    a = {"x": {"y": 1, "z": (1, 2)}, "same": [1], "t": {}, "old": None}
    b = {"x": {"y": 1.0, "z": [1, 2]}, "same": (1,), "t": {"u": 3}}
    assert config.flat_diff(a, b) == [
        ("old", None, config.ABSENT),
        ("t", {}, config.ABSENT),
        ("t.u", config.ABSENT, 3),
        ("x.y", 1, 1.0),
    ]
    assert config.flat_diff(a, a) == []


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (config.require_positive_int, [1, 10**30], [0, -1, 1.0, True, "1", None]),
        (config.require_positive, [1, 1e-300], [0, -1.0, math.inf, math.nan, True]),
        (
            lambda name, value: config.require_range(name, value, 0, 1),
            [0, 1, 0.5],
            [-0.1, 1.1, math.nan, True, "0", None],
        ),
    ],
)
def test_checks(check, good, bad):
    for value in good:
        check("x", value)
    for value in bad:
        message = error_of(check, "x", value)
        assert message.startswith("x must be ")
        assert message.endswith(f", got {value!r}")


def test_config_needs_no_arrays():
    code = "import sys, l2o.config; print({'jax', 'numpy'} & set(sys.modules))"
    assert run_python(code) == "set()\n"
