"""The step that VeLO and Celo make of the outputs of a per-parameter MLP."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from l2o.learned.accumulators import DECAYS
from l2o.learned.features import velo_inputs
from l2o.learned.network import Layers
from l2o.learned.per_parameter import PerParameterRule


NUM_FEATURES = (
    3 + 2 * len(DECAYS.momentum) + 3 * len(DECAYS.rms) + 6 * len(DECAYS.factored)
)
NUM_OUTPUTS = 3
"""Direction, magnitude, and one that the public codes do not read."""


def velo_rule(
    layers: Callable[[Any], Layers],
    rate: Callable[[Any], float | jax.Array],
    *,
    exp_mult: float,
) -> PerParameterRule:
    r"""The step $-\lambda \, \mathrm{rms}(p) \, d \, e^{\epsilon s}$ of a tensor.

    Args:
        layers: the tensor's MLP, whose first outputs are d and s, from what belongs to
            the tensor.
        rate: its $\lambda$, likewise.
        exp_mult: $\epsilon$.
    """

    def finish(
        outputs: list[jax.Array], p: jax.Array, square: jax.Array, own: Any
    ) -> jax.Array:
        del p
        direction, magnitude, _ = outputs
        unit = jnp.sqrt(square + 1e-9) * rate(own)
        return -direction * jnp.exp(magnitude * exp_mult) * unit

    return PerParameterRule(
        features=velo_inputs, layers=layers, finish=finish, eps=1e-5
    )
