"""Checkpoint directories: named trees of arrays under a manifest of hashes.

A checkpoint holds one orbax directory a tree and a `manifest.json` that lists every
file with its size and sha256. Orbax keeps no checksum of array data and restores
flipped bits silently, so nothing is read before all of it has been verified.

Whatever interrupts a write, the reader finds all of the old or all of the new, on a
disk and in a bucket (`l2o.filesystem`). One run at a time may write to a path. Of
several processes joined by
`jax.distributed`, either the first one writes alone, or all write trees whose arrays
are spread over them: each its own parts, which the first one then reads back and
compares with the hashes that it was told, since orbax can lose them silently. What is
recorded does not depend on how many there were.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from l2o import shards, trees as treelib
from l2o.config import to_plain
from l2o.filesystem import filesystem_of, place, resolved
from l2o.layout import MANIFEST, MODEL_CARD
from l2o.processes import ALONE, Peers, PeersError


FORMAT = 1
PATIENCE = 1800.0
"""Seconds that processes wait for each other in the writing of a checkpoint."""

_RESERVED = frozenset({"files", "format", "manifest_sha256", "trees"})
_TREE_NAME = re.compile(r"[A-Za-z0-9_-]+")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or not what was asked for."""


Snapshot = Mapping[str, Mapping[treelib.Leaf, Any]]
"""Named trees, each as its arrays."""


def snapshot(trees: Mapping[str, Any]) -> Snapshot:
    """Copies named trees, on the devices where they are and without waiting for it.

    Raises:
        TypeError, ValueError: as `write_tree`.
    """
    return {
        name: treelib.copied(_to_arrays(name, tree)) for name, tree in trees.items()
    }


def write_tree(
    path: str | os.PathLike[str],
    trees: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Writes named trees and a manifest to a directory: all of it or nothing.

    Args:
        path: the directory to make, or an empty one; its parents are made where
            missing. It may be in a bucket, `gs://`.
        trees: pytrees of numbers and arrays (jax, numpy, typed PRNG keys).
        manifest: JSON-able fields to record beside the format, the trees and the files.
        overwrite: replace the checkpoint that is at `path`, keeping its model card.

    Raises:
        FileExistsError: what is at `path` is not to be replaced.
        OSError: the disk is full or failing. What was at `path` is still there.
        RuntimeError: this is not the first of several processes.
        TypeError: a leaf is no array of numbers, or the manifest cannot be JSON.
        ValueError: the name of a tree, leaf or manifest field cannot be used.
    """
    if jax.process_index():
        raise RuntimeError(
            f"checkpoints must be written by process 0, this is {jax.process_index()}"
        )
    arrays = {name: _to_arrays(name, tree) for name, tree in trees.items()}
    write_snapshot(path, arrays, manifest, overwrite=overwrite)


def write_snapshot(
    path: str | os.PathLike[str],
    arrays: Snapshot,
    manifest: Mapping[str, Any],
    *,
    overwrite: bool = False,
    peers: Peers = ALONE,
) -> None:
    """Writes what `snapshot` gave as `write_tree` does, in a thread if need be.

    Args:
        path: as there.
        arrays: the snapshot.
        manifest: as there; that of process 0 counts.
        overwrite: as there.
        peers: who else writes its parts, with the same arguments.

    Raises:
        OSError, ValueError: as there, in the process where it happened.
        PeersError: it happened in another process, or one is gone.
    """
    path = resolved(path)
    files = filesystem_of(path)
    reserved = sorted(_RESERVED & set(manifest))
    if reserved:
        raise ValueError(f"manifest fields {reserved} are written by write_tree itself")
    manifest = to_plain("manifest", manifest)
    hosts = {name: treelib.on_host(tree) for name, tree in arrays.items()}
    begin = lambda: str(_begin(path, hosts, overwrite))
    written = place(peers.by_first("checkpoint begins", begin, PATIENCE))
    try:
        digests = _write_parts(written, hosts, peers)
        commit = lambda: _commit(path, written, hosts, manifest, digests)
        peers.by_first("checkpoint ends", commit, PATIENCE)
    finally:
        if peers.is_first:
            files.abandon(written, path, hosts.keys())


def is_free(path: Path) -> bool:
    """Whether a checkpoint can be made there: nothing is, or an empty directory."""
    files = filesystem_of(path)
    if files.is_dir(path):
        return not any(path.iterdir())
    return not files.exists(path)


def _begin(path: Path, hosts: Snapshot, overwrite: bool) -> Path:
    """Makes the place that is written to."""
    files = filesystem_of(path)
    files.recover(path, hosts.keys())
    is_there = not is_free(path)
    if is_there and not overwrite:
        raise FileExistsError(f"{path} must not exist, or pass overwrite=True")
    if is_there and not files.is_file(path / MANIFEST):
        raise FileExistsError(f"{path} must be a checkpoint to be overwritten")
    size = sum(a.nbytes for arrays in hosts.values() for a in arrays.values())
    return files.begin(path, hosts.keys(), size)


def _write_parts(written: Path, hosts: Snapshot, peers: Peers) -> list[dict[str, str]]:
    """Writes what this process has of every tree, and waits for the others.

    Returns:
        The hashes by trees of what each process has written.
    """
    failure = None
    digests: dict[str, str] = {}
    try:
        for name, arrays in hosts.items():
            treelib.write_orbax(written / name, arrays)
            digests[name] = shards.sha256_of_own(arrays, peers.index)
    except Exception as error:  # Whatever it is, the others are waiting for a word.
        failure = error
    said = {"error": failure and _one_line(failure), "digests": digests}
    told = peers.gather("checkpoint parts", said, PATIENCE)
    if failure is not None:
        raise failure
    for index, answer in enumerate(told):
        if answer["error"]:
            raise PeersError(
                f"all processes must write their parts, process {index} got "
                f"{answer['error']}"
            )
    return [answer["digests"] for answer in told]


def _commit(
    path: Path,
    written: Path,
    hosts: Snapshot,
    manifest: Mapping[str, Any],
    digests: list[dict[str, str]],
) -> None:
    """Makes what all processes have written the checkpoint at `path`."""
    for name, arrays in hosts.items():
        treelib.finish_orbax(written / name, arrays)
    with filesystem_of(path).local_copy(written) as here:
        described = {}
        for name, arrays in hosts.items():
            whole = _whole(here / name, arrays, [digest[name] for digest in digests])
            described[name] = {"leaves": list(arrays), "sha256": treelib.sha256(whole)}
        files = {
            name: {"sha256": _sha256(file), "size": file.stat().st_size}
            for name, file in _files(here).items()
        }
    fields = {**manifest, "files": files, "format": FORMAT, "trees": described}
    fields["manifest_sha256"] = _manifest_sha256(fields)
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    filesystem_of(path).commit(written, path, text)


def _whole(
    folder: Path, arrays: Mapping[treelib.Leaf, Any], digests: list[str]
) -> Mapping[treelib.Leaf, Any]:
    """The arrays of a tree on the host; read back where others wrote parts of them."""
    if not any(map(treelib.is_spread, arrays.values())):
        return arrays
    whole = treelib.read_orbax(folder, list(arrays))
    for process, digest in enumerate(digests):
        if shards.sha256_in(whole, arrays, process) != digest:
            raise OSError(
                errno.EIO,
                f"{folder} must hold what process {process} wrote, its sha256 differs",
            )
    return whole


def read_tree(
    path: str | os.PathLike[str], like: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Verifies every file of a checkpoint, then reads its trees.

    Args:
        path: a directory that `write_tree` made.
        like: the trees to read, each a pytree of arrays or `jax.ShapeDtypeStruct` with
            the structure, shapes and dtypes to expect. Without it all trees are read,
            as nested dicts of the names and indices on the way to each leaf.

    Returns:
        `(trees, manifest)`. Leaves are numpy arrays (numbers too, of shape ()), and
        typed PRNG keys where those were written.

    Raises:
        CheckpointError: something is missing, extra, changed or unlike `like`.
        ConnectionError: a bucket cannot be reached.
    """
    manifest = read_manifest(path)
    folder = _committed(path)
    result = {}
    try:
        with filesystem_of(folder).local_copy(folder) as here:
            _verify_files(here, manifest["files"])
            described = manifest["trees"]
            for name in described if like is None else like:
                if name not in described:
                    raise ValueError(
                        f"tree {name!r} must be one of those written, "
                        f"{sorted(described)}"
                    )
                wanted = None if like is None else like[name]
                result[name] = _read(here / name, described[name], name, wanted)
    except ConnectionError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: {_one_line(error)}") from error
    return result, manifest


def _read(folder: Path, described: Mapping[str, Any], name: str, like: Any) -> Any:
    """Reads a tree; raises ValueError where it is not what was written, or `like`."""
    leaves = [
        treelib.Leaf(tuple(names), dtype, tuple(shape), key_impl)
        for names, dtype, shape, key_impl in described["leaves"]
    ]
    if like is not None:
        treelib.require_same(leaves, like)
    arrays = treelib.read_orbax(folder, leaves)
    if treelib.sha256(arrays) != described["sha256"]:
        raise ValueError(f"tree {name!r} must read back as it was written")
    values = treelib.from_host(arrays)
    return treelib.nest(values) if like is None else treelib.nest_like(values, like)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and verifies the manifest of a checkpoint, and no other file.

    Raises:
        CheckpointError: there is none, or it is damaged, or of an unknown format.
        ConnectionError: a bucket cannot be reached.
    """
    folder = _committed(path)
    files = filesystem_of(folder)
    if not files.is_dir(folder):
        raise CheckpointError(f"{path} must be a checkpoint directory, none is there")
    try:
        manifest = json.loads(files.read(folder / MANIFEST))
        version, own_hash = manifest["format"], manifest["manifest_sha256"]
        intact = own_hash == _manifest_sha256(manifest)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} must have a {MANIFEST}, it has none") from error
    except ConnectionError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: {MANIFEST} must be as it was written, got {_one_line(error)}"
        ) from error
    if version != FORMAT:
        raise CheckpointError(f"{path}: format must be {FORMAT}, got {version!r}")
    if not intact:
        raise CheckpointError(
            f"{path}: {MANIFEST} must be as it was written, its sha256 differs"
        )
    return manifest


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint, intact or not, is at `path`."""
    file = _committed(path) / MANIFEST
    return filesystem_of(file).is_file(file)


def _to_arrays(name: str, tree: Any) -> Mapping[treelib.Leaf, Any]:
    if not _TREE_NAME.fullmatch(name):
        raise ValueError(f"a tree's name must match {_TREE_NAME.pattern}, got {name!r}")
    try:
        return treelib.to_arrays(tree)
    except (TypeError, ValueError) as error:
        raise type(error)(f"tree {name!r}: {error}") from error


def _canonical(value: Any) -> bytes:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def _manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """Hashes all fields but the hash itself, however the JSON is laid out."""
    fields = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
    return hashlib.sha256(_canonical(fields)).hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """Everything that a manifest must list, links and pipes included."""
    entries = {
        file.relative_to(folder).as_posix(): file
        for file in folder.rglob("*")
        if file.is_symlink() or not file.is_dir()
    }
    return {n: f for n, f in entries.items() if n not in (MANIFEST, MODEL_CARD)}


def _verify_files(folder: Path, recorded: Mapping[str, Mapping[str, Any]]) -> None:
    found = _files(folder)
    for name in sorted(recorded.keys() - found.keys()):
        raise ValueError(f"file {name} must be there, it is missing")
    for name in sorted(found.keys() - recorded.keys()):
        raise ValueError(f"file {name} must not be there, {MANIFEST} does not list it")
    for name, file in found.items():
        if file.is_symlink() or not file.is_file():
            raise ValueError(f"{name} must be a regular file")
        if (size := file.stat().st_size) != recorded[name]["size"]:
            raise ValueError(
                f"file {name} must have {recorded[name]['size']} bytes, got {size}"
            )
        if (digest := _sha256(file)) != recorded[name]["sha256"]:
            raise ValueError(
                f"file {name} must have sha256 {recorded[name]['sha256']}, got {digest}"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _one_line(error: Exception) -> str:
    message = (
        str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    )
    return " ".join(message.split())


def _committed(path: str | os.PathLike[str]) -> Path:
    path = resolved(path)
    return filesystem_of(path).committed(path)
