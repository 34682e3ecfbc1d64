"""Meta-losses: one number for the training losses of a window."""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from l2o.config import require_positive


class MetaLoss(abc.ABC):
    """Turns the normalised losses of a window into what meta-training minimises."""

    @abc.abstractmethod
    def __call__(self, losses: jax.Array) -> jax.Array:
        """The meta-loss of a window.

        Args:
            losses: `[window]`, normalised, before each inner step.

        Returns:
            A scalar, not finite where a loss is not.
        """


@dataclasses.dataclass(frozen=True)
class Mean(MetaLoss):
    """The mean loss: rewards an early fall, and hardly notices the last digits."""

    def __call__(self, losses: jax.Array) -> jax.Array:
        return jnp.mean(losses)


@dataclasses.dataclass(frozen=True)
class LogMean(MetaLoss):
    """The mean of log(loss + floor): each halving of the loss counts the same.

    Attributes:
        floor: losses well below this are all as good.
    """

    floor: float = 1e-3

    def __post_init__(self) -> None:
        require_positive("floor", self.floor)

    def __call__(self, losses: jax.Array) -> jax.Array:
        # A loss below zero, as noise can make it, counts as zero.
        return jnp.mean(jnp.log(jnp.maximum(losses, 0.0) + self.floor))


META_LOSSES: dict[str, type[MetaLoss]] = {"mean": Mean, "log_mean": LogMean}
