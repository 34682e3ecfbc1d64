"""Tensors of one shape, side by side.

The statistics of all tensors of one shape are kept in one array, and one program moves
them: what is compiled grows with the number of shapes and not with the number of
tensors. What runs at every entry is written for one tensor, and `for_each` is where it
is repeated.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp


BATCHED = 2**14
"""Tensors of at most this size are copied side by side, and go through as one batch.

Larger ones go one after another through a loop: a copy of all parameters is more memory
than an optimizer is allowed.
"""


@dataclasses.dataclass(frozen=True)
class Group:
    """The tensors of one shape in a tree.

    Attributes:
        name: of the shape, as `64x32`; a state is kept under it.
        indices: where the tensors stand among the leaves of the tree.
        gradients: `[n, *shape]`, float32. `n` is the number of tensors, or more where
            every tensor is a stack of matrices.
        params: the tensors themselves, each of any float type.
    """

    name: str
    indices: tuple[int, ...]
    gradients: jax.Array
    params: tuple[jax.Array, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what a function of `for_each` is given."""
        return self.gradients.shape[1:]

    def mean_squares(self) -> jax.Array:
        """The mean square of every tensor, or matrix: `[n]`, 0 for an empty one."""
        axes = tuple(range(-len(self.shape), 0))
        sums = [
            jnp.sum(jnp.square(p.astype(jnp.float32)), axis=axes).reshape(-1)
            for p in self.params
        ]
        return jnp.concatenate(sums) / max(1, math.prod(self.shape))

    def matrices(self) -> "Group":
        """The same tensors as stacks of matrices over their last two axes."""
        *leading, rows, columns = self.gradients.shape
        gradients = self.gradients.reshape(math.prod(leading), rows, columns)
        return dataclasses.replace(self, gradients=gradients)

    def stacked(self) -> jax.Array:
        """The parameters in one array, `[n, *shape]`, float32."""
        ps = jnp.stack([p.astype(jnp.float32) for p in self.params])
        return ps.reshape(self.gradients.shape)

    def parameter(self, i: jax.Array) -> jax.Array:
        """One tensor, or matrix, without a copy of the others: `shape`, float32."""
        each = len(self.gradients) // len(self.params)
        whole = jax.lax.switch(
            i // each,
            [lambda p=p: p.astype(jnp.float32) for p in self.params],
        )
        return _entry(whole.reshape(each, *self.shape), i % each)


def shape_name(shape: Sequence[int]) -> str:
    """The name of a shape: `64x32`; `scalar` for that of a number."""
    return "x".join(map(str, shape)) or "scalar"


def init_groups(params: Any, init_one: Callable[[jax.Array], Any]) -> dict[str, Any]:
    """States of all tensors, by shape, side by side.

    Args:
        params: a tree of tensors.
        init_one: the state of a tensor, which depends on its shape alone.

    Returns:
        `{name of the shape: state}` with an axis in front, along the tensors.
    """
    by_shape = _by_shape(jax.tree.leaves(params))
    states = {}
    for name, (indices, example) in by_shape.items():
        states[name] = jax.tree.map(
            functools.partial(_repeat, len(indices)), init_one(example)
        )
    return states


def group_tensors(
    updates: Any,
    params: Any,
    convert: Callable[[jax.Array], jax.Array] = lambda g: g.astype(jnp.float32),
) -> list[Group]:
    """The tensors of a tree by shape.

    Args:
        updates: the gradients.
        params: the parameters, in a tree that begins like `updates`.
        convert: makes a gradient float32.
    """
    leaves, tree = jax.tree.flatten(updates)
    tensors = tree.flatten_up_to(params)
    return [
        Group(
            name=name,
            indices=tuple(indices),
            gradients=jnp.stack([convert(leaves[i]) for i in indices]),
            params=tuple(tensors[i] for i in indices),
        )
        for name, (indices, _) in _by_shape(tensors).items()
    ]


def rows_of(group: Group, per_tensor: Any) -> Any:
    """The group's part of arrays with an axis along all tensors of the tree."""
    indices = jnp.array(group.indices, jnp.int32)
    return jax.tree.map(lambda x: jnp.asarray(x)[indices], per_tensor)


def in_tree_order(groups: Sequence[Group], rows: Sequence[jax.Array]) -> jax.Array:
    """The inverse of `rows_of`: one array along all tensors from one per group."""
    order = [i for group in groups for i in group.indices]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return jnp.concatenate(rows)[jnp.array(inverse, jnp.int32)]


def ungroup(like: Any, groups: Sequence[Group], steps: Sequence[jax.Array]) -> Any:
    """A tree of updates from the steps of every group.

    Args:
        like: the tree that was grouped.
        groups: its groups.
        steps: per group, an array of as many entries as its gradients have.

    Returns:
        Each tensor's step, of its shape and type.
    """
    leaves: dict[int, jax.Array] = {}
    for group, moved in zip(groups, steps, strict=True):
        moved = moved.reshape(len(group.params), *group.params[0].shape)
        for i, (index, p) in enumerate(zip(group.indices, group.params, strict=True)):
            leaves[index] = moved[i].astype(p.dtype)
    return jax.tree.unflatten(
        jax.tree.structure(like), [leaves[i] for i in range(len(leaves))]
    )


def for_each(
    function: Callable[[jax.Array, jax.Array, Any], jax.Array],
    group: Group,
    own: Any,
    defined: jax.Array,
) -> jax.Array:
    """Applies a function of one tensor to all of a group.

    Args:
        function: `(gradient, parameters, own) -> step`, all of the group's shape.
        group: the tensors.
        own: what else belongs to each tensor: a tree of arrays with an axis along them.
        defined: `[n]`; False where the step is known to be nothing but NaN.

    Returns:
        The steps, `[n, *shape]`.
    """
    n = len(group.gradients)
    if n == 1:
        p = group.params[0].astype(jnp.float32).reshape(group.shape)
        return function(group.gradients[0], p, _entry(own, 0))[None]
    if math.prod(group.shape) <= BATCHED:
        # In a branch of its own it is compiled once. XLA on CPUs would merge it into
        # every slice that is taken of it, and compile it again for each tensor.
        return jax.lax.cond(
            defined.any(),
            lambda: jax.vmap(function)(group.gradients, group.stacked(), own),
            lambda: jnp.full_like(group.gradients, jnp.nan),
        )

    # Steps take the place of the gradients that they are made of.
    def body(i: jax.Array, steps: jax.Array) -> jax.Array:
        p = group.parameter(i)
        # In a branch of its own the step is computed on all cores, and then put in its
        # place. XLA on CPUs would merge the two, and write in place on one core only.
        step = jax.lax.cond(
            defined[i],
            lambda: function(_entry(steps, i), p, _entry(own, i)),
            lambda: jnp.full_like(_entry(steps, i), jnp.nan),
        )
        return jax.lax.dynamic_update_index_in_dim(steps, step, i, 0)

    return jax.lax.fori_loop(0, n, body, group.gradients)


def _by_shape(leaves: Sequence[Any]) -> Mapping[str, tuple[list[int], Any]]:
    """Indices of the leaves of every shape, and the first of them, by name."""
    found: dict[str, tuple[list[int], Any]] = {}
    for i, leaf in enumerate(leaves):
        found.setdefault(shape_name(leaf.shape), ([], leaf))[0].append(i)
    return found


def _repeat(n: int, x: jax.Array) -> jax.Array:
    return jnp.tile(x[None], (n, *[1] * x.ndim))


def _entry(tree: Any, i: int | jax.Array) -> Any:
    return jax.tree.map(
        lambda x: (
            jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False)
            if isinstance(i, jax.Array)
            else x[i]
        ),
        tree,
    )
