"""Sources by name, with their settings: what configs and commands choose from."""

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from l2o.config import nearest, override
from l2o.gradients.activity import activity_perturbation
from l2o.gradients.backpropagation import backprop
from l2o.gradients.base import GradientFunction, Loss
from l2o.gradients.evolution import evolution_strategies
from l2o.gradients.feedback import feedback_alignment
from l2o.gradients.forward import forward_gradient


SOURCES: Mapping[str, Callable[..., GradientFunction]] = {
    "backprop": backprop,
    "forward_gradient": forward_gradient,
    "activity_perturbation": activity_perturbation,
    "feedback_alignment": feedback_alignment,
    "evolution_strategies": evolution_strategies,
}
"""Functions of a loss, or of a flax model and a loss, and of settings."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A gradient source with settings; hashable, and equal by value.

    Attributes:
        name: a key of `SOURCES`.
        settings: (keyword, value) of that function.
    """

    name: str = "backprop"
    settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in SOURCES:
            raise ValueError(
                f"a gradient source must be one of {', '.join(SOURCES)}, "
                f"got {self.name!r}{nearest(self.name, SOURCES)}"
            )
        parameters = inspect.signature(SOURCES[self.name]).parameters.values()
        known = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
        for name, _ in self.settings:
            if name not in known:
                raise ValueError(
                    f"settings of {self.name} must be among {', '.join(known)}, "
                    f"got {name!r}{nearest(name, known)}"
                )
        # Values are checked before any loss is at hand.
        self(types.SimpleNamespace(apply=None), _NO_LOSS)

    @property
    def needs_examples(self) -> bool:
        """Whether the loss must be a mean over examples, as arrays' leading axis."""
        parts = dict(self.settings).get("microbatches", 1)
        return self.name == "activity_perturbation" or parts > 1

    def __call__(self, function: Any, loss: Loss | None = None) -> GradientFunction:
        """The gradient function of a loss, or of a flax model and a loss."""
        return SOURCES[self.name](function, loss, **dict(self.settings))

    def __str__(self) -> str:
        settings = ",".join(f"{name}={value}" for name, value in self.settings)
        return f"{self.name}:{settings}" if settings else self.name


_NO_LOSS: Any = lambda *args: 0.0
"""Stands for a loss that is never called."""


def source(name: str, **settings: Any) -> Source:
    """A gradient source by its name.

    Args:
        name: a key of `SOURCES`.
        **settings: keywords of that function.

    Raises:
        ValueError: there is no such source, or no such setting, or a value is refused.
    """
    return Source(name, tuple(sorted(settings.items())))


def parse(text: str) -> Source:
    """A source from `NAME` or `NAME:setting=value,setting=value`, as commands take it.

    Raises:
        ValueError: as `source`; or a setting has no value.
    """
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for assignment in filter(None, rest.split(",")):
        if "=" not in assignment:
            raise ValueError(
                f"settings of a gradient source must be name=value, got {assignment!r}"
            )
        settings = override(settings, assignment)
    return source(name, **settings)
