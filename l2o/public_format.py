"""Public weights: the msgpack files of google/learned_optimization and amoudgl/celo.

Such a file is a flax state dict, nested maps whose leaves are arrays; nothing in it is
ever executed. An array of the file is a part of an array of theta, or all of it: one
table says which part, and is read in one direction to import and in the other to
export, so that both keep every bit.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2o import trees
from l2o.checkpoint import architecture_of, require_theta
from l2o.config import build, nearest, spelled
from l2o.learned import ARCHITECTURES
from l2o.learned.base import LearnedOptimizer, Theta
from l2o.storage import CheckpointError


TreePath = tuple[str, ...]


class _Entry(NamedTuple):
    """An array of the file: `theta[own][part]`."""

    public: TreePath
    own: TreePath
    part: tuple[Any, ...]


class _Form(NamedTuple):
    """How the weights of an architecture are laid out in a file."""

    architecture: str  # in ARCHITECTURES
    names: Mapping[str, str]  # dotted path in the file -> dotted path in theta
    sizes: Mapping[str, tuple[str, int]]  # field -> (dotted path in the file, axis)
    mlp: str | None = None  # dotted path in the file of the per-parameter MLP
    groups: Sequence[int] = ()  # sizes of the arrays that its first matrix is cut into
    stacked: bool = False  # its arrays have a first axis of length 1 in the file only
    fixed: Mapping[str, Any] = {}  # fields that the name in `FORMS` implies


_GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
_STACK = "ff_mod_stack.~"
_SCHEDULER = {
    # First: this map is in the order of a named tuple's fields, the others in that of
    # the alphabet.
    "lstm_init_state.hidden": "initial_state.hidden",
    "lstm_init_state.cell": "initial_state.cell",
    "rnn_params.linear": "lstm.unused",
    "rnn_params.linear_1": "lstm.mix",
    "rnn_params.linear_2": "lstm.inputs",
    "rnn_params.rnn/linear": "lstm.cell",
    "rnn_params.rnn_to_controls": "lstm.controls",
    "rnn_params.step_size": "lstm.step_size",
}
_LSTM_SIZE = {"lstm_size": ("lstm_init_state.hidden", -1)}
_HIDDEN_SIZE = {"hidden_size": (f"{_STACK}.b0", -1)}
_CELO2 = _Form("celo2", {_STACK: "mlp"}, _HIDDEN_SIZE, _STACK, _GROUPS)

FORMS = {
    "small_fc": _Form(
        "small_fc",
        {
            "nn.~": "mlp",
            "momentum_decays": "momentum_decays",
            "rms_decays": "rms_decays",
            "adafactor_decays": "factored_decays",
        },
        {"hidden_size": ("nn.~.b0", -1)},
        "nn.~",
    ),
    "velo": _Form(
        "velo",
        {_STACK: "mlps", **_SCHEDULER},
        {**_LSTM_SIZE, **_HIDDEN_SIZE, "mixtures": (f"{_STACK}.b0", 0)},
        _STACK,
        _GROUPS,
    ),
    "celo": _Form(
        "celo",
        {_STACK: "mlp", **_SCHEDULER},
        {**_LSTM_SIZE, **_HIDDEN_SIZE},
        _STACK,
        _GROUPS,
        stacked=True,
    ),
    "celo_adam": _Form("celo_adam", _SCHEDULER, _LSTM_SIZE),
    "celo2": _CELO2,
    "celo2_base": _CELO2._replace(fixed={"orthogonalize": False}),
}
"""Layouts by the name that `import_public` knows them by."""

# What flax writes: https://github.com/google/flax/blob/main/flax/serialization.py
_ARRAY = 1
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = (
    *("float16", "float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
)
# VeLO's 9 MB file has 19 entries in its largest map, 3 maps in each other, 3 axes. A
# file beyond these is none of ours, and must not cost time or memory to refuse.
_MAX_BYTES = 2**32
_MAX_ENTRIES = 256
_MAX_NAME = 64
_MAX_DEPTH = 8
_MAX_AXES = 8


def import_public(
    path: str | os.PathLike[str], arch: str, **flags: Any
) -> tuple[LearnedOptimizer, Theta]:
    """Reads weights that google/learned_optimization or amoudgl/celo wrote.

    The sizes are read off the weights. The weights may be in a `ParameterCheckpoint`,
    as Google publishes VeLO's.

    Args:
        path: a flax msgpack file, usually named `theta.state`.
        arch: one of `FORMS`, in any spelling, like "Celo2-Base": "small_fc"
            (`AdafacMLPLOpt`), "velo" (`HyperV2`), "celo", "celo_adam", "celo2", or
            "celo2_base" (Celo2 with `orthogonalize=False`).
        **flags: fields of the architecture that the weights do not determine, such as
            `bugged_lstm_state`, `phase` or `step_mult`. Default: the architecture's.

    Returns:
        `(lopt, theta)`; theta has the bits of the file.

    Raises:
        CheckpointError: the file cannot be read, or is not of this architecture.
        ValueError: there is no such architecture, or a flag is wrong.
    """
    name = spelled(str(arch), FORMS)
    if name not in FORMS:
        known = ", ".join(FORMS)
        raise ValueError(
            f"arch must be one of {known}, got {arch!r}{nearest(name, FORMS)}"
        )
    arrays = _read(Path(path))
    lopt = _build(name, arrays, flags)
    try:
        return lopt, _to_theta(FORMS[name], lopt, arrays)
    except ValueError as error:
        fitting = [other for other in FORMS if _fits(other, arrays)]
        hint = f" (arch {' or '.join(fitting)} fits)" if fitting else ""
        raise CheckpointError(f"{path}: not of arch {name}: {error}{hint}") from error


def export_public(
    path: str | os.PathLike[str], lopt: LearnedOptimizer, theta: Theta
) -> None:
    """Writes weights as google/learned_optimization and amoudgl/celo read them.

    The file holds weights only: the fields that `import_public` takes as flags have to
    be told to its reader. An imported file is exported with the same bytes.

    Args:
        path: the file to make.
        lopt: an architecture of `FORMS`.
        theta: meta-parameters of `lopt`.

    Raises:
        FileExistsError: something is at `path`.
        OSError: the file cannot be written.
        ValueError: `lopt` has no public format, or `theta` is not of `lopt`.
    """
    import msgpack

    architecture = architecture_of(lopt)
    forms = {form.architecture: form for form in FORMS.values()}
    if architecture not in forms:
        raise ValueError(
            f"an optimizer with a public format must be one of {sorted(forms)}, "
            f"got {architecture}"
        )
    require_theta(lopt, theta)
    leaves = trees.by_path(jax.device_get(theta))
    packed = {}
    for entry in _entries(forms[architecture], leaves):
        array = leaves[entry.own][entry.part]
        content = (array.shape, array.dtype.name, array.tobytes())
        packed[entry.public] = msgpack.ExtType(_ARRAY, msgpack.packb(content))
    data: Any = msgpack.packb(trees.nest(packed))
    try:
        with Path(path).open("xb") as stream:
            stream.write(data)
    except FileExistsError as error:
        raise FileExistsError(f"{path} must not exist, it does") from error


def _entries(form: _Form, leaves: Iterable[TreePath]) -> list[_Entry]:
    """The arrays of the file that holds `leaves` of theta, in the file's order."""
    entries = []
    for public, own in form.names.items():
        prefix, start = _split(public), _split(own)
        for path in leaves:
            rest = path[len(start) :]
            if path[: len(start)] != start:
                continue
            if public == form.mlp:
                entries += _layer_entries(form, prefix, path, *rest)
            else:
                entries.append(_Entry((*prefix, *rest), path, (...,)))

    def order(entry: _Entry) -> TreePath:
        is_tuple = entry.public[0] == "lstm_init_state"
        return entry.public[:1] if is_tuple else entry.public

    return sorted(entries, key=order)


def _layer_entries(
    form: _Form, prefix: TreePath, path: TreePath, layer: str, kind: str
) -> Iterator[_Entry]:
    """A matrix or bias of the MLP: `w0`, or the groups of its rows `w0__0`, ..."""
    lead = (None, ...) if form.stacked else (...,)
    name = f"{kind}{layer}"
    if name != "w0" or not form.groups:
        yield _Entry((*prefix, name), path, lead)
        return
    start = 0
    for number, size in enumerate(form.groups):
        rows = slice(start, start + size)
        yield _Entry((*prefix, f"{name}__{number}"), path, (*lead, rows, slice(None)))
        start += size


def _split(dotted: str) -> TreePath:
    return tuple(dotted.split("."))


def _build(
    name: str, arrays: Mapping[TreePath, np.ndarray], flags: Mapping[str, Any]
) -> LearnedOptimizer:
    """The architecture in the sizes of the arrays, as far as these are there."""
    form = FORMS[name]
    sizes = {}
    for field, (dotted, axis) in form.sizes.items():
        array = arrays.get(_split(dotted))
        if array is not None and array.ndim > max(axis, 0):
            sizes[field] = array.shape[axis]
    known = [*form.sizes, *form.fixed]
    if form.mlp is not None:
        known.append("hidden_layers")
        prefix = _split(form.mlp)
        biases = [
            path
            for path in arrays
            if path[:-1] == prefix and re.fullmatch(r"b\d+", path[-1])
        ]
        if len(biases) > 1:
            sizes["hidden_layers"] = len(biases) - 1
    for field in flags:
        if field in known:
            raise ValueError(
                f"arch {name}: {field} must be left out, the file or the arch says it, "
                f"got {flags[field]!r}"
            )
    fields = {**sizes, **form.fixed, **flags}
    return build(ARCHITECTURES[form.architecture], fields, f"arch {name}")


def _fits(name: str, arrays: Mapping[TreePath, np.ndarray]) -> bool:
    try:
        _to_theta(FORMS[name], _build(name, arrays, {}), arrays)
    except ValueError:
        return False
    return True


def _to_theta(
    form: _Form, lopt: LearnedOptimizer, arrays: Mapping[TreePath, np.ndarray]
) -> Theta:
    """Raises ValueError unless the arrays are those of `lopt`."""
    like = jax.eval_shape(lopt.init_theta, jax.random.key(0))
    own = trees.by_path(like)
    entries = _entries(form, own)
    # Views of one zero: sizes that contradict each other must not take memory.
    blank = {p: np.broadcast_to(np.zeros((), x.dtype), x.shape) for p, x in own.items()}
    expected = {entry.public: blank[entry.own][entry.part] for entry in entries}
    found = [trees.Leaf(p, str(a.dtype), a.shape) for p, a in arrays.items()]
    trees.require_same(found, trees.nest(expected))
    leaves = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in own.items()}
    for entry in entries:
        leaves[entry.own][entry.part] = arrays[entry.public]
    return jax.tree.map(jnp.asarray, trees.nest_like(leaves, like))


# The decoder. msgpack itself makes numbers, strings, maps and opaque extension types,
# and never code; everything that it makes is checked here before it is used.


def _read(path: Path) -> dict[TreePath, np.ndarray]:
    """The arrays of a flax msgpack file by their paths.

    Raises:
        CheckpointError: it is none, or too large to be one of ours.
    """
    import msgpack

    if not path.is_file():
        raise CheckpointError(f"{path} must be a file of weights, none is there")
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise ValueError(f"{size:,} bytes, more than {_MAX_BYTES:,}")
        tree = msgpack.unpackb(
            path.read_bytes(),
            object_pairs_hook=_map,
            max_array_len=0,
            max_map_len=_MAX_ENTRIES,
        )
    except Exception as error:  # A damaged file may raise whatever msgpack has.
        raise CheckpointError(
            f"{path} must be one msgpack map as flax writes it, got {_one_line(error)}"
        ) from error
    # `ParameterCheckpoint`, whose other two facts are of no use here.
    if isinstance(tree, dict) and tree.keys() == {"gen_id", "params", "step"}:
        tree = tree["params"]
    try:
        return dict(_arrays((), tree))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("the names in a map must differ")
    for name in result:
        if type(name) is not str or len(name) > _MAX_NAME:
            raise ValueError(f"a name must be a string of at most {_MAX_NAME} letters")
    return result


def _arrays(path: TreePath, value: Any) -> Iterator[tuple[TreePath, np.ndarray]]:
    import msgpack

    where = f"leaf {'/'.join(path)!r}"
    if len(path) > _MAX_DEPTH:
        raise ValueError(f"{where} must be at most {_MAX_DEPTH} maps deep")
    if isinstance(value, msgpack.ExtType):
        yield path, _array(where, value)
    elif isinstance(value, dict) and _CHUNKED in value:
        yield path, _chunked(where, value)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _arrays((*path, name), item)
    else:
        raise ValueError(
            f"{where} must be an array or a map, got {type(value).__name__}"
        )


def _array(where: str, value: Any) -> np.ndarray:
    """An array as flax packs it: shape, name of the dtype, bytes."""
    import msgpack

    try:
        code, data = value
        if code != _ARRAY:
            raise ValueError(f"extension type {code}")
        shape, dtype, content = msgpack.unpackb(
            data, max_array_len=_MAX_AXES, max_map_len=0
        )
        if dtype not in _DTYPES:
            raise ValueError(f"dtype {str(dtype)[:_MAX_NAME]!r}")
        return _shaped(np.frombuffer(content, dtype), shape)
    except Exception as error:  # As above.
        raise ValueError(
            f"{where} must be an array of numbers, got {_one_line(error)}"
        ) from error


def _chunked(where: str, value: Mapping[str, Any]) -> np.ndarray:
    """An array of more than 2^30 bytes, which flax cuts in pieces."""
    try:
        shape, chunks = (
            [value[name][str(i)] for i in range(len(value[name]))]
            for name in ("shape", "chunks")
        )
        return _shaped(np.concatenate([_array(where, c) for c in chunks]), shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where} must be a chunked array, got {_one_line(error)}"
        ) from error


def _shaped(flat: np.ndarray, shape: Any) -> np.ndarray:
    """`flat` in a shape that is not to be trusted."""
    sound = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    if not sound or len(shape) > _MAX_AXES or math.prod(shape) != flat.size:
        raise ValueError(f"{flat.size} numbers for the shape {str(shape)[:_MAX_NAME]}")
    return flat.reshape(shape)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
