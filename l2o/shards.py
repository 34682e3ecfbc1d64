"""Arrays of which each process of a run holds a part: what is whose, and its hash."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from l2o.trees import Leaf, is_spread


Index = tuple[slice, ...]


def sha256_of_own(arrays: Mapping[Leaf, Any], process: int) -> str:
    """Hashes the parts of the spread arrays that this process, `process`, holds."""
    parts = {
        (leaf, _start(shard.index)): shard.data
        for leaf, array in arrays.items()
        if is_spread(array)
        for shard in array.addressable_shards
    }
    return _sha256(
        arrays, process, lambda leaf, index: np.asarray(parts[leaf, _start(index)])
    )


def sha256_in(
    whole: Mapping[Leaf, np.ndarray], arrays: Mapping[Leaf, Any], process: int
) -> str:
    """What `sha256_of_own` is on `process`, if its parts are those in `whole`."""
    return _sha256(arrays, process, lambda leaf, index: whole[leaf][index])


def _sha256(
    arrays: Mapping[Leaf, Any],
    process: int,
    read: Callable[[Leaf, Index], np.ndarray],
) -> str:
    digest = hashlib.sha256()
    for leaf, array in arrays.items():
        if is_spread(array):
            for index in _parts(array, process):
                digest.update(json.dumps([leaf.path, _start(index)]).encode())
                digest.update(read(leaf, index).tobytes())
    return digest.hexdigest()


def _parts(array: jax.Array, process: int) -> Iterator[Index]:
    """The parts of a process, each once, in order."""
    places = array.sharding.devices_indices_map(array.shape)
    own = {
        _start(index): index
        for device, index in places.items()
        if device.process_index == process and index is not None
    }
    for start in sorted(own):
        yield own[start]


def _start(index: Index) -> tuple[int, ...]:
    return tuple(part.start or 0 for part in index)
