"""The same problem in other parameters, or in fewer bits."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from tasks.augmentations.base import Wrapped, mapped, size, unflatten
from tasks.base import Batch, Params, Spec, Split, Task, TaskFamily, static
from tasks.checks import require_range
from tasks.sampling import log_uniform, middle


Level = Literal["global", "tensor", "parameter"]
"""What has a scale of its own."""


class ReparametriseSpec(NamedTuple):
    """A task of the inner family, and its scales."""

    inner: Spec
    scale: Any  # c: shape=() if global, else a tree as the parameters are


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reparametrise(TaskFamily):
    r"""Train p where the network's weights are c p.

    The function that is learned and its loss are left alone: initial parameters are
    divided by c, the gradient is multiplied by c, the distance to travel by 1/c. An
    optimizer that does well over a range of c cannot rely on a scale of the gradient or
    of the weights (Metz et al. 2022). With a scale for every tensor or every parameter,
    the problem is preconditioned badly as well.

    Attributes:
        inner: the family whose parameters are changed.
        level: whether there is one c, one for each tensor, or one for each parameter.
        scale: range of every c, log-uniform and independent.
    """

    inner: TaskFamily
    level: Level = static("global")
    scale: tuple[float, float] = static((1e-3, 1e3))

    def __post_init__(self) -> None:
        require_range("reparametrise.scale", self.scale)
        if self.level not in get_args(Level):
            raise ValueError(
                f"reparametrise.level must be one of {', '.join(get_args(Level))}, "
                f"got {self.level!r}"
            )

    def sample(self, key: jax.Array) -> ReparametriseSpec:
        inner_key, scale_key = jax.random.split(key)
        return self._spec(
            self.inner.sample(inner_key),
            lambda shape: log_uniform(scale_key, self.scale, shape),
        )

    def nominal(self) -> ReparametriseSpec:
        """The middle of the range for all: 1 where it is symmetric about 1."""
        return self._spec(
            self.inner.nominal(), lambda shape: jnp.full(shape, middle(self.scale))
        )

    def task(self, spec: ReparametriseSpec) -> Task:
        task = self.inner.task(spec.inner)

        def init(key: jax.Array) -> Params:
            return self._map(jnp.divide, task.init(key), spec.scale)

        def weights(params: Params) -> Params:
            return self._map(jnp.multiply, params, spec.scale)

        return dataclasses.replace(mapped(task, weights=weights), init=init)

    def _spec(
        self, inner: Spec, draw: Callable[[tuple[int, ...]], jax.Array]
    ) -> ReparametriseSpec:
        if self.level == "global":
            return ReparametriseSpec(inner, draw(()))
        like = jax.eval_shape(self.inner.task(inner).init, jax.random.key(0))
        like = jax.tree.map(
            lambda p: jax.ShapeDtypeStruct(
                p.shape if self.level == "parameter" else (), jnp.float32
            ),
            like,
        )
        return ReparametriseSpec(inner, unflatten(draw((size(like),)), like))

    def _map(
        self,
        combine: Callable[[jax.Array, jax.Array], jax.Array],
        params: Params,
        scale: Any,
    ) -> Params:
        """`combine(parameter, its scale)`, in the parameter's precision."""
        if self.level == "global":
            scale = jax.tree.map(lambda _: scale, params)
        return jax.tree.map(lambda p, c: combine(p, c).astype(p.dtype), params, scale)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowPrecision(TaskFamily):
    """The task in bfloat16: parameters, batches, gradients and arithmetic.

    Parameters are drawn as ever, then stored and updated with 8 bits of precision: an
    update below a 256th of a parameter may be lost, and gradients carry errors of that
    size. The loss is handed out as float32. Numbers that a specification holds are cast
    as well where the loss is computed; constants that a family makes in float32 are
    not, and what they meet is computed in float32. Whole numbers stay.

    Attributes:
        inner: the family whose precision is lowered.
    """

    inner: TaskFamily

    def sample(self, key: jax.Array) -> Wrapped:
        return Wrapped(self.inner.sample(key))

    def nominal(self) -> Wrapped:
        return Wrapped(self.inner.nominal())

    def task(self, spec: Wrapped) -> Task:
        task = self.inner.task(spec.inner)
        low = self.inner.task(_as_bfloat16(spec.inner))

        def init(key: jax.Array) -> Params:
            return _as_bfloat16(task.init(key))

        def batch(key: jax.Array, split: Split) -> Batch:
            return _as_bfloat16(task.batch(key, split))

        return dataclasses.replace(
            mapped(low, objective=lambda loss: loss.astype(jnp.float32)),
            init=init,
            batch=batch,
            normalise=task.normalise,
        )


def _as_bfloat16(tree: Any) -> Any:
    def cast(x: jax.Array) -> jax.Array:
        return x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)
