"""What a program depends on, as a hash: the same for things that trace alike.

A trainer is made of dataclasses, functions and numbers. Functions are told by where
they are defined and by what they have closed over; what their text says follows from
the source of this project, and from the versions of the packages that it is built on.
Whatever comes from elsewhere, like the task family of a user's own file, has no
identity here: it may change without a sign.
"""

import dataclasses
import enum
import functools
import hashlib
import importlib
import importlib.metadata
import os
import sys
import types
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding


SOURCES = ("l2o", "tasks", "meta_test", "meta_train")
"""Packages whose text counts."""

VERSIONED = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_dtypes")
"""Packages whose version does."""

_UNRELATED = ("jax_compilation_cache", "jax_persistent_cache", "jax_num_cpu_devices")
"""Settings of JAX that no trace depends on, and that differ from run to run."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), np.generic)


class UnknownError(TypeError):
    """Something has no identity."""


def identity(*things: Any, arguments: Sequence[jax.Array] = ()) -> str:
    """A hash of things, of the code that they run, and of where and how it would.

    Args:
        things: anything that a program is traced with.
        arguments: arrays among them of which shapes alone matter.

    Raises:
        UnknownError: one of them is made by code that is neither this project's nor of
            a package that it is built on.
        OSError: the source of this project cannot be read.
    """
    walk = _Walk({id(array) for array in arguments})
    settings = {
        name: value
        for name, value in jax.config.values.items()
        if not name.startswith(_UNRELATED)
    }
    told = (
        walk.told(things),
        sorted((name, str(value)) for name, value in settings.items()),
        os.environ.get("XLA_FLAGS", ""),
        _code(),
    )
    return hashlib.sha256(repr(told).encode()).hexdigest()


@functools.cache
def _code() -> tuple[Any, ...]:
    """What runs. Read once: this process does not run what is edited later."""
    texts = hashlib.sha256()
    for package in SOURCES:
        root = Path(str(importlib.import_module(package).__file__)).parent
        paths = sorted(root.rglob("*.py"))
        if not paths:
            raise UnknownError(f"{package} must have its source at {root}")
        for path in paths:
            text = path.read_bytes()
            name = path.relative_to(root.parent).as_posix()
            texts.update(f"{name} {len(text)} ".encode() + text)
    versions = map(importlib.metadata.version, VERSIONED)
    return sys.version, *versions, texts.hexdigest()


class _Walk:
    """Tells things by tuples of texts, which `repr` makes the same in all processes."""

    def __init__(self, arguments: set[int]) -> None:
        self._arguments = arguments
        self._met: dict[int, int] = {}  # functions and objects, which may be in rings
        self._alive: list[Any] = []  # or another one could have the id of one that died

    def told(self, thing: Any) -> Any:
        if isinstance(thing, _PLAIN) and not isinstance(thing, enum.Enum):
            return type(thing).__name__, repr(thing)
        if id(thing) in self._met:
            return "again", self._met[id(thing)]
        self._met[id(thing)] = len(self._met)
        self._alive.append(thing)
        return self._name(type(thing)), *self._parts(thing)

    def _parts(self, thing: Any) -> tuple[Any, ...]:
        match thing:
            case enum.Enum():
                return (thing.name,)
            case jax.Array() | np.ndarray():
                return self._array(thing)
            case jax.ShapeDtypeStruct():
                return thing.shape, str(thing.dtype), self.told(thing.sharding)
            case NamedSharding():
                return self.told(thing.mesh), str(thing.spec), str(thing.memory_kind)
            case SingleDeviceSharding():
                return (self.told(list(thing.device_set)),)
            case Mesh():
                devices = self.told(thing.devices.tolist())
                return thing.axis_names, str(thing.axis_types), devices
            case jax.Device():
                # What it is and where it is, whatever its number.
                return thing.platform, thing.device_kind, thing.process_index
            case np.dtype():
                return (str(thing),)
            case type():
                return (self._name(thing),)
            case Mapping():
                return tuple((self.told(k), self.told(v)) for k, v in thing.items())
            case Set():
                return tuple(sorted(repr(self.told(item)) for item in thing))
            case list() | tuple():
                return tuple(map(self.told, thing))
            case functools.partial():
                return self.told(thing.func), self.told((thing.args, thing.keywords))
            case types.MethodType():
                return self.told(thing.__self__), self.told(thing.__func__)
            case types.FunctionType():
                return self._function(thing)
            case types.BuiltinFunctionType() | np.ufunc():
                return (thing.__name__,)
        if dataclasses.is_dataclass(thing):
            fields = (field.name for field in dataclasses.fields(thing))
            return tuple((name, self.told(getattr(thing, name))) for name in fields)
        # Functions that JAX has wrapped.
        if isinstance(
            wrapped := getattr(thing, "__wrapped__", None), types.FunctionType
        ):
            return (self.told(wrapped),)
        raise UnknownError(f"a {type(thing).__name__} has no identity, got {thing!r}")

    def _array(self, array: Any) -> tuple[Any, ...]:
        like = (array.shape, str(array.dtype), getattr(array, "weak_type", False))
        if id(array) in self._arguments:
            return *like, self.told(array.sharding)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        content = np.ascontiguousarray(np.asarray(array))
        return *like, hashlib.sha256(content.tobytes()).hexdigest()

    def _function(self, function: types.FunctionType) -> tuple[Any, ...]:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        return (
            self._name(function),
            # Of lambdas in one place the names are the same.
            function.__code__.co_firstlineno,
            hashlib.sha256(function.__code__.co_code).hexdigest(),
            self.told((cells, function.__defaults__, function.__kwdefaults__)),
        )

    def _name(self, thing: Any) -> str:
        """Where a class or function is defined, which must be a known place."""
        module = thing.__module__ or ""
        package = module.partition(".")[0]
        if package not in (*SOURCES, *VERSIONED) and (
            package not in sys.stdlib_module_names and package != "builtins"
        ):
            raise UnknownError(
                "what is traced must be defined in this project or in one of "
                f"{', '.join(VERSIONED)}, got {module}.{thing.__qualname__}"
            )
        return f"{module}.{thing.__qualname__}"
