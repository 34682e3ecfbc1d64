"""How long programs are compiled."""

from typing import Any

import jax


def compiler_options() -> dict[str, Any]:
    """How to compile a loop of trainings.

    On CPUs LLVM's third level of optimisation takes longer than the second, for code
    that is no faster.
    """
    if jax.default_backend() == "cpu":
        return {"xla_backend_optimization_level": 2}
    return {}
