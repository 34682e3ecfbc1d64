"""What a guard decided, in arrays of a state and in words."""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Reason(enum.IntEnum):
    """Why a guard decided as it did."""

    WON = 1  # the race: the learned optimizer goes on
    LOST = 2  # the race
    ROSE = 3  # the losses of a window, above those of the best one
    STALLED = 4  # no sign of progress
    NOT_FINITE = 5  # losses or gradients, twice in a row
    REFUSED = 6  # an update that is not finite, or out of proportion
    RETURNED = 7  # to the learned optimizer's best, which the fallback did not reach


class Events(NamedTuple):
    """What a guard decided."""

    switches: jax.Array  # shape=(), dtype=jnp.int32: to the fallback, so 0 or 1
    made: jax.Array  # shape=(), dtype=jnp.int32: decisions; the last ones are kept
    steps: jax.Array  # shape=(remembered,), dtype=jnp.int32: decision i at i modulo it
    reasons: jax.Array  # shape=(remembered,), dtype=jnp.int32: of `Reason`; 0 for none
    skipped: jax.Array  # shape=(), dtype=jnp.int32: steps not made, for what they saw


class GuardEvent(NamedTuple):
    """A decision.

    Attributes:
        step: the call of `update`, from 0, that made it.
        reason: the name of a `Reason`, in lower case.
    """

    step: int
    reason: str


def no_events(remembered: int) -> Events:
    """Of a guard that has decided nothing."""
    # An array for every field: a state may be donated, and a buffer only once.
    zero = lambda: jnp.zeros((), jnp.int32)
    none = lambda: jnp.zeros((remembered,), jnp.int32)
    return Events(zero(), zero(), none(), none(), zero())


def noted(
    events: Events,
    step: jax.Array,
    reason: jax.Array,
    falls: jax.Array,
    skipped: jax.Array,
) -> Events:
    """The events after a call of `update`.

    Args:
        events: before it.
        step: which call it was.
        reason: of what it decided; 0 if nothing.
        falls: whether the fallback took over.
        skipped: whether no step was made.
    """
    decided = reason > 0
    place = events.made % len(events.steps)
    return Events(
        switches=events.switches + falls,
        made=events.made + decided,
        steps=events.steps.at[place].set(jnp.where(decided, step, events.steps[place])),
        reasons=events.reasons.at[place].set(
            jnp.where(decided, reason, events.reasons[place])
        ),
        skipped=events.skipped + skipped,
    )


def listed(events: Events) -> tuple[GuardEvent, ...]:
    """The decisions that are remembered, in their order; of one training."""
    count, kept = int(events.made), len(np.asarray(events.steps))
    places = [i % kept for i in range(max(0, count - kept), count)]
    return tuple(
        GuardEvent(int(events.steps[i]), Reason(int(events.reasons[i])).name.lower())
        for i in places
    )
