"""What gradient sources share: their signature, their noise, the angle between two."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.inspect.vectors import widen


Params: TypeAlias = Any
Loss: TypeAlias = Callable[..., jax.Array]
"""`(params, *args) -> scalar`."""

GradientFunction: TypeAlias = Callable[..., tuple[jax.Array, Params]]
"""`(params, key, *args) -> (value, grads)`."""

Distribution: TypeAlias = Literal["gaussian", "rademacher"]

_DRAWS: dict[str, Callable[..., jax.Array]] = {
    "gaussian": jax.random.normal,
    "rademacher": jax.random.rademacher,
}


def as_loss(function: Any, loss: Callable[..., jax.Array] | None) -> Loss:
    """The loss of parameters, from itself or from a flax model and a loss.

    Args:
        function: `(params, *args) -> scalar`; or a flax model, if `loss` is given.
        loss: `(outputs, *targets) -> scalar`.

    Returns:
        The loss; of a model `(params, inputs, *targets) -> scalar`, where `params` is
        what `model.init` has under "params".
    """
    if loss is None:
        return function
    apply = function.apply

    def of_model(params: Params, inputs: Any, *targets: Any) -> jax.Array:
        return loss(apply({"params": params}, inputs), *targets)

    return of_model


def require_distribution(distribution: str) -> None:
    """Raises ValueError unless noise can be drawn from `distribution`."""
    if distribution not in _DRAWS:
        raise ValueError(
            f"distribution must be one of {', '.join(_DRAWS)}, got {distribution!r}"
        )


def require_seed(seed: Any) -> None:
    """Raises ValueError unless `seed` is an integer."""
    if type(seed) is not int:
        raise ValueError(f"seed must be an integer, got {seed!r}")


def draw(
    key: jax.Array, shape: tuple[int, ...], dtype: Any, distribution: Distribution
) -> jax.Array:
    """Independent entries of mean 0 and variance 1."""
    return _DRAWS[distribution](key, shape, dtype)


def draw_like(key: jax.Array, tree: Params, distribution: Distribution) -> Params:
    """The same in a tree of arrays; one draw for all is one program to compile.

    Where a leaf lies along explicit axes of a mesh its noise does, too.
    """
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return tree
    ends = np.cumsum([leaf.size for leaf in leaves])
    flat = draw(key, (int(ends[-1]),), jnp.result_type(*leaves), distribution)
    parts = jnp.split(flat, ends[:-1])

    def shaped(part: jax.Array, leaf: jax.Array) -> jax.Array:
        noise = part.reshape(leaf.shape).astype(leaf.dtype)
        own = jax.typeof(leaf).sharding
        return jax.sharding.reshard(noise, own) if own.mesh.explicit_axes else noise

    return structure.unflatten(map(shaped, parts, leaves))


def angle(grads: Params, reference: Params) -> jax.Array:
    r"""The angle between two gradients, over all parameters together, in degrees.

    $$ \arccos \frac{\langle g, h \rangle}{|g| |h|} $$

    Below 90 a small step along the one is a descent along the other. NaN where one of
    them is zero.
    """
    a, b = widen(grads), widen(reference)
    # Not a product of vectors, whose axes must not be sharded along explicit ones.
    product = jnp.asarray(optax.tree.sum(jax.tree.map(jnp.multiply, a, b)))
    cosine = product / (optax.tree.norm(a) * optax.tree.norm(b))
    return jnp.degrees(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)))
