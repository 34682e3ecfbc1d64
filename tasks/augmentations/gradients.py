"""The same loss, and less said of its gradient."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tasks.augmentations.base import (
    Wrapped,
    inner_product,
    log_uniform_int,
    middle_int,
    size,
    unflatten,
)
from tasks.base import Batch, Gradients, Params, Spec, Task, TaskFamily, static
from tasks.checks import require_range, require_sizes


SMALLEST_NORM = 1e-12
"""A gradient below this norm is divided by it instead: zero stays zero."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NormaliseGradient(TaskFamily):
    r"""Gradients of length one: g / max(|g|, `SMALLEST_NORM`).

    The norm is over all parameters together, as in VeLO's tasks (Metz et al. 2022). It
    takes from an optimizer what the size of gradients tells of the progress made: near
    a minimum they do not shrink.

    Attributes:
        inner: the family whose gradients are normalised.
    """

    inner: TaskFamily

    def sample(self, key: jax.Array) -> Wrapped:
        return Wrapped(self.inner.sample(key))

    def nominal(self) -> Wrapped:
        return Wrapped(self.inner.nominal())

    def task(self, spec: Wrapped) -> Task:
        task = self.inner.task(spec.inner)
        gradients = task.gradients

        def step(
            memory: Any, params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, Params, Any]:
            loss, grads, memory = gradients.step(memory, params, key, batch)
            norm = jnp.sqrt(inner_product(grads, grads))
            rescale = 1.0 / jnp.maximum(norm, SMALLEST_NORM)
            grads = jax.tree.map(lambda g: (g * rescale).astype(g.dtype), grads)
            return loss, grads, memory

        return dataclasses.replace(task, source=Gradients(gradients.init, step))


class SubsampleDirectionsSpec(NamedTuple):
    """A task of the inner family, and how many directions are seen of its gradient."""

    inner: Spec
    directions: jax.Array  # shape=(), int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SubsampleDirections(TaskFamily):
    r"""The gradient's projections on n random directions, fresh at every step.

    With standard normal $z_i$ the optimizer is fed

    $$ \frac1n \sum_{i=1}^n z_i\, (z_i^T g), \qquad\text{or}\qquad
       \frac1n \sum_{i=1}^n z_i\, \mathrm{sign}(z_i^T g) $$

    with `sign`: what evolution strategies of n pairs would find in the limit of small
    perturbations, from their differences of losses or the signs of these. The first has
    mean g and covariance $(|g|^2 I + g g^T) / n$; the second has mean
    $\sqrt{2/\pi}\, g/|g|$ and covariance $(I - \tfrac2\pi g g^T / |g|^2) / n$. (VeLO's
    tasks, Metz et al. 2022, take directions of length one and their sum, which differ
    by a factor that n and the number of parameters determine.)

    The cost does not grow with n, as the sum is drawn at once. Split
    $z_i = a_i u + w_i$ along $u = g/|g|$ and across it: given the $a_i$, which are
    standard normal, $\sum_i a_i w_i$ is normal in the space across u, with variance
    $\sum_i a_i^2$.

    Attributes:
        inner: the family whose gradients are subsampled.
        directions: range of n, log-uniform whole numbers.
        sign: whether only the signs of the projections are used.
    """

    inner: TaskFamily
    directions: tuple[int, int] = static((1, 1024))
    sign: bool = static(False)

    def __post_init__(self) -> None:
        require_range("subsample_directions.directions", self.directions)
        require_sizes("subsample_directions.directions", self.directions)

    def sample(self, key: jax.Array) -> SubsampleDirectionsSpec:
        inner_key, own_key = jax.random.split(key)
        return SubsampleDirectionsSpec(
            self.inner.sample(inner_key), log_uniform_int(own_key, self.directions)
        )

    def nominal(self) -> SubsampleDirectionsSpec:
        """The middle of the range in the logarithm."""
        return SubsampleDirectionsSpec(
            self.inner.nominal(), middle_int(self.directions)
        )

    def task(self, spec: SubsampleDirectionsSpec) -> Task:
        task = self.inner.task(spec.inner)
        gradients = task.gradients
        count = spec.directions.astype(jnp.float32)

        def step(
            memory: Any, params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, Params, Any]:
            own_key, inner_key = jax.random.split(key)
            loss, grads, memory = gradients.step(memory, params, inner_key, batch)
            most = self.directions[1]
            draws = jax.random.normal(own_key, (size(grads) + most,), jnp.float32)
            used = jnp.arange(most) < spec.directions
            along = jnp.where(used, draws[:most], 0.0)
            noise = unflatten(draws[most:], grads)
            square = inner_product(grads, grads)
            norm = jnp.sqrt(square)
            # Of the gradient, where it is not zero; of what is drawn across it.
            if self.sign:
                parallel = jnp.sum(jnp.abs(along)) / (
                    count * jnp.where(square > 0, norm, 1.0)
                )
                spread = jnp.where(square > 0, 1.0, 0.0) / jnp.sqrt(count)
            else:
                squares = jnp.sum(jnp.square(along))
                parallel = squares / count
                spread = norm * jnp.sqrt(squares) / count
            # What the noise has along the gradient is taken out of it.
            overlap = inner_product(noise, grads) / jnp.where(square > 0, square, 1.0)
            parallel = parallel - spread * overlap
            grads = jax.tree.map(
                lambda g, z: (parallel * g + spread * z).astype(g.dtype), grads, noise
            )
            return loss, grads, memory

        return dataclasses.replace(task, source=Gradients(gradients.init, step))


class DelayGradientSpec(NamedTuple):
    """A task of the inner family, and how old its gradients are."""

    inner: Spec
    delay: jax.Array  # shape=(), int32: d


class _Past(NamedTuple):
    """What a delayed gradient is taken from."""

    params: Params  # [longest, ...]: of the last steps, a ring
    place: jax.Array  # shape=(), int32: of the oldest, which is overwritten next
    inner: Any  # the inner source's memory


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DelayGradient(TaskFamily):
    """Stale gradients: at step t, those at the parameters of step t - d.

    So asynchronous workers feed an optimizer, that fetched the parameters d steps ago.
    Before there are such parameters the initial ones stand in. The batch is that of
    step t, and the loss that the optimizer is fed is that of the old parameters too:
    the workers know no other.

    Attributes:
        inner: the family whose gradients are delayed.
        longest: largest d; they are log-uniform whole numbers from 1.
    """

    inner: TaskFamily
    longest: int = static(8)

    def __post_init__(self) -> None:
        require_sizes("delay_gradient.longest", [self.longest])

    def sample(self, key: jax.Array) -> DelayGradientSpec:
        inner_key, own_key = jax.random.split(key)
        return DelayGradientSpec(
            self.inner.sample(inner_key), log_uniform_int(own_key, (1, self.longest))
        )

    def nominal(self) -> DelayGradientSpec:
        """The middle of the range in the logarithm."""
        return DelayGradientSpec(self.inner.nominal(), middle_int((1, self.longest)))

    def task(self, spec: DelayGradientSpec) -> Task:
        task = self.inner.task(spec.inner)
        gradients = task.gradients

        def init(params: Params, key: jax.Array) -> _Past:
            return _Past(
                params=jax.tree.map(lambda p: jnp.stack([p] * self.longest), params),
                place=jnp.int32(0),
                inner=gradients.init(params, key),
            )

        def step(
            memory: _Past, params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, Params, _Past]:
            place = (memory.place - spec.delay) % self.longest
            old = jax.tree.map(lambda past: past[place], memory.params)
            loss, grads, inner = gradients.step(memory.inner, old, key, batch)
            past = _Past(
                params=jax.tree.map(
                    lambda past, p: past.at[memory.place].set(p), memory.params, params
                ),
                place=(memory.place + 1) % self.longest,
                inner=inner,
            )
            return loss, grads, past

        return dataclasses.replace(task, source=Gradients(init, step))
