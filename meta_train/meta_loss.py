"""Meta-losses: one number for the losses of a window."""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from l2o.config import require_positive, require_range
from meta_train.unroll import WindowLosses


class MetaLoss(abc.ABC):
    """Turns the normalised losses of a window into what meta-training minimises."""

    @abc.abstractmethod
    def __call__(self, losses: WindowLosses) -> jax.Array:
        """The meta-loss of one problem's window, not finite where a loss is not."""


@dataclasses.dataclass(frozen=True)
class Mean(MetaLoss):
    """The mean training loss: rewards an early fall, hardly notices the last digits."""

    def __call__(self, losses: WindowLosses) -> jax.Array:
        return jnp.mean(losses.train)


@dataclasses.dataclass(frozen=True)
class LogMean(MetaLoss):
    r"""Logarithms of the training and the held-out loss, so that each halving counts.

    $$ (1 - w)\, \mathrm{mean}_t \log(L_t + f) + w \log(V + f) $$

    with the training losses $L_t$ and the held-out loss V after the window.

    Attributes:
        floor: f; losses well below it are all as good.
        held_out: w, between 0 and 1.
    """

    floor: float = 1e-3
    held_out: float = 0.0

    def __post_init__(self) -> None:
        require_positive("floor", self.floor)
        require_range("held_out", self.held_out, 0.0, 1.0)

    def __call__(self, losses: WindowLosses) -> jax.Array:
        def log(loss: jax.Array) -> jax.Array:
            # A loss below zero, as noise can make it, counts as zero.
            return jnp.log(jnp.maximum(loss, 0.0) + self.floor)

        train = jnp.mean(log(losses.train))
        if self.held_out == 0.0:
            # Not a product with zero, which a loss that is not finite would survive.
            return train
        return (1.0 - self.held_out) * train + self.held_out * log(losses.held_out)


META_LOSSES: dict[str, type[MetaLoss]] = {"mean": Mean, "log_mean": LogMean}
