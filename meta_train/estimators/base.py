"""The contract of meta-gradient estimators."""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh


class MetaGradient(NamedTuple):
    """An estimate of the gradient of the meta-loss, and what is known about it."""

    gradient: jax.Array  # shape=(size of theta,), dtype=jnp.float32
    meta_loss: jax.Array  # shape=(): mean over the particles whose loss is finite
    valid: jax.Array  # shape=(), int32: contributions that counted
    # Units with something that is not finite; they may count, where losses have a cap.
    non_finite: jax.Array  # shape=(), int32
    restarts: jax.Array  # shape=(), int32: problems that began with this estimate
    inner_steps: jax.Array  # shape=(), int32: made for it, over all particles


class GradientEstimator(abc.ABC):
    """Estimates a meta-gradient from unrolls of one family's problems.

    Theta is one flat vector here: noise, credit and sums are then single arrays, and a
    collective moves one of them instead of twenty.

    Attributes:
        mesh: the devices that it computes on.
    """

    mesh: Mesh

    @abc.abstractmethod
    def init(self, theta: jax.Array, key: jax.Array) -> Any:
        """State of all particles before the first window."""

    @abc.abstractmethod
    def estimate(
        self, theta: jax.Array, state: Any, key: jax.Array, outer_step: jax.Array
    ) -> tuple[MetaGradient, Any]:
        """Moves every particle on.

        Args:
            theta: `[size]`.
            state: from `init` or the last call.
            key: of this call.
            outer_step: int32, for schedules that move.

        Returns:
            The estimate and the next state.
        """


def fixed_order_sum(rows: jax.Array, unroll: int = 1) -> jax.Array:
    """Sums over the leading axis one row after another.

    The order of a plain sum is up to the compiler and changes with the number of
    devices, and with it the last bits of theta.

    Args:
        rows: `[n, ...]`.
        unroll: how many are added in one go of a loop, in the same order.
    """
    zero = jnp.zeros(rows.shape[1:], rows.dtype)
    add = lambda total, row: (total + row, None)
    return jax.lax.scan(add, zero, rows, unroll=unroll)[0]
