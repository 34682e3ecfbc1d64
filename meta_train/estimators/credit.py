"""Which noise is credited for the loss of a window: what tells the methods apart."""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Credited(NamedTuple):
    """The noise of one unit in one window."""

    noise: Any  # [size of theta], added to and subtracted from theta
    credit: Any  # [size], multiplies the difference of losses
    memory: Any  # carried to the next window; as `Credit.init` gives it


class Credit(abc.ABC):
    """Rule for the noise of a window, given that of the windows before it."""

    @abc.abstractmethod
    def init(self, theta: jax.Array) -> Any:
        """The memory before the first window."""

    @abc.abstractmethod
    def assign(self, memory: Any, fresh: jax.Array, restarted: jax.Array) -> Credited:
        """Chooses noise and credit.

        Args:
            memory: from the last window, or `init`.
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

    def init(self, theta: jax.Array) -> Any:
        del theta  # Nothing is remembered.
        return ()

    def assign(self, memory: Any, fresh: jax.Array, restarted: jax.Array) -> Credited:
        del restarted  # Nothing is carried over.
        return Credited(noise=fresh, credit=fresh, memory=memory)


@dataclasses.dataclass(frozen=True)
class Persistent(Credit):
    """Noise is drawn for each window; a loss is credited to all noise since the start.

    Persistent evolution strategies (Vicol et al. 2021, arXiv 2112.13835): unbiased.
    """

    def init(self, theta: jax.Array) -> Any:
        return jnp.zeros_like(theta)

    def assign(self, memory: Any, fresh: jax.Array, restarted: jax.Array) -> Credited:
        total = jnp.where(restarted, 0.0, memory) + fresh
        return Credited(noise=fresh, credit=total, memory=total)


@dataclasses.dataclass(frozen=True)
class Reused(Credit):
    """Noise is drawn for each problem, kept for all its windows, and credited for them.

    Noise-reuse evolution strategies (Li et al. 2023, arXiv 2304.12180): unbiased,
    and mostly with less variance than `Persistent`, whose credit grows with every
    window.
    """

    def init(self, theta: jax.Array) -> Any:
        return jnp.zeros_like(theta)

    def assign(self, memory: Any, fresh: jax.Array, restarted: jax.Array) -> Credited:
        noise = jnp.where(restarted, fresh, memory)
        return Credited(noise=noise, credit=noise, memory=noise)


CREDITS: dict[str, type[Credit]] = {
    "fresh": Fresh,
    "persistent": Persistent,
    "reused": Reused,
}
