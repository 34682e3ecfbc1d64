"""Trees of arrays as flat host arrays: what orbax stores and what a hash covers."""

import contextlib
import errno
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Leaf(NamedTuple):
    """What is recorded of an array."""

    path: tuple[str, ...]  # names and indices on the way to it
    dtype: str
    shape: tuple[int, ...]
    key_impl: str | None = None  # of a typed PRNG key, whose data are uint32

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def to_arrays(tree: Any) -> dict[Leaf, Any]:
    """Returns the arrays of a tree in path order, a typed PRNG key as its data.

    Nothing is copied.

    Raises:
        TypeError: a leaf is no number or array of numbers.
        ValueError: two leaves have one dotted path, of which orbax would keep one.
    """
    paths, leaves, _ = _flatten(tree)
    dotted = [".".join(path) for path in paths]
    if len(set(dotted)) < len(dotted):
        clash = max(dotted, key=dotted.count)
        raise ValueError(f"the leaves' dotted paths must differ, got {clash!r} twice")
    arrays = {}
    for path, leaf in zip(paths, leaves, strict=True):
        if _is_key(leaf):
            impl = str(jax.random.key_impl(leaf))
            described = Leaf(path, str(leaf.dtype), leaf.shape, impl)
            arrays[described] = jax.random.key_data(leaf)
            continue
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, order="C")
        number = jnp.issubdtype(array.dtype, np.number)
        if not (number or array.dtype == np.bool_) or not array.dtype.isnative:
            raise TypeError(
                f"leaf {'/'.join(path)!r} must be an array of native numbers, "
                f"got {type(leaf).__name__} of dtype {array.dtype}"
            )
        arrays[Leaf(path, str(array.dtype), array.shape)] = array
    return dict(sorted(arrays.items(), key=lambda item: item[0].path))


def copied(arrays: Mapping[Leaf, Any]) -> dict[Leaf, Any]:
    """The same arrays in memory of their own, on the devices where they are.

    What becomes of the originals, donated or not, does not matter to them.
    """
    return dict(zip(arrays, _copy(list(arrays.values())), strict=True))


@jax.jit
def _copy(arrays: list[Any]) -> list[jax.Array]:
    return [jnp.copy(array) for array in arrays]


def on_host(arrays: Mapping[Leaf, Any]) -> dict[Leaf, Any]:
    """Brings arrays to the host; those that are spread over processes stay."""
    here = {leaf: array for leaf, array in arrays.items() if not is_spread(array)}
    found = jax.device_get(list(here.values()))
    host = {
        leaf: np.asarray(array, order="C")
        for leaf, array in zip(here, found, strict=True)
    }
    return {leaf: host.get(leaf, array) for leaf, array in arrays.items()}


def to_host(tree: Any) -> dict[Leaf, np.ndarray]:
    """Returns the arrays of a tree of this process on the host, as `to_arrays` does."""
    return on_host(to_arrays(tree))


def is_spread(array: Any) -> bool:
    """Whether this process lacks a part of an array."""
    return isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    )


def from_host(arrays: Mapping[Leaf, np.ndarray]) -> dict[tuple[str, ...], Any]:
    """Returns `{path: array or typed key}`.

    Raises:
        ValueError: an array is not what is recorded of it.
    """
    values = {}
    for leaf, array in arrays.items():
        if leaf.key_impl is None:
            value = array
        else:
            value = jax.random.wrap_key_data(jnp.asarray(array), impl=leaf.key_impl)
        if (str(value.dtype), value.shape) != (leaf.dtype, leaf.shape):
            raise ValueError(
                f"leaf {'/'.join(leaf.path)!r} must be {leaf}, "
                f"got {value.dtype}{list(value.shape)}"
            )
        values[leaf.path] = value
    return values


def sha256(arrays: Mapping[Leaf, np.ndarray]) -> str:
    """Hashes paths, dtypes, shapes and bytes of what `to_host` gives."""
    digest = hashlib.sha256()
    for leaf, array in arrays.items():
        digest.update(json.dumps([leaf.path, leaf.dtype, leaf.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def by_path(tree: Any) -> dict[tuple[str, ...], Any]:
    """Returns the leaves of a tree by the names and indices on the way to them."""
    paths, leaves, _ = _flatten(tree)
    return dict(zip(paths, leaves, strict=True))


def nest(values: Mapping[tuple[str, ...], Any]) -> Any:
    """Returns nested dicts; the leaf itself for a tree that is one leaf."""
    if () in values:
        return values[()]
    result: dict[str, Any] = {}
    for path, value in values.items():
        table = result
        for name in path[:-1]:
            table = table.setdefault(name, {})
        table[path[-1]] = value
    return result


def nest_like(values: Mapping[tuple[str, ...], Any], like: Any) -> Any:
    """Returns a tree of the structure of `like`, whose leaves `values` has."""
    paths, _, structure = _flatten(like)
    return jax.tree.unflatten(structure, [values[path] for path in paths])


def require_same(recorded: Sequence[Leaf], like: Any) -> None:
    """Raises ValueError unless `like` has the recorded paths, shapes and dtypes."""
    paths, leaves, _ = _flatten(like)
    found = {leaf.path: str(leaf) for leaf in recorded}
    wanted = {}
    for path, leaf in zip(paths, leaves, strict=True):
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        wanted[path] = str(Leaf(path, str(array.dtype), tuple(array.shape)))
    for path in sorted({*found, *wanted}):
        want, got = wanted.get(path, "absent"), found.get(path, "absent")
        if want != got:
            raise ValueError(f"leaf {'/'.join(path)!r} must be {want}, got {got}")


def write_orbax(path: Path, arrays: Mapping[Leaf, Any]) -> None:
    """Saves to the empty directory `path`; raises OSError when that fails.

    Where arrays are spread over processes, all of these call it, each writes its own
    parts, and process 0 goes on with `finish_orbax` when all are done.
    """
    import orbax.checkpoint as ocp

    item = _orbax_item(arrays)
    if item:
        with _writing(path) as handler:
            handler.save(path, args=ocp.args.PyTreeSave(item))


def finish_orbax(path: Path, arrays: Mapping[Leaf, Any]) -> None:
    """Makes one of what processes wrote to `path`; raises OSError when that fails."""
    if _orbax_item(arrays):
        with _writing(path) as handler:
            handler.finalize(path)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Any]:
    try:
        with _handler() as handler:
            yield handler
    except Exception as error:
        # Tensorstore reports a full disk as a ValueError.
        full = "RESOURCE_EXHAUSTED" in str(error)
        number = getattr(error, "errno", None) or (errno.ENOSPC if full else errno.EIO)
        raise OSError(number, f"cannot write {path}: {_one_line(error)}") from error


def read_orbax(path: Path, leaves: Sequence[Leaf]) -> dict[Leaf, np.ndarray]:
    """Restores what `write_orbax` saved; raises ValueError when that fails."""
    import orbax.checkpoint as ocp

    item = _orbax_item({leaf: np.zeros(()) for leaf in leaves})
    if item:
        wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=wanted)
        try:
            with _handler() as handler:
                item = handler.restore(path, args=args)
        except Exception as error:
            raise ValueError(f"orbax cannot read it: {_one_line(error)}") from error
    paths, values, _ = _flatten(item)
    stored = dict(zip(paths, values, strict=True))
    return {
        leaf: _empty(leaf) if 0 in leaf.shape else stored[leaf.path or ("",)]
        for leaf in leaves
    }


def _empty(leaf: Leaf) -> np.ndarray:
    """The data of an array of size 0, of which the shape says all."""
    if leaf.key_impl is None:
        return np.zeros(leaf.shape, leaf.dtype)
    one = jax.random.key_data(jax.random.key(0, impl=leaf.key_impl))
    return np.zeros((*leaf.shape, *one.shape), one.dtype)


def _orbax_item(arrays: Mapping[Leaf, Any]) -> dict[str, Any]:
    """Nests what orbax can hold: no array of size 0, and no tree that is one leaf."""
    return nest(
        {
            leaf.path or ("",): array
            for leaf, array in arrays.items()
            if 0 not in leaf.shape
        }
    )


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _flatten(tree: Any) -> tuple[list[tuple[str, ...]], list[Any], Any]:
    """Returns the paths of a tree's leaves, the leaves, and the structure."""
    entries, structure = jax.tree.flatten_with_path(tree)
    paths = [
        tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
        for path, _ in entries
    ]
    return paths, [leaf for _, leaf in entries], structure


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def _handler() -> Iterator[Any]:
    """An orbax handler that logs nothing: what matters of its errors is raised.

    Typed Any because orbax's annotations ask for etils' paths; it takes pathlib's.
    """
    import orbax.checkpoint as ocp

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        # No file of where arrays were: process 1 would wait for ever for its end.
        arrays = ocp.type_handlers.ArrayHandler(enable_write_sharding_file=False)
        registry = ocp.type_handlers.create_type_handler_registry(
            (np.ndarray, ocp.type_handlers.NumpyHandler()), (jax.Array, arrays)
        )
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
        with contextlib.closing(handler):
            yield handler
    finally:
        logger.setLevel(level)
