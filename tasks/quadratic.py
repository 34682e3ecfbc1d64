"""Quadratic bowls with a sampled spectrum."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tasks.base import Batch, Params, Split, Task, TaskFamily, bounded, static
from tasks.checks import require_number, require_range, require_sizes
from tasks.sampling import log_uniform, orthonormal


class QuadraticSpec(NamedTuple):
    """What differs between the tasks of a family."""

    eigenvalues: jax.Array  # [dim], positive
    rotation: jax.Array  # [dim, dim], orthogonal: columns are the eigenvectors
    minimiser: jax.Array  # [dim]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quadratic(TaskFamily):
    r"""Minimise $f(x) = \tfrac12 (x - x^*)^T Q \Lambda Q^T (x - x^*)$ under noise.

    A batch is a noise vector n, normal of deviation `noise`, and the loss on it is
    $f(x) + n^T (x - x^*)$: the gradient's noise has a covariance that does not depend
    on x. Evaluation averages it out.

    Attributes:
        dim: number of parameters.
        spectrum: range of the eigenvalues, sampled log-uniformly and independently.
        noise: deviation of the gradient's noise per parameter.
    """

    dim: int = static(32)
    spectrum: tuple[float, float] = static((1e-2, 1.0))
    noise: float = static(0.0)

    def __post_init__(self) -> None:
        require_sizes("quadratic.dim", [self.dim])
        require_range("quadratic.spectrum", self.spectrum)
        require_number("quadratic.noise", self.noise, 0.0)

    def sample(self, key: jax.Array) -> QuadraticSpec:
        spectrum_key, rotation_key, minimiser_key = jax.random.split(key, 3)
        return QuadraticSpec(
            eigenvalues=log_uniform(spectrum_key, self.spectrum, (self.dim,)),
            rotation=orthonormal(rotation_key, self.dim, self.dim),
            minimiser=jax.random.normal(minimiser_key, (self.dim,)),
        )

    def nominal(self) -> QuadraticSpec:
        """Eigenvalues evenly spaced in the logarithm, axis-aligned, minimum at one."""
        low, high = self.spectrum
        return QuadraticSpec(
            eigenvalues=jnp.geomspace(low, high, self.dim, dtype=jnp.float32),
            rotation=jnp.eye(self.dim),
            minimiser=jnp.ones((self.dim,)),
        )

    def task(self, spec: QuadraticSpec) -> Task:
        def init(key: jax.Array) -> Params:
            return {"x": jax.random.normal(key, (self.dim,))}

        def batch(key: jax.Array, split: Split) -> Batch:
            del split  # Fresh noise is unseen noise.
            return self.noise * jax.random.normal(key, (self.dim,))

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            del key  # All randomness is in the batch.
            away = params["x"] - spec.minimiser
            along = spec.rotation.T @ away
            value = 0.5 * jnp.sum(spec.eigenvalues * jnp.square(along))
            return value + jnp.dot(batch, away), {}

        def normalise(loss: jax.Array) -> jax.Array:
            # The expected loss at initialisation, with the minimiser where it is.
            distance = 1.0 + jnp.square(spec.rotation.T @ spec.minimiser)
            start = 0.5 * jnp.sum(spec.eigenvalues * distance)
            return bounded(loss, start)

        return Task(init=init, batch=batch, loss=loss, normalise=normalise)
