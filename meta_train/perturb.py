"""Antithetic perturbation: the one place where the formula stands."""

import jax
import jax.numpy as jnp


def sample_noise(key: jax.Array, size: int, sigma: float) -> jax.Array:
    """Isotropic Gaussian noise of deviation `sigma`, shape `[size]`."""
    return sigma * jax.random.normal(key, (size,))


def antithetic_points(theta: jax.Array, noise: jax.Array) -> jax.Array:
    """`[2, size]`: theta plus and minus the noise."""
    return jnp.stack([theta + noise, theta - noise])


def antithetic_gradient(
    credit: jax.Array, loss_plus: jax.Array, loss_minus: jax.Array, sigma: float
) -> jax.Array:
    r"""One pair's contribution to the meta-gradient.

    $$ \frac{1}{2\sigma^2} \, c \, (L(\theta + \epsilon) - L(\theta - \epsilon)) $$

    With the credit c equal to the noise $\epsilon$ this is the antithetic
    evolution-strategies estimate of the gradient of the smoothed loss
    $E_{\epsilon \sim N(0, \sigma^2)}[L(\theta + \epsilon)]$; methods that unroll in
    windows differ in what noise they credit for a window's loss.

    Args:
        credit: `[size]`.
        loss_plus: scalar, the loss at theta + noise.
        loss_minus: scalar, the loss at theta - noise.
        sigma: deviation of the noise.

    Returns:
        `[size]`; the mean over pairs is the estimate.
    """
    return credit * ((loss_plus - loss_minus) / (2.0 * sigma**2))
