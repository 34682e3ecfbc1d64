"""Sums over the blocks of all devices, whose bits do not depend on who has which."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from meta_train.estimators.base import fixed_order_sum
from meta_train.estimators.words import from_words, to_words


AXIS = "blocks"
"""Name of the mesh axis that blocks are spread over."""

GATHERED_BYTES = 2**19
"""As much as every device may get of others where all of them get everything.

Below, a second collective takes longer than the bytes that it saves.
"""

_UNROLL = 8
"""Rows that are added in one go of a loop, where they come from other devices."""


def gathered_bytes(row: int, blocks: int, devices: int) -> int:
    """What every device would get of others, if all of them got everything.

    Args:
        row: bytes that a block adds.
        blocks: number of blocks.
        devices: that they are on.
    """
    return row * (blocks - blocks // devices)


def total_over_blocks(words: jax.Array, like: Any, mesh: Mesh) -> Any:
    """Sums rows in the order of their blocks, for every device.

    Where rows are short each device gets all of them and adds them: one collective.
    Else each gets a part of every row, adds these up, and gets the other parts of the
    total: two, which with one block a device move what a sum in whatever order moves.
    Each entry is added in the same order by either.

    Args:
        words: `[blocks, n]`, rows as `to_words` makes them, spread along `AXIS`.
        like: shapes and types of one row; its leaves with an axis are of one type.
        mesh: the devices.

    Returns:
        The total, as one row is.

    Raises:
        TypeError: leaves with an axis are of several types, or there is none.
    """
    types = {leaf.dtype for leaf in jax.tree.leaves(like) if leaf.ndim}
    if len(types) != 1:
        raise TypeError(f"rows must have vectors of one type, got {sorted(types)}")
    blocks, size = words.shape
    if gathered_bytes(4 * size, blocks, mesh.size) > GATHERED_BYTES:
        return _by_parts(words, like, mesh)
    words = jax.lax.with_sharding_constraint(words, NamedSharding(mesh, P()))
    rows = jax.vmap(lambda row: from_words(row, like))(words)
    # On one device nothing lies between what made the rows and this: unrolled, the
    # compiler could round a product and its sum once, as it cannot on several.
    unroll = _UNROLL if mesh.size > 1 else 1
    return jax.tree.map(lambda x: fixed_order_sum(x, unroll), rows)


def _by_parts(words: jax.Array, like: Any, mesh: Mesh) -> Any:
    leaves, structure = jax.tree.flatten(like)
    is_long = [leaf.ndim > 0 for leaf in leaves]

    def local(words: jax.Array) -> Any:
        found = jax.tree.leaves(jax.vmap(lambda row: from_words(row, like))(words))
        long = [x for x, chosen in zip(found, is_long, strict=True) if chosen]
        short = [x for x, chosen in zip(found, is_long, strict=True) if not chosen]
        flat = jnp.concatenate([x.reshape(len(words), -1) for x in long], axis=1)
        # All parts must be of one size.
        flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % mesh.size)))
        mine = jax.lax.all_to_all(flat, AXIS, split_axis=1, concat_axis=0, tiled=True)
        # Scalars travel with the parts: that there are not three collectives.
        sent = fixed_order_sum(mine, _UNROLL), short
        got = jax.lax.all_gather(to_words(sent), AXIS)
        parts, short = jax.vmap(lambda row: from_words(row, sent))(got)
        return parts.reshape(-1), [fixed_order_sum(x.reshape(-1)) for x in short]

    flat, short = jax.shard_map(
        local, mesh=mesh, in_specs=P(AXIS), out_specs=P(), check_vma=False
    )(words)
    total, start = [], 0
    for leaf, chosen in zip(leaves, is_long, strict=True):
        if chosen:
            total.append(flat[start : start + leaf.size].reshape(leaf.shape))
            start += leaf.size
        else:
            total.append(short.pop(0))
    return jax.tree.unflatten(structure, total)
