"""Learning rates over a training of any length, as shares of the peak."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax


Shape = Callable[[Any], jax.Array]
"""`(share of the training that is done) -> share of the peak learning rate`."""

WARM_UP = 0.05
"""Share of a training in which a learning rate rises, where it does."""

# optax checks and counts whole steps, which a traced length of a training does not
# allow: these are schedules of so many steps, read at a share of them.
_STEPS = 10_000


def _of_steps(schedule: optax.Schedule) -> Shape:
    return lambda done: schedule(_STEPS * done)  # type: ignore[return-value]


SHAPES: Mapping[str, Shape] = {
    "constant": _of_steps(optax.constant_schedule(1.0)),
    "cosine": _of_steps(optax.cosine_decay_schedule(1.0, _STEPS)),
    "warmup": _of_steps(
        optax.linear_schedule(1.0 / (WARM_UP * _STEPS), 1.0, int(WARM_UP * _STEPS))
    ),
    "warmup_cosine": _of_steps(
        optax.warmup_cosine_decay_schedule(
            1.0 / (WARM_UP * _STEPS), 1.0, int(WARM_UP * _STEPS), _STEPS
        )
    ),
    "onecycle": _of_steps(optax.cosine_onecycle_schedule(_STEPS, 1.0)),
}
"""What a learning rate does.

It is constant; falls to zero along half a cosine; rises linearly over `WARM_UP`, then
is constant or falls so; or makes one cycle (Smith and Topin 2018), from 1/25 up over
30 % of the training and down to almost zero, both along half a cosine.
"""
