"""Another objective of the same task: its unit, and how many examples it is of."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tasks.augmentations.base import mapped, traits
from tasks.base import Batch, Spec, Split, Task, TaskFamily, static
from tasks.checks import require_range
from tasks.sampling import log_uniform, middle, uniform


class ScaleLossSpec(NamedTuple):
    """A task of the inner family, and what its loss is multiplied by."""

    inner: Spec
    factor: jax.Array  # shape=(), float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScaleLoss(TaskFamily):
    """The loss and its gradient in another unit.

    Weights keep their scale, unlike under `Reparametrise`, and the loss that an
    optimizer is fed does not. `normalise` divides the unit out.

    Attributes:
        inner: the family whose loss is multiplied.
        factor: range of the factor, log-uniform.
    """

    inner: TaskFamily
    factor: tuple[float, float] = static((1e-3, 1e3))

    def __post_init__(self) -> None:
        require_range("scale_loss.factor", self.factor)

    def sample(self, key: jax.Array) -> ScaleLossSpec:
        inner_key, factor_key = jax.random.split(key)
        return ScaleLossSpec(
            self.inner.sample(inner_key), log_uniform(factor_key, self.factor)
        )

    def nominal(self) -> ScaleLossSpec:
        """The middle of the range: 1 where it is symmetric about 1."""
        return ScaleLossSpec(self.inner.nominal(), middle(self.factor))

    def task(self, spec: ScaleLossSpec) -> Task:
        task = self.inner.task(spec.inner)
        return dataclasses.replace(
            mapped(task, objective=lambda loss: loss * spec.factor),
            normalise=lambda loss: task.normalise(loss / spec.factor),
        )


class ReduceBatchSpec(NamedTuple):
    """A task of the inner family, and the share of a batch that it is trained on."""

    inner: Spec
    fraction: jax.Array  # shape=(), float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReduceBatch(TaskFamily):
    """Training on the first k examples of every batch: noisier gradients.

    Of a batch of n examples the first k = ceil(fraction n) are repeated cyclically to
    fill it, so that k may vary within one program. Where n is no multiple of k, some
    count once more than others in the mean. Batches of other splits are whole.

    Attributes:
        inner: the family whose batches are reduced; they must have examples.
        fraction: range of the share of a batch, uniform, within 0..1.
    """

    inner: TaskFamily
    fraction: tuple[float, float] = static((0.01, 1.0))

    def __post_init__(self) -> None:
        require_range("reduce_batch.fraction", self.fraction)
        if self.fraction[1] > 1.0:
            raise ValueError(
                f"reduce_batch.fraction must be at most 1, got {self.fraction!r}"
            )
        known = traits(self.inner)
        if known is not None and not known.examples:
            raise ValueError(
                "reduce_batch.inner must be a family whose batches have examples, "
                f"got {type(self.inner).__name__}"
            )

    def sample(self, key: jax.Array) -> ReduceBatchSpec:
        inner_key, fraction_key = jax.random.split(key)
        return ReduceBatchSpec(
            self.inner.sample(inner_key), uniform(fraction_key, self.fraction)
        )

    def nominal(self) -> ReduceBatchSpec:
        """The middle of the range."""
        return ReduceBatchSpec(
            self.inner.nominal(), jnp.float32(sum(self.fraction) / 2.0)
        )

    def task(self, spec: ReduceBatchSpec) -> Task:
        task = self.inner.task(spec.inner)

        def batch(key: jax.Array, split: Split) -> Batch:
            whole = task.batch(key, split)
            if split != "train":
                return whole
            count = len(jax.tree.leaves(whole)[0])
            used = jnp.ceil(spec.fraction * count).astype(jnp.int32)
            places = jnp.arange(count, dtype=jnp.int32) % jnp.clip(used, 1, count)
            return jax.tree.map(lambda x: x[places], whole)

        return dataclasses.replace(task, batch=batch)
