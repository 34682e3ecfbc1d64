"""Gradients from differences of losses alone."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tasks.augmentations.base import (
    log_uniform_int,
    middle_int,
    require_own_gradients,
    size,
    unflatten,
)
from tasks.base import Batch, Gradients, Params, Spec, Task, TaskFamily, static
from tasks.checks import require_range, require_sizes
from tasks.sampling import log_uniform, middle


class EvolutionGradientSpec(NamedTuple):
    """A task of the inner family, and how its gradient is estimated."""

    inner: Spec
    std: jax.Array  # shape=(), float32: of the perturbations
    pairs: jax.Array  # shape=(), int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EvolutionGradient(TaskFamily):
    r"""Evolution strategies in the place of backpropagation.

    With n antithetic pairs of standard normal perturbations, fresh at every step,

    $$ \frac1n \sum_{i=1}^n z_i\,
       \frac{L(w + \sigma z_i) - L(w - \sigma z_i)}{2 \sigma} $$

    is an unbiased estimate of the gradient of $E\, L(w + \sigma z)$, the smoothed loss;
    its noise grows with the number of parameters. All evaluations have one batch and
    one key. The loss that the optimizer is fed is the mean of the 2 n evaluations, an
    unbiased estimate of that smoothed loss: who only evaluates has no other, and at w
    itself an evaluation more would be needed.

    Attributes:
        inner: the family whose gradients are estimated; from its loss, so that it must
            have no other source of gradients. What alters gradients goes around this.
        std: range of sigma, log-uniform.
        pairs: range of n, log-uniform whole numbers. Tasks that run together take the
            time of the largest.
    """

    inner: TaskFamily
    std: tuple[float, float] = static((1e-3, 0.1))
    pairs: tuple[int, int] = static((1, 16))

    def __post_init__(self) -> None:
        require_range("evolution_gradient.std", self.std)
        require_range("evolution_gradient.pairs", self.pairs)
        require_sizes("evolution_gradient.pairs", self.pairs)
        require_own_gradients("evolution_gradient", self.inner)

    def sample(self, key: jax.Array) -> EvolutionGradientSpec:
        inner_key, std_key, pairs_key = jax.random.split(key, 3)
        return EvolutionGradientSpec(
            inner=self.inner.sample(inner_key),
            std=log_uniform(std_key, self.std),
            pairs=log_uniform_int(pairs_key, self.pairs),
        )

    def nominal(self) -> EvolutionGradientSpec:
        """The middle of the ranges in the logarithm."""
        return EvolutionGradientSpec(
            self.inner.nominal(), middle(self.std), middle_int(self.pairs)
        )

    def task(self, spec: EvolutionGradientSpec) -> Task:
        task = self.inner.task(spec.inner)

        def step(
            memory: Any, params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, Params, Any]:
            noise_key, loss_key = jax.random.split(key)
            std = spec.std.astype(jnp.float32)

            def add(i: jax.Array, sums: tuple[jax.Array, jax.Array]) -> Any:
                noise = jax.random.normal(
                    jax.random.fold_in(noise_key, i), (size(params),), jnp.float32
                )

                def evaluate(sign: jax.Array) -> jax.Array:
                    offset = unflatten(sign * std * noise, params)
                    moved = jax.tree.map(jnp.add, params, offset)
                    return task.loss(moved, loss_key, batch)[0].astype(jnp.float32)

                # Both signs in one: the loss is compiled once.
                plus, minus = jax.vmap(evaluate)(jnp.asarray([1.0, -1.0], jnp.float32))
                loss, gradient = sums
                return loss + (plus + minus), gradient + (plus - minus) * noise

            zeros = jnp.zeros((), jnp.float32), jnp.zeros((size(params),), jnp.float32)
            loss, gradient = jax.lax.fori_loop(0, spec.pairs, add, zeros)
            evaluations = 2.0 * spec.pairs.astype(jnp.float32)
            grads = unflatten(gradient / (evaluations * std), params)
            return loss / evaluations, grads, memory

        return dataclasses.replace(
            task, source=Gradients(init=lambda params, key: (), step=step)
        )
