"""Tasks whose inner loop is fed by a source of gradients of `l2o.gradients`."""

import dataclasses
from typing import Any

import jax

from l2o.gradients.registry import parse
from tasks.augmentations.base import Wrapped, require_own_gradients, traits
from tasks.base import Batch, Gradients, Params, Task, TaskFamily, static


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GradientSource(TaskFamily):
    """The same tasks, and another way to their gradients than backpropagation.

    The loss that is judged stays.

    Attributes:
        inner: the family whose gradients are replaced; from its loss, so that it must
            have no other source of gradients. What alters gradients goes around this.
        source: `NAME` or `NAME:setting=value,...`, as `l2o.gradients.parse` reads it.
    """

    inner: TaskFamily
    source: str = static("forward_gradient")

    def __post_init__(self) -> None:
        require_own_gradients("gradient_source", self.inner)
        chosen, known = parse(self.source), traits(self.inner)
        if chosen.needs_examples and known is not None and not known.examples:
            raise ValueError(
                f"gradient_source.inner must be a family whose batches have examples "
                f"for {chosen}, got {type(self.inner).__name__}"
            )

    def sample(self, key: jax.Array) -> Wrapped:
        return Wrapped(self.inner.sample(key))

    def nominal(self) -> Wrapped:
        return Wrapped(self.inner.nominal())

    def task(self, spec: Wrapped) -> Task:
        task = self.inner.task(spec.inner)
        source = parse(self.source)

        def step(
            memory: Any, params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, Params, Any]:
            source_key, loss_key = jax.random.split(key)
            gradient = source(
                lambda params, batch: task.loss(params, loss_key, batch)[0]
            )
            value, grads = gradient(params, source_key, batch)
            return value, grads, memory

        return dataclasses.replace(
            task, source=Gradients(init=lambda params, key: (), step=step)
        )
