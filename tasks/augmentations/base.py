"""What augmentations share: changes of variables, facts of a family, flat noise."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tasks.base import Batch, Gradients, Params, Spec, Task, TaskFamily, static


class Wrapped(NamedTuple):
    """The specification of an augmentation that draws nothing itself."""

    inner: Spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Traits:
    """What is the same for all tasks of a family.

    Attributes:
        examples: `Task.examples`.
        source: whether gradients come from elsewhere than the loss, `Task.source`.
    """

    examples: bool = static(False)
    source: bool = static(False)


def traits(family: TaskFamily) -> Traits | None:
    """The traits of a family; nothing is computed.

    Returns:
        None for a family of placeholders instead of arrays, as JAX builds them to
        handle a structure.
    """
    if not all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(family)):
        return None

    def look() -> Traits:
        task = family.task(family.nominal())
        return Traits(examples=task.examples, source=task.source is not None)

    return jax.eval_shape(look)


def require_own_gradients(name: str, inner: TaskFamily) -> None:
    """Raises ValueError if the gradients of a family are not those of its loss.

    Args:
        name: of the augmentation that would replace them.
        inner: the family.
    """
    known = traits(inner)
    if known is not None and known.source:
        raise ValueError(
            f"{name}.inner must be a family whose gradients are those of its loss, "
            f"got {type(inner).__name__}"
        )


def mapped(
    task: Task,
    *,
    weights: Callable[[Params], Params] = lambda params: params,
    objective: Callable[[jax.Array], jax.Array] = lambda loss: loss,
) -> Task:
    r"""A task in other parameters p, and with another loss: $f(L(w(p)))$.

    Its gradients follow by the chain rule, $f'(L)\, (\partial w / \partial p)^T g$,
    whatever the source of the inner gradient g, whose memory stays in terms of w. The
    initial parameters and `normalise` are left to the caller: they need inverses.

    Args:
        task: the inner task.
        weights: w, from p to the inner parameters.
        objective: f.
    """

    def loss(
        params: Params, key: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        value, aux = task.loss(weights(params), key, batch)
        return objective(value), aux

    def through(source: Gradients) -> Gradients:
        def step(
            memory: Any, params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, Params, Any]:
            inner, pull_back = jax.vjp(weights, params)
            value, grads, memory = source.step(memory, inner, key, batch)
            value, slope = jax.value_and_grad(objective)(value)
            (grads,) = pull_back(grads)
            grads = jax.tree.map(lambda g: (slope * g).astype(g.dtype), grads)
            return value, grads, memory

        return Gradients(
            init=lambda params, key: source.init(weights(params), key), step=step
        )

    source = None if task.source is None else through(task.source)
    return dataclasses.replace(task, loss=loss, source=source)


def size(params: Params) -> int:
    """How many numbers there are in a tree of arrays."""
    return sum(math.prod(p.shape) for p in jax.tree.leaves(params))


def unflatten(vector: jax.Array, like: Params) -> Params:
    """The tree with the structure, shapes and types of `like` and these numbers.

    One draw of random numbers for all tensors is one program to compile, not one for
    every shape.

    Args:
        vector: `[size(like)]`.
        like: a tree of arrays, or of their shapes and types.
    """
    leaves, structure = jax.tree.flatten(like)
    parts, start = [], 0
    for leaf in leaves:
        end = start + math.prod(leaf.shape)
        parts.append(vector[start:end].reshape(leaf.shape).astype(leaf.dtype))
        start = end
    return structure.unflatten(parts)


def inner_product(a: Params, b: Params) -> jax.Array:
    """The sum of products over all entries of two trees, a float32 scalar."""
    products = jax.tree.map(
        lambda x, y: jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32)), a, b
    )
    return jnp.sum(jnp.stack(jax.tree.leaves(products)))


def log_uniform_int(key: jax.Array, bounds: tuple[int, int]) -> jax.Array:
    """A whole number within `bounds`, n with a chance as log(1 + 1/n); int32."""
    low, high = bounds
    point = jax.random.uniform(
        key, (), minval=math.log(low), maxval=math.log(high + 1.0)
    )
    # Rounding may reach the end of the interval, or miss its beginning.
    return jnp.clip(jnp.exp(point).astype(jnp.int32), low, high)


def middle_int(bounds: tuple[int, int]) -> jax.Array:
    """The whole number nearest to the middle of a range in the logarithm; int32."""
    return jnp.int32(round(math.sqrt(bounds[0] * bounds[1])))
