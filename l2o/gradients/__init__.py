"""Where gradients come from: sources that turn a loss into a gradient function.

    gradient = l2o.gradients.forward_gradient(loss, tangents=8)
    value, grads = gradient(params, key, *args)

Every source takes a loss `(params, *args) -> scalar`, or a flax model and a loss of its
outputs, and gives a function with that signature: the key is the source's randomness,
`grads` is what an optax optimizer is fed. `SOURCES` has them by name.

Names are imported at first use: flax is loaded by those that look into a model only.
"""

from typing import TYPE_CHECKING, Any

from l2o import lazy


if TYPE_CHECKING:
    from l2o.gradients.activity import activity_perturbation
    from l2o.gradients.backpropagation import backprop
    from l2o.gradients.base import angle
    from l2o.gradients.evolution import evolution_strategies
    from l2o.gradients.feedback import feedback_alignment
    from l2o.gradients.forward import forward_gradient
    from l2o.gradients.registry import SOURCES, parse, source

__all__ = [
    "SOURCES",
    "activity_perturbation",
    "angle",
    "backprop",
    "evolution_strategies",
    "feedback_alignment",
    "forward_gradient",
    "parse",
    "source",
]

_MODULES = {
    "SOURCES": "l2o.gradients.registry",
    "activity_perturbation": "l2o.gradients.activity",
    "angle": "l2o.gradients.base",
    "backprop": "l2o.gradients.backpropagation",
    "evolution_strategies": "l2o.gradients.evolution",
    "feedback_alignment": "l2o.gradients.feedback",
    "forward_gradient": "l2o.gradients.forward",
    "parse": "l2o.gradients.registry",
    "source": "l2o.gradients.registry",
}


def __getattr__(name: str) -> Any:
    return lazy.load(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
