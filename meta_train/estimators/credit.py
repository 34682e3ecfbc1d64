"""Which noise is credited for the loss of a window: what tells the methods apart."""

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Credited(NamedTuple):
    """The noise of one pair in one window; each of shape `[size of theta]`."""

    noise: jax.Array  # added to and subtracted from theta
    credit: jax.Array  # multiplies the difference of losses
    memory: jax.Array  # carried to the next window


class Credit(abc.ABC):
    """Rule for the noise of a window, given that of the windows before it."""

    @abc.abstractmethod
    def assign(
        self, memory: jax.Array, fresh: jax.Array, restarted: jax.Array
    ) -> Credited:
        """Chooses noise and credit.

        Args:
            memory: `[size]`, from the last window; zeros at first.
            fresh: `[size]`, noise drawn for this window.
            restarted: scalar bool: the problem begins with this window.

        Returns:
            Noise, credit and memory.
        """


@dataclasses.dataclass(frozen=True)
class Fresh(Credit):
    """Noise is drawn for each window and credited for that window alone.

    Truncated evolution strategies: biased, since what earlier noise did to the state is
    nobody's. With windows as long as the problem it is full evolution strategies.
    """

    def assign(
        self, memory: jax.Array, fresh: jax.Array, restarted: jax.Array
    ) -> Credited:
        del restarted  # Nothing is carried over.
        return Credited(noise=fresh, credit=fresh, memory=memory)


@dataclasses.dataclass(frozen=True)
class Persistent(Credit):
    """Noise is drawn for each window; a loss is credited to all noise since the start.

    Persistent evolution strategies (Vicol et al. 2021, arXiv 2112.13835): unbiased.
    """

    def assign(
        self, memory: jax.Array, fresh: jax.Array, restarted: jax.Array
    ) -> Credited:
        total = jnp.where(restarted, 0.0, memory) + fresh
        return Credited(noise=fresh, credit=total, memory=total)


CREDITS: dict[str, type[Credit]] = {"fresh": Fresh, "persistent": Persistent}
