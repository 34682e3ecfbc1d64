"""The gradient from differences of losses alone."""

from typing import Any

import jax
import jax.numpy as jnp

from l2o.config import require_positive, require_positive_int
from l2o.gradients.base import GradientFunction, Loss, Params, as_loss, draw_like


def evolution_strategies(
    function: Any, loss: Loss | None = None, *, std: float = 0.01, pairs: int = 16
) -> GradientFunction:
    r"""Antithetic evolution strategies.

    $$ \frac1n \sum_{i=1}^n z_i\,
       \frac{L(w + \sigma z_i) - L(w - \sigma z_i)}{2 \sigma} $$

    with standard normal $z_i$ is an unbiased estimate of the gradient of the smoothed
    loss $E\, L(w + \sigma z)$; of a quadratic that is the gradient itself. Its noise
    grows with the number of parameters. The value is the mean of the 2 n evaluations,
    an unbiased estimate of the smoothed loss.

    Args:
        function: the loss `(params, *args) -> scalar`, or a flax model.
        loss: of the model's outputs, `(outputs, *targets) -> scalar`.
        std: $\sigma$, in units of the parameters.
        pairs: n.

    Returns:
        `(params, key, *args) -> (value, grads)`.

    Source: Salimans et al. 2017, "Evolution strategies as a scalable alternative to
    reinforcement learning", arXiv 1703.03864.
    """
    require_positive("std", std)
    require_positive_int("pairs", pairs)
    of_params = as_loss(function, loss)

    def gradient(
        params: Params, key: jax.Array, *args: Any
    ) -> tuple[jax.Array, Params]:
        def add(sums: Any, key: jax.Array) -> tuple[Any, None]:
            noise = draw_like(key, params, "gaussian")

            def evaluate(offset: jax.Array) -> jax.Array:
                moved = jax.tree.map(
                    lambda p, z: p + offset.astype(p.dtype) * z, params, noise
                )
                return of_params(moved, *args)

            # Both signs in one: the loss is compiled once.
            plus, minus = jax.vmap(evaluate)(jnp.array([std, -std], jnp.float32))
            value, total = sums
            difference = plus - minus
            total = jax.tree.map(
                lambda t, z: t + (difference * z).astype(t.dtype), total, noise
            )
            return (value + plus + minus, total), None

        zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        (value, total), _ = jax.lax.scan(add, zeros, jax.random.split(key, pairs))
        evaluations = 2 * pairs
        return value / evaluations, jax.tree.map(
            lambda t: t / (evaluations * std), total
        )

    return gradient
