"""Contenders made of others: a multiplier to tune, a guard."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.safeguard import guard, guard_summary
from meta_test.baselines import Range
from meta_test.inner_loop import Hyper, MakeOptimizer
from meta_test.optimizers import Contender, Scheduled, baseline


MULTIPLIER = "multiplier"
"""What multiplies the updates of an optimizer that has no learning rate."""

AROUND_ONE = Range(10**-1.5, 10**1.5)
"""Where the multiplier of a learned optimizer is searched for."""


@dataclasses.dataclass(frozen=True)
class Multiplied:
    """An optimizer whose updates are multiplied.

    Attributes:
        make: gives it.
    """

    make: MakeOptimizer

    def __call__(
        self, hyper: Mapping[str, Any], num_steps: jax.Array
    ) -> optax.GradientTransformation:
        """The optimizer for one candidate and multiplier."""
        inner = self.make(hyper["candidate"], num_steps)
        return optax.chain(inner, optax.scale(hyper[MULTIPLIER]))


def with_multiplier(contender: Contender, count: int) -> Contender:
    """A learned optimizer whose updates may be scaled: one thing to tune.

    Args:
        contender: what `learned` gave.
        count: so many multipliers are tried, spread over `AROUND_ONE`.
    """
    factors = [float(f"{x:.2g}") for x in AROUND_ONE.at(np.linspace(0, 1, count))]
    return dataclasses.replace(
        contender,
        name=f"{contender.name} x rate",
        make=Multiplied(contender.make),
        candidates={
            "candidate": jax.tree.map(
                lambda x: jnp.repeat(x, count, axis=0), contender.candidates
            ),
            MULTIPLIER: jnp.asarray(factors, jnp.float32),
        },
        labels=tuple(f"{factor:g}" for factor in factors),
        variant_of=contender.name,
    )


FALLBACK_RATE = 0.003
"""The peak learning rate of the Adam that guards fall back to: a usual one, untuned."""

FALLBACK = f"adam at {FALLBACK_RATE:g}"
"""What it is called where it takes part alone."""


@dataclasses.dataclass(frozen=True)
class Guarded:
    """An optimizer under `l2o.guard`, with Adam under a cosine to fall back to.

    Attributes:
        make: gives it.
    """

    make: MakeOptimizer

    def __call__(
        self, hyper: Hyper, num_steps: jax.Array
    ) -> optax.GradientTransformation:
        """The guarded optimizer for one candidate and length of training."""
        own = Scheduled(optax.adam)(jnp.float32(FALLBACK_RATE), num_steps)
        return guard(self.make(hyper, num_steps), own, num_steps=num_steps)


def decisions(state: Any) -> dict[str, jax.Array]:
    """What the guard decided: `Contender.summarised` of guarded optimizers."""
    return guard_summary(state)._asdict()


def guarded(contender: Contender) -> Contender:
    """A learned optimizer under a guard.

    Args:
        contender: what `learned` gave.
    """
    return dataclasses.replace(
        contender,
        name=f"{contender.name} guarded",
        make=Guarded(contender.make),
        summarised=decisions,
        variant_of=contender.name,
    )


def fallback() -> Contender:
    """What guards fall back to, alone."""
    return dataclasses.replace(baseline("adam", [FALLBACK_RATE]), name=FALLBACK)
