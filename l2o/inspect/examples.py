"""Gradients of single examples: their norms, their moments, the noise scale."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive_int
from l2o.inspect.vectors import Tree, widen


class GradientMoments(NamedTuple):
    """Moments of the gradient over examples: trees like the parameters."""

    mean: Tree
    variance: Tree  # unbiased: the sum of squares is divided by examples - 1
    second: Tree  # the mean of squares


class NoiseScale(NamedTuple):
    """Estimates of the gradient noise scale: scalars."""

    gradient_square: jax.Array  # |G|^2 of the true gradient; unbiased, may be negative
    trace: jax.Array  # of the covariance of one example's gradient; unbiased
    scale: jax.Array  # trace / gradient_square, in examples; a ratio, so biased


def per_example_gradients(
    loss: Callable[..., jax.Array], params: Tree, *batch: Any
) -> Tree:
    """The gradient of the loss of each example.

    Args:
        loss: `(params, *example) -> scalar`, of one example.
        params: where the gradients are taken.
        *batch: examples `[examples, ...]`, arrays or trees of them.

    Returns:
        A tree like `params`, each leaf with a leading axis `[examples]`.
    """
    gradient = jax.grad(lambda p, example: loss(p, *example))
    return jax.vmap(gradient, in_axes=(None, 0))(params, batch)


def per_example_norms(gradients: Tree) -> jax.Array:
    """Euclidean norms over all parameters, `[examples]`.

    Args:
        gradients: what `per_example_gradients` gives.
    """
    return jax.vmap(optax.tree.norm)(widen(gradients))


def gradient_moments(gradients: Tree) -> GradientMoments:
    r"""Mean, variance and second moment of each entry of the gradient.

    $$ \bar g = \frac1n \sum_i g_i, \qquad
       \frac{1}{n-1} \sum_i (g_i - \bar g)^2, \qquad
       \frac1n \sum_i g_i^2 $$

    Args:
        gradients: what `per_example_gradients` gives, of 2 examples or more.

    Returns:
        Three trees like the parameters, at least float32.

    Raises:
        ValueError: there is only one example.
    """
    _count_examples(gradients)
    gradients = widen(gradients)
    return GradientMoments(
        mean=jax.tree.map(lambda g: g.mean(axis=0), gradients),
        variance=jax.tree.map(lambda g: g.var(axis=0, ddof=1), gradients),
        second=jax.tree.map(lambda g: jnp.square(g).mean(axis=0), gradients),
    )


def gradient_noise_scale(gradients: Tree) -> NoiseScale:
    r"""The noise scale of the gradients of n examples.

    $$ \mathrm{tr} \Sigma \approx \frac{1}{n-1} \sum_i |g_i - \bar g|^2, \qquad
       |G|^2 \approx |\bar g|^2 - \frac1n \mathrm{tr} \Sigma, \qquad
       B = \frac{\mathrm{tr} \Sigma}{|G|^2} $$

    These are the estimates of `noise_scale_of_batches` for batches of 1 and n, without
    its cancellation. Batches much smaller than B are mostly noise, in batches much
    larger most examples are redundant.

    The square of the gradient is estimated badly where B is far above n, and may then
    be negative: over a run, average the two estimates and divide the averages.

    Args:
        gradients: what `per_example_gradients` gives, of 2 examples or more.

    Returns:
        Scalars; `scale` is not finite where the estimated square is zero.

    Raises:
        ValueError: there is only one example.

    Source: McCandlish et al. 2018, "An empirical model of large-batch training", arXiv
    1812.06162, appendix A.1.
    """
    examples = _count_examples(gradients)
    moments = gradient_moments(gradients)
    trace = jnp.asarray(optax.tree.sum(moments.variance))
    square = optax.tree.norm(moments.mean, squared=True) - trace / examples
    return NoiseScale(square, trace, trace / square)


def noise_scale_of_batches(
    small_square: jax.Array | float,
    large_square: jax.Array | float,
    small: int,
    large: int,
) -> NoiseScale:
    r"""The noise scale of gradients of batches of two sizes, b < B.

    $$ |G|^2 \approx \frac{B |G_B|^2 - b |G_b|^2}{B - b}, \qquad
       \mathrm{tr} \Sigma \approx \frac{|G_b|^2 - |G_B|^2}{1/b - 1/B} $$

    With many devices both come for free: b examples make the gradient of one device, B
    that of all.

    Args:
        small_square: $|G_b|^2$, a scalar, or its mean over batches.
        large_square: $|G_B|^2$, likewise.
        small: b, in examples.
        large: B, in examples.

    Returns:
        Scalars, as of `gradient_noise_scale`.

    Raises:
        ValueError: not 1 <= small < large.

    Source: McCandlish et al. 2018, arXiv 1812.06162, appendix A.1.
    """
    require_positive_int("small", small)
    require_positive_int("large", large)
    if small >= large:
        raise ValueError(f"small must be below large = {large}, got {small}")
    below, above = jnp.asarray(small_square), jnp.asarray(large_square)
    square = (large * above - small * below) / (large - small)
    trace = (below - above) / (1 / small - 1 / large)
    return NoiseScale(square, trace, trace / square)


def _count_examples(gradients: Tree) -> int:
    """The size of the leading axis; raises ValueError below 2."""
    examples = jax.tree.leaves(gradients)[0].shape[0]
    if examples < 2:
        raise ValueError(f"gradients must be of 2 examples or more, got {examples}")
    return examples
