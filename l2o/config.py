"""Frozen dataclasses from plain mappings (parsed TOML or JSON), strictly, and back.

Every error is one line, `where: dotted.path rule, got value`, so that a command can
print it as it is.
"""

import dataclasses
import datetime as dt
import difflib
import hashlib
import json
import math
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar


T = TypeVar("T")

ABSENT = "<absent>"
"""What `flat_diff` reports for a field that one of the two does not have."""

_BARE_WORD = re.compile(r"[\w./~][\w./~:@+-]*")
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALARS = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a string",
}


def require_positive_int(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is an integer of at least 1."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def require_count(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is an integer of at least 0."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be an integer of at least 0, got {value!r}")


def require_positive(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is a finite number above 0."""
    if not _is_finite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def require_range(name: str, value: Any, lo: float, hi: float) -> None:
    """Raises ValueError unless `value` is a number in [lo, hi]."""
    if not _is_finite(value) or not lo <= value <= hi:
        raise ValueError(f"{name} must be a number in [{lo}, {hi}], got {value!r}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `" (did you mean 'x'?)"` for the closest known name, or `""`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def spelled(name: str, known: Iterable[str]) -> str:
    """The known name that is this one but for case, hyphens and underscores.

    Without one, `name` as it is.
    """
    names = {_plain(one): one for one in known}
    return names.get(_plain(name), name)


def build(cls: type[T], mapping: Any, where: str = "config") -> T:
    """Builds a dataclass, and those nested in it, from a plain mapping.

    Integers are accepted where a float is wanted. Nothing else is converted: 1.0 is not
    an integer, a bool is not a number, "1" is neither. Lists become tuples.

    Args:
        cls: a dataclass whose fields are bool, int, float, str, Literal, Optional and
            other unions, tuples, mappings with string keys, Any, and dataclasses.
        mapping: field names to values; a field with a default may be left out.
        where: what the mapping is, to begin an error message with: a file, say.

    Raises:
        ValueError: an unknown or missing field, a value of the wrong type, or one that
            the class's own `__post_init__` refuses.
        TypeError: a field's type is none of those above.
    """
    try:
        return _build(cls, mapping, "")
    except ValueError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error


def to_dict(obj: Any) -> dict[str, Any]:
    """Returns the JSON-able mapping that `build` turns back into `obj`."""
    return {f.name: to_plain(f.name, getattr(obj, f.name)) for f in _fields(type(obj))}


def to_plain(name: str, value: Any) -> Any:
    """Returns `value` with its dataclasses, mappings and tuples as dicts and lists.

    Scalars of numpy and jax become numbers of Python, paths become strings.

    Raises:
        TypeError: JSON has no exact form for something in it.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain(name, to_dict(value))
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {key: to_plain(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "shape", None) == ():
        value = item()
    if value is None or type(value) in (bool, int, str) or _is_finite(value):
        return value
    raise TypeError(
        f"{name} must be made of finite numbers, strings, lists and tables, "
        f"got {' '.join(repr(value).split())}"
    )


def config_hash(mapping: Mapping[str, Any]) -> str:
    """Returns the sha256 of a mapping's canonical JSON, in hexadecimal.

    The order of keys does not count, but 1 differs from 1.0: hash what `to_dict` gives
    and not what a user wrote.
    """
    return hashlib.sha256(_canonical(mapping).encode()).hexdigest()


def override(mapping: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """Returns a copy of `mapping` with one field set, as `--set a.b=value` asks.

    The value is read as TOML; a bare word that is no TOML value (`velo-small`,
    `runs/1`) is a string. Tables on the way are created.

    Raises:
        ValueError: `assignment` is malformed, or goes through a field that is no table.
    """
    dotted, equals, text = (part.strip() for part in assignment.partition("="))
    keys = dotted.split(".")
    if not (equals and text and all(map(_KEY.fullmatch, keys))):
        raise ValueError(f"an override must be like a.b=value, got {assignment!r}")
    result = dict(mapping)
    table = result
    for depth, key in enumerate(keys[:-1], start=1):
        inner = table.get(key, {})
        if not isinstance(inner, Mapping):
            path = ".".join(keys[:depth])
            raise ValueError(
                f"override {assignment!r}: {path} must be a table, got {inner!r}"
            )
        table[key] = dict(inner)
        table = table[key]
    table[keys[-1]] = _parse_value(text, assignment)
    return result


def flat_diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Lists what differs between two configs as `(dotted path, in a, in b)`, sorted.

    Values are compared as JSON: a tuple equals a list, 1 differs from 1.0 and True.
    """
    flat_a, flat_b = dict(_flatten(a, "")), dict(_flatten(b, ""))
    pairs = (
        (path, flat_a.get(path, ABSENT), flat_b.get(path, ABSENT))
        for path in sorted({*flat_a, *flat_b})
    )
    return [row for row in pairs if _canonical(row[1]) != _canonical(row[2])]


def _fields(cls: type) -> list[dataclasses.Field]:
    return [f for f in dataclasses.fields(cls) if f.init]


def _build(cls: type[T], mapping: Any, path: str) -> T:
    prefix = f"{path}." if path else ""
    if not isinstance(mapping, Mapping):
        raise ValueError(
            f"{path or 'the top level'} must be a table of {cls.__name__}'s fields, "
            f"got {mapping!r}"
        )
    fields = {f.name: f for f in _fields(cls)}
    for name in mapping:
        if name not in fields:
            raise ValueError(
                f"{prefix}{name} is not a field of {cls.__name__}"
                f"{nearest(str(name), fields)}, got {mapping[name]!r}"
            )
    missing = [
        prefix + f.name
        for f in fields.values()
        if f.name not in mapping
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} must be given: {cls.__name__} has no default for it"
        )
    hints = typing.get_type_hints(cls)
    values = {
        name: _convert(hints[name], value, prefix + name)
        for name, value in mapping.items()
    }
    try:
        return cls(**values)
    except ValueError as error:
        # The checks of a class name its field only; the path comes from here.
        starts_with_field = str(error).split(" ", 1)[0] in fields
        lead = prefix if starts_with_field else f"{path}: " if path else ""
        raise ValueError(f"{lead}{error}") from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Returns `value` as the type `hint`; raises ValueError naming `path`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if hint in _SCALARS or hint is types.NoneType:
        return _convert_scalar(hint, value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, path)
    if origin is typing.Literal:
        if any(value == arg and type(value) is type(arg) for arg in args):
            return value
        near = nearest(str(value), [a for a in args if isinstance(a, str)])
        choices = ", ".join(map(repr, args))
        raise ValueError(f"{path} must be one of {choices}, got {value!r}{near}")
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, path)
    if hint is tuple or origin is tuple:
        return _convert_tuple(args, value, path)
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        if not isinstance(value, Mapping) or any(type(k) is not str for k in value):
            raise ValueError(f"{path} must be a table, got {value!r}")
        inner = args[1] if args else Any
        return {k: _convert(inner, v, f"{path}.{k}") for k, v in value.items()}
    raise TypeError(f"{path}: config fields cannot be of type {hint!r}")


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and _is_finite(value):
        return float(value)
    if type(value) is hint and hint is not float:
        return value
    rule = _SCALARS.get(hint, "left out")
    raise ValueError(f"{path} must be {rule}, got {value!r}")


def _convert_union(args: tuple, value: Any, path: str) -> Any:
    if value is None and types.NoneType in args:
        return None
    members = [arg for arg in args if arg is not types.NoneType]
    if len(members) == 1:
        return _convert(members[0], value, path)
    # The exact type first, so that 1 stays an integer in `float | int`.
    for member in sorted(members, key=lambda m: type(value) is not m):
        try:
            return _convert(member, value, path)
        except ValueError:
            continue
    rules = " or ".join(dict.fromkeys(map(_rule, members)))
    raise ValueError(f"{path} must be {rules}, got {value!r}")


def _rule(hint: Any) -> str:
    """What a value of the type `hint` is called in an error message."""
    origin = typing.get_origin(hint) or hint
    if origin in (dict, Mapping) or dataclasses.is_dataclass(origin):
        return "a table"
    if origin is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return "a list" if origin is tuple else _SCALARS.get(hint, f"of type {hint}")


def _convert_tuple(args: tuple, value: Any, path: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{path} must be a list, got {value!r}")
    if not args:
        return tuple(value)
    hints = args[:1] * len(value) if args[1:] == (...,) else args
    if len(value) != len(hints):
        raise ValueError(
            f"{path} must be a list of {len(hints)}, got {len(value)}: {value!r}"
        )
    return tuple(
        _convert(hint, item, f"{path}[{i}]")
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _is_finite(value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _flatten(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, Mapping) or (path and not value):
        yield path, value
        return
    for key, item in value.items():
        yield from _flatten(item, f"{path}.{key}" if path else str(key))


def _parse_value(text: str, assignment: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if _BARE_WORD.fullmatch(text):
            return text
        raise ValueError(
            f"override {assignment!r}: the value must be TOML or one bare word: {error}"
        ) from error
    if set(table) != {"value"}:
        raise ValueError(f"override {assignment!r}: one value must follow the '='")
    if isinstance(table["value"], dt.date | dt.time):
        return text
    return table["value"]
