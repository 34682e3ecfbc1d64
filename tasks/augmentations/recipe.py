"""Mixtures of augmentations: which of them a configuration gets, by chance."""

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from tasks.augmentations.base import traits
from tasks.augmentations.evolution import EvolutionGradient
from tasks.augmentations.gradients import (
    DelayGradient,
    NormaliseGradient,
    SubsampleDirections,
)
from tasks.augmentations.objective import ReduceBatch
from tasks.augmentations.parameters import LowPrecision, Reparametrise
from tasks.base import TaskFamily
from tasks.parametric import Choice, OneOf


class Part(NamedTuple):
    """One augmentation of a recipe.

    Attributes:
        make: `(inner, **fields) -> TaskFamily`, the augmentation's class.
        probability: that it is applied.
        fields: by name of a static field, what to draw; other values are passed as
            they are.
        applies: whether a family can be augmented so; others are left as they are.
    """

    make: Callable[..., TaskFamily]
    probability: float
    fields: Mapping[str, Any] = {}
    applies: Callable[[TaskFamily], bool] = lambda family: True


def _has_examples(family: TaskFamily) -> bool:
    known = traits(family)
    return known is not None and known.examples


def _has_no_source(family: TaskFamily) -> bool:
    known = traits(family)
    return known is not None and not known.source


VELO = (
    Part(
        Reparametrise,
        5 / 7,
        {
            "level": OneOf(("global", "global", "tensor", "tensor", "parameter")),
            "scale": OneOf(((1e-3, 1e3), (1e-2, 1e2), (0.1, 10.0))),
        },
    ),
    Part(
        EvolutionGradient,
        0.08,
        {"std": (1e-3, 0.1), "pairs": (1, 16)},
        applies=_has_no_source,
    ),
    Part(ReduceBatch, 0.2, {"fraction": (0.01, 1.0)}, applies=_has_examples),
    Part(LowPrecision, 0.2),
    Part(NormaliseGradient, 0.05),
    Part(
        SubsampleDirections,
        0.08,
        {"directions": (1, 1024), "sign": OneOf((True, False))},
    ),
    Part(DelayGradient, 0.05, {"longest": 8}),
)
"""The augmentations of VeLO's tasks (Metz et al. 2022, their published code).

The innermost first. What may vary within one program is drawn there once for every
configuration and here for every task, from the same ranges.
"""


def draw(
    key: jax.Array, inner: TaskFamily, recipe: tuple[Part, ...] = VELO
) -> TaskFamily:
    """Applies each augmentation of a recipe with its probability.

    Args:
        key: the same key draws the same.
        inner: what is augmented.
        recipe: the innermost first.

    Returns:
        A family: one program, for all tasks that it samples.
    """
    # Not jax.random, whose calls for single numbers take a thousand times as long.
    rng = random.Random(jax.random.key_data(key).tobytes())
    family = inner
    for part in recipe:
        chance = rng.random()
        fields = {
            name: value.draw(rng) if isinstance(value, Choice) else value
            for name, value in part.fields.items()
        }
        if chance < part.probability and part.applies(family):
            family = part.make(family, **fields)
    return family
