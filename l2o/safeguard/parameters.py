"""Trees of parameters and states, as the guard looks at them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax


def in_step(state: Any, count: jax.Array, condition: jax.Array) -> Any:
    """A state whose schedules are where the training is, if the condition holds."""
    # Of an injected schedule; optax exports only what makes it.
    injected = optax.schedules.WrappedSchedule(optax.constant_schedule(0.0))
    kinds = (
        optax.ScaleByScheduleState,
        optax.InjectHyperparamsState,
        optax.InjectStatefulHyperparamsState,
        type(jax.eval_shape(injected.init)),
    )

    def within(tree: Any) -> Any:
        return jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, kinds))

    def one(node: Any) -> Any:
        if not isinstance(node, kinds):
            return node
        # An injected schedule counts in a state of its own, as may what it is given to.
        parts = {name: within(part) for name, part in node._asdict().items()}
        parts["count"] = jnp.where(condition, count, node.count)
        return type(node)(**parts)

    return within(state)


def choose(condition: jax.Array, one: Any, other: Any) -> Any:
    """One tree or the other, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def in_types_of(tree: Any, like: Any) -> Any:
    """In the types of another tree."""

    def typed(x: Any, y: jax.Array) -> Any:
        # Keys are of one type.
        is_key = jnp.issubdtype(y.dtype, jax.dtypes.extended)
        return x if is_key else jnp.asarray(x, y.dtype)

    return jax.tree.map(typed, tree, like)


def way(params: Any, point: Any) -> Any:
    """The update that leads from `params` to `point`."""
    return jax.tree.map(lambda p, q: q - p, params, point)


def euclidean(tree: Any) -> jax.Array:
    """Euclidean norm, in float32."""
    squares = [
        jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)
    ]
    return jnp.sqrt(sum(squares, jnp.zeros((), jnp.float32)))


def growth(params: Any) -> float:
    """How many times their size parameters may reach, and come back with accuracy."""
    types = [x.dtype for x in jax.tree.leaves(params)]
    eps = max((float(jnp.finfo(t).eps) for t in types), default=0.0)
    return min(1000.0, 0.03 / eps) if eps else 1000.0


def least_size(params: Any) -> float:
    """What is never out of proportion: weights of 0.01, for some begin at zero."""
    return 0.01 * math.sqrt(sum(x.size for x in jax.tree.leaves(params)))


def all_finite(tree: Any) -> jax.Array:
    """Whether every entry of every leaf is."""
    found = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(found)) if found else jnp.asarray(True)
