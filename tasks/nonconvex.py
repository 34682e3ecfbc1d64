"""Classic functions with valleys, plains and many local minima."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tasks.base import Batch, Params, Split, Task, TaskFamily, bounded, static
from tasks.checks import (
    require_choices,
    require_number,
    require_range,
    require_sizes,
)
from tasks.sampling import index, log_uniform, middle, orthonormal, pick


# Where Styblinski and Tang's quartic is lowest: a root of 4 y^3 - 32 y + 5.
_LOWEST = -2.9035340277711770
# The radius of Ackley's rounded tip.
_TIP = 1e-3


def _rosenbrock(z: jax.Array) -> jax.Array:
    y = z + 1.0
    valley = y[1:] - jnp.square(y[:-1])
    return jnp.sum(100.0 * jnp.square(valley) + jnp.square(z[:-1]))


def _rastrigin(z: jax.Array) -> jax.Array:
    # 10 (1 - cos 2 pi z), without the difference of two nearly equal numbers.
    ripples = 20.0 * jnp.square(jnp.sin(math.pi * z))
    return jnp.sum(jnp.square(z) + ripples)


def _ackley(z: jax.Array) -> jax.Array:
    radius = jnp.sqrt(jnp.mean(jnp.square(z)) + _TIP**2) - _TIP
    ripples = -2.0 * jnp.mean(jnp.square(jnp.sin(math.pi * z)))
    return -20.0 * jnp.expm1(-0.2 * radius) - math.e * jnp.expm1(ripples)


def _styblinski_tang(z: jax.Array) -> jax.Array:
    # The quartic's Taylor series about its lowest point, where it has no slope.
    curvature, skewness = 3.0 * _LOWEST**2 - 8.0, 2.0 * _LOWEST
    return jnp.sum(jnp.square(z) * (curvature + skewness * z + 0.5 * jnp.square(z)))


def _rosenbrock_mean(dim: int, variance: jax.Array) -> jax.Array:
    valley = 5.0 * variance + 3.0 * jnp.square(variance)
    return (dim - 1) * (100.0 * valley + variance)


def _rastrigin_mean(dim: int, variance: jax.Array) -> jax.Array:
    return dim * (variance + 10.0 - 10.0 * jnp.exp(-2.0 * math.pi**2 * variance))


def _ackley_mean(dim: int, variance: jax.Array) -> jax.Array:
    # The radius is chi-distributed; cumulants of up to the second order.
    share = math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    share *= math.sqrt(2.0 / dim)
    radius, spread = share * jnp.sqrt(variance), (1.0 - share**2) * variance
    # A cosine's moments, as many as a power series of its exponential needs.
    cosine = jnp.exp(-2.0 * math.pi**2 * variance)
    moments = [cosine, (1.0 + cosine**4) / 2.0, (3.0 * cosine + cosine**9) / 4.0]
    one = 1.0 + sum(m / (dim**k * math.factorial(k)) for k, m in enumerate(moments, 1))
    return 20.0 * (1.0 - jnp.exp(-0.2 * radius + 0.02 * spread)) + math.e - one**dim


def _styblinski_tang_mean(dim: int, variance: jax.Array) -> jax.Array:
    curvature = 3.0 * _LOWEST**2 - 8.0
    return dim * (curvature * variance + 1.5 * jnp.square(variance))


class _Function(NamedTuple):
    value: Callable[[jax.Array], jax.Array]  # of [dim], 0 and lowest at the origin
    # Of a dim and a variance: the expectation at normal deviates of that variance.
    mean: Callable[[int, jax.Array], jax.Array]


FUNCTIONS = {
    "rosenbrock": _Function(_rosenbrock, _rosenbrock_mean),
    "rastrigin": _Function(_rastrigin, _rastrigin_mean),
    "ackley": _Function(_ackley, _ackley_mean),
    "styblinski_tang": _Function(_styblinski_tang, _styblinski_tang_mean),
}
"""A curved valley; ripples on a bowl; ripples on a plain; two basins per parameter."""


class NonConvexSpec(NamedTuple):
    """What differs between the tasks of a family."""

    function: jax.Array  # shape=(), int32: place in `NonConvex.functions`
    minimiser: jax.Array  # [dim]
    rotation: jax.Array  # [dim, dim], orthogonal
    distance: jax.Array  # shape=(), float32: deviation of the start from the minimiser


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NonConvex(TaskFamily):
    r"""Minimise a classic test function $f(z)$ with $z = Q^T (x - x^*)$.

    All are written so that their lowest value is 0, at the origin:

    * Rosenbrock: $\sum_i 100\,(y_{i+1} - y_i^2)^2 + (1 - y_i)^2$ with $y = z + 1$,
    * Rastrigin: $\sum_i z_i^2 + 10 - 10 \cos 2 \pi z_i$,
    * Ackley: $20 - 20 \exp(-0.2\,r) + e - \exp(\tfrac1d \sum_i \cos 2 \pi z_i)$ with
      the root mean square r of z, whose tip is rounded off within 1e-3: the function as
      published has no gradient at its minimiser,
    * Styblinski-Tang: $\tfrac12 \sum_i y_i^4 - 16 y_i^2 + 5 y_i$ with
      $y = z - 2.9035$, less its minimum.

    Other families have no known minimum to miss: here it shows whether an optimizer
    stays in the first of many minima, follows a bent valley, and crosses a plain.

    The start is normally distributed about the minimiser. A batch is a normal vector n
    that adds $n^T (x - x^*)$ to the loss, noise of the gradient as in `Quadratic`. The
    loss is normalised by its expectation at the start, in closed form; for Ackley by a
    series, within 1 %.

    Source: Jamil and Yang (2013), "A literature survey of benchmark functions for
    global optimization problems", and the references there.

    Attributes:
        dim: number of parameters, two or more.
        functions: some of `FUNCTIONS`.
        distance: range of the start's deviation from the minimiser, per parameter,
            log-uniform.
        rotated: the chance that the axes of a function are turned at random.
        noise: deviation of what the noise adds to the loss at the start, in units of
            the loss expected there.
    """

    dim: int = static(16)
    functions: tuple[str, ...] = static(tuple(FUNCTIONS))
    distance: tuple[float, float] = static((0.5, 2.0))
    rotated: float = static(0.5)
    noise: float = static(0.0)

    def __post_init__(self) -> None:
        require_sizes("nonconvex.dim", [self.dim])
        require_number("nonconvex.dim", self.dim, 2)
        require_choices("nonconvex.functions", self.functions, FUNCTIONS)
        require_range("nonconvex.distance", self.distance)
        require_number("nonconvex.rotated", self.rotated, 0.0, 1.0)
        require_number("nonconvex.noise", self.noise, 0.0)

    def sample(self, key: jax.Array) -> NonConvexSpec:
        function_key, minimiser_key, chance_key, rotation_key, distance_key = (
            jax.random.split(key, 5)
        )
        turned = jax.random.bernoulli(chance_key, self.rotated)
        rotation = orthonormal(rotation_key, self.dim, self.dim)
        return NonConvexSpec(
            function=index(function_key, self.functions),
            minimiser=jax.random.normal(minimiser_key, (self.dim,)),
            rotation=jnp.where(turned, rotation, jnp.eye(self.dim)),
            distance=log_uniform(distance_key, self.distance),
        )

    def nominal(self) -> NonConvexSpec:
        """The first function, axis-aligned, lowest where every parameter is one."""
        return NonConvexSpec(
            function=jnp.int32(0),
            minimiser=jnp.ones((self.dim,)),
            rotation=jnp.eye(self.dim),
            distance=middle(self.distance),
        )

    def task(self, spec: NonConvexSpec) -> Task:
        chosen = [FUNCTIONS[name] for name in self.functions]
        variance = jnp.square(spec.distance)
        start = pick([f.mean(self.dim, variance) for f in chosen], spec.function)
        noise = self.noise * start / (spec.distance * math.sqrt(self.dim))

        def init(key: jax.Array) -> Params:
            away = jax.random.normal(key, (self.dim,))
            return {"x": spec.minimiser + spec.distance * away}

        def batch(key: jax.Array, split: Split) -> Batch:
            del split  # Fresh noise is unseen noise.
            return noise * jax.random.normal(key, (self.dim,))

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            del key  # All randomness is in the batch.
            away = params["x"] - spec.minimiser
            along = spec.rotation.T @ away
            # The others are evaluated at their minimisers, where they add nothing: not
            # even to a gradient, however far `along` has gone.
            value = sum(
                f.value(jnp.where(spec.function == i, along, 0.0))
                for i, f in enumerate(chosen)
            )
            return value + jnp.dot(batch, away), {}

        def normalise(loss: jax.Array) -> jax.Array:
            return bounded(loss, start)

        return Task(init=init, batch=batch, loss=loss, normalise=normalise)
