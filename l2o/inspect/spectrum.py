"""Eigenvalues of a symmetric product by Lanczos iteration: the largest, the density."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from l2o.config import require_positive, require_positive_int
from l2o.inspect.vectors import Product, Tree, on_vectors


# On GPUs the default precision of a float32 product loses orthogonality.
_dot = functools.partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)


def largest_eigenvalues(
    product: Product, like: Tree, key: jax.Array, count: int, steps: int
) -> jax.Array:
    r"""The algebraically largest eigenvalues of a symmetric linear map.

    Ritz values: the eigenvalues of $Q^\top A Q$, with $Q$ an orthonormal basis of the
    Krylov space of a random vector. They approach those of $A$ from below, the extreme
    ones first; with as many steps as parameters they are equal. For the smallest ones
    negate the product.

    Args:
        product: the map $A$, from trees like `like` to such trees.
        like: gives structure, shapes and dtypes.
        key: randomness of the first vector.
        count: how many eigenvalues.
        steps: products to spend; the memory is as many trees. Some tens find the
            outliers of a Hessian.

    Returns:
        `[count]`, descending, at least float32.

    Raises:
        ValueError: not 1 <= count <= steps <= number of parameters.

    Source: Parlett 1998, "The symmetric eigenvalue problem", chapter 13.
    """
    require_positive_int("count", count)
    apply, zeros, _ = on_vectors(product, like)
    _require_steps(steps, zeros.size)
    if count > steps:
        raise ValueError(f"count must be at most steps = {steps}, got {count}")
    start_key, key = jax.random.split(key)
    start = jax.random.normal(start_key, zeros.shape, zeros.dtype)
    ritz_values = jnp.linalg.eigvalsh(_lanczos(apply, start, key, steps))
    return ritz_values[::-1][:count]


def spectral_density(
    product: Product, like: Tree, key: jax.Array, probes: int, steps: int
) -> tuple[jax.Array, jax.Array]:
    r"""The density of the eigenvalues of a symmetric map, by stochastic quadrature.

    $$ \frac1n \mathrm{tr} f(A) \approx \frac1m \sum_{k=1}^m \sum_{j=1}^s
       w_{kj} f(\lambda_{kj}) $$

    From a random vector $z_k$ of signs, s Lanczos steps give a tridiagonal matrix; its
    eigenvalues are the nodes, the squared first entries of its eigenvectors the
    weights. For a polynomial f of degree up to 2 s - 1 the sum over j is
    $z_k^\top f(A) z_k / n$, and the estimate unbiased.

    Args:
        product: the map $A$, from trees like `like` to such trees.
        like: gives structure, shapes and dtypes.
        key: randomness of the vectors.
        probes: m, one after another.
        steps: s, products of a probe; the memory is as many trees.

    Returns:
        Nodes and weights, `[probes, steps]` each, at least float32. Nodes ascend along
        a probe; the weights of a probe sum to 1.

    Raises:
        ValueError: `probes` is no positive integer, or not
            1 <= steps <= number of parameters.

    Source: Ghorbani, Krishnan and Xiao 2019, "An investigation into neural net
    optimization via Hessian eigenvalue density", arXiv 1901.10159; Ubaru, Chen and Saad
    2017, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature".
    """
    require_positive_int("probes", probes)
    apply, zeros, _ = on_vectors(product, like)
    _require_steps(steps, zeros.size)

    def probe(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start_key, key = jax.random.split(key)
        start = jax.random.rademacher(start_key, zeros.shape, zeros.dtype)
        nodes, vectors = jnp.linalg.eigh(_lanczos(apply, start, key, steps))
        return nodes, jnp.square(vectors[0])

    return jax.lax.map(probe, jax.random.split(key, probes))


def density_on_grid(
    nodes: jax.Array, weights: jax.Array, grid: jax.Array, width: float
) -> jax.Array:
    r"""A density of eigenvalues, smoothed by Gaussians for a plot.

    $$ p(x) = \frac1m \sum_{k=1}^m \sum_{j=1}^s
       w_{kj} N(x; \lambda_{kj}, \sigma^2) $$

    Args:
        nodes: `[probes, steps]`, of `spectral_density`.
        weights: likewise.
        grid: `[points]`, where the density is wanted.
        width: the deviation $\sigma$, in units of eigenvalues.

    Returns:
        `[points]`; the integral over the real line is 1.

    Raises:
        ValueError: `width` is no finite number above 0.
    """
    require_positive("width", width)
    # [points, probes * steps]
    bumps = jax.scipy.stats.norm.pdf(
        jnp.expand_dims(grid, 1), jnp.expand_dims(nodes.ravel(), 0), width
    )
    return _dot(bumps, weights.ravel()) / nodes.shape[0]


def _require_steps(steps: int, size: int) -> None:
    require_positive_int("steps", steps)
    if steps > size:
        raise ValueError(
            f"steps must be at most the number of parameters = {size}, got {steps}"
        )


def _lanczos(
    apply: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    key: jax.Array,
    steps: int,
) -> jax.Array:
    """The symmetric map in an orthonormal basis that begins along `start`.

    Every new vector is orthogonalised against all that came before. Where the Krylov
    space is exhausted the iteration goes on from a random vector of its complement,
    uncoupled: nothing is divided by zero, and multiple eigenvalues appear as often as
    they should.

    Args:
        apply: `[size] -> [size]`.
        start: `[size]`, not zero.
        key: randomness of vectors from which the iteration goes on.
        steps: at most `size`.

    Returns:
        `[steps, steps]`, tridiagonal.
    """
    epsilon = jnp.finfo(start.dtype).eps

    def step(
        carry: tuple[jax.Array, jax.Array], now: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        basis, scale = carry
        i, key = now
        image = apply(basis[i])
        rest = _orthogonalise(image, basis)
        length = jnp.linalg.norm(rest)
        # Below this the rest is rounding error of the map.
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        exhausted = length <= 10 * epsilon * scale
        fresh = jax.random.normal(key, start.shape, start.dtype)
        # Of a short rest the direction is orthogonal only after a second time.
        following = _unit(
            _orthogonalise(jnp.where(exhausted, fresh, _unit(rest)), basis)
        )
        # There is no place for what follows the last step.
        basis = basis.at[i + 1].set(following, mode="drop")
        outputs = _dot(basis[i], image), jnp.where(exhausted, 0.0, length)
        return (basis, scale), outputs

    basis = jnp.zeros((steps, start.size), start.dtype).at[0].set(_unit(start))
    now = jnp.arange(steps), jax.random.split(key, steps)
    _, (diagonal, off) = jax.lax.scan(step, (basis, jnp.zeros((), start.dtype)), now)
    upper = jnp.diag(off[:-1], 1)
    return jnp.diag(diagonal) + upper + upper.T


def _orthogonalise(x: jax.Array, basis: jax.Array) -> jax.Array:
    """What is left of `x` `[size]` outside the rows of `basis` `[steps, size]`."""
    # One pass leaves rounding errors of the size of x, the second of what is left.
    for _ in range(2):
        x = x - _dot(_dot(basis, x), basis)
    return x


def _unit(x: jax.Array) -> jax.Array:
    """`x` of length 1; zero stays zero."""
    length = jnp.linalg.norm(x)
    return x / jnp.where(length > 0, length, 1.0)
