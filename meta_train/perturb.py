"""Antithetic perturbation: the one place where the formula stands."""

import dataclasses
import fnmatch
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp

from l2o.config import nearest, require_positive, require_range
from l2o.learned.base import LearnedOptimizer, tensors_by_path


@dataclasses.dataclass(frozen=True)
class Gaussian:
    r"""Noise $N(0, \mathrm{diag}(\sigma^2))$ on theta: isotropic, or by tensor.

    Attributes:
        sigma: deviation, in units of theta.
        tensors: (pattern, deviation) of tensors with another one; 0 leaves a tensor
            as it is. A pattern is matched against paths like `lstm/w0`, with `*` for
            anything; the last that matches counts.
    """

    sigma: float = 0.01
    tensors: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        require_positive("sigma", self.sigma)
        for pattern, sigma in self.tensors:
            require_range(f"sigma of {pattern}", sigma, 0.0, 1e6)

    def deviations(self, lopt: LearnedOptimizer) -> jax.Array:
        """A scalar, or `[size]` where tensors differ."""
        if not self.tensors:
            return jnp.float32(self.sigma)
        return by_tensor(lopt, self.sigma, self.tensors)

    def sample(self, lopt: LearnedOptimizer, key: jax.Array, size: int) -> jax.Array:
        """Draws noise, shape `[size]`."""
        return self.deviations(lopt) * jax.random.normal(key, (size,))

    def precision(self, lopt: LearnedOptimizer) -> jax.Array:
        r"""$1 / \sigma^2$, shaped as `deviations`; 0 where there is no noise."""
        variance = self.deviations(lopt) ** 2
        return jnp.where(variance > 0.0, 1.0 / jnp.maximum(variance, 1e-30), 0.0)


def by_tensor(
    lopt: LearnedOptimizer, default: float, values: Sequence[tuple[str, float]]
) -> jax.Array:
    """A vector `[size of theta]` that is constant on every tensor.

    Args:
        lopt: the architecture.
        default: value of the tensors that no pattern matches.
        values: (pattern, value); the last pattern that matches a tensor's path counts.

    Raises:
        ValueError: a pattern matches nothing.
    """
    shapes = shapes_by_path(lopt)
    chosen = dict.fromkeys(shapes, default)
    for pattern, value in values:
        chosen |= dict.fromkeys(matching(shapes, pattern), value)
    return jnp.concatenate(
        [
            jnp.full((leaf.size,), chosen[path], jnp.float32)
            for path, leaf in shapes.items()
        ]
    )


def matching(paths: Collection[str], pattern: str) -> list[str]:
    """Those paths of tensors of theta that a pattern means.

    Raises:
        ValueError: there are none.
    """
    found = [path for path in paths if fnmatch.fnmatchcase(path, pattern)]
    if not found:
        raise ValueError(
            f"a pattern must match a tensor of theta, one of {', '.join(paths)}, "
            f"got {pattern!r}{nearest(pattern, paths)}"
        )
    return found


def shapes_by_path(lopt: LearnedOptimizer) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the tensors of theta, by path."""
    return tensors_by_path(jax.eval_shape(lopt.init_theta, jax.random.key(0)))


def antithetic_points(theta: jax.Array, noise: jax.Array) -> jax.Array:
    """`[2, size]`: theta plus and minus the noise."""
    return jnp.stack([theta + noise, theta - noise])


def antithetic_gradient(
    credit: jax.Array, difference: jax.Array, precision: jax.Array
) -> jax.Array:
    r"""One pair's contribution to the meta-gradient.

    $$ \frac{1}{2\sigma^2} \, c \, (L(\theta + \epsilon) - L(\theta - \epsilon)) $$

    With the credit c equal to the noise $\epsilon$ this is the antithetic
    evolution-strategies estimate of the gradient of the smoothed loss
    $E_{\epsilon \sim N(0, \sigma^2)}[L(\theta + \epsilon)]$; methods that unroll in
    windows differ in what noise they credit for a window's loss.

    Args:
        credit: `[size]`.
        difference: scalar, the loss at theta + noise less that at theta - noise, or
            what is made of it.
        precision: `[size]` or scalar, 1 / sigma^2.

    Returns:
        `[size]`; the mean over pairs is the estimate.
    """
    return credit * (0.5 * difference * precision)
