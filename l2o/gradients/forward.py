"""The gradient by forward-mode differentiation along random directions."""

from typing import Any

import jax
import jax.numpy as jnp

from l2o.config import require_positive_int
from l2o.gradients.base import (
    Distribution,
    GradientFunction,
    Loss,
    Params,
    as_loss,
    draw_like,
    require_distribution,
)


def forward_gradient(
    function: Any,
    loss: Loss | None = None,
    *,
    tangents: int = 1,
    distribution: Distribution = "gaussian",
    together: int = 8,
) -> GradientFunction:
    r"""The mean of directional derivatives times their directions.

    $$ \frac1n \sum_{i=1}^n v_i\, (v_i^\top \nabla L), \qquad
       v_i \sim N(0, I) \ \text{or} \ \pm 1 $$

    Unbiased. An entry has variance $(|\nabla L|^2 \pm (\nabla L)_j^2) / n$, with plus
    for Gaussian and minus for Rademacher directions: it grows with the number of
    parameters. There is no reverse pass, so that no activation is kept: what is needed
    beside the parameters does not grow with depth.

    Args:
        function: the loss `(params, *args) -> scalar`, or a flax model.
        loss: of the model's outputs, `(outputs, *targets) -> scalar`.
        tangents: n.
        distribution: of the entries of $v_i$: `gaussian` or `rademacher`.
        together: at most as many tangents share one evaluation of the loss and are in
            memory at a time.

    Returns:
        `(params, key, *args) -> (value, grads)`, the value being exact.

    Source: Baydin et al. 2022, "Gradients without backpropagation", arXiv 2202.08587.
    """
    require_positive_int("tangents", tangents)
    require_positive_int("together", together)
    require_distribution(distribution)
    of_params = as_loss(function, loss)
    side_by_side = max(n for n in range(1, together + 1) if tangents % n == 0)

    def gradient(
        params: Params, key: jax.Array, *args: Any
    ) -> tuple[jax.Array, Params]:
        def add(total: Params, keys: jax.Array) -> tuple[Params, jax.Array]:
            # Else XLA moves the loss itself, which depends on no key, out of this loop,
            # and keeps all its activations.
            at, keys = jax.lax.optimization_barrier((params, keys))

            def one(key: jax.Array) -> tuple[jax.Array, Params]:
                tangent = draw_like(key, at, distribution)
                value, slope = jax.jvp(lambda p: of_params(p, *args), (at,), (tangent,))
                scaled = lambda t: (slope * t).astype(t.dtype)
                return value, jax.tree.map(scaled, tangent)

            # For these it is evaluated once.
            value, grads = jax.vmap(one, out_axes=(None, 0))(keys)
            return jax.tree.map(lambda t, g: t + g.sum(axis=0), total, grads), value

        keys = jax.random.split(key, (tangents // side_by_side, side_by_side))
        total, values = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), keys)
        return values[0], jax.tree.map(lambda t: t / tangents, total)

    return gradient
