"""What sizes the steps of `MuonMLP` and `MuonLSTM`: a plan, and where to begin."""

from typing import Any

import jax
import jax.numpy as jnp

from l2o.learned.base import Theta
from l2o.learned.features import (
    STEP_TIMESCALES,
    TRAINING_FRACTIONS,
    fraction_features,
    step_features,
)
from l2o.learned.muon_step import NUM_FEATURES, NUM_SKIPS, Controls


GAIN = 4.0
"""Of the logarithms of rate and decay, so that theta's entries act alike."""

NUM_CONTROLS = 3 + NUM_SKIPS
NUM_PLAN_FEATURES = 3 + len(TRAINING_FRACTIONS)

# Of the horizon.
_WARM_UP = 0.03

# Rate, decay, blend, and the weights of g, m1, m2, g/v, m1/v, m2/v: by hand, after some
# generations of a search on the train suite. They are where meta-training begins.
_MATRIX = (-0.775, -1.2, 0.3, 0.3, 0.7, 0.0, 0.0, 0.3, 0.0)
_VECTOR = (-0.75, -1.2, 0.0, 0.0, 0.0, 0.0, 0.3, 0.8, 0.0)
# Of the plan: the powers of what is left, and of what there is of a warm-up.
_POWERS = (0.9, 0.5)
# The powers of the fall of the loss that rates begin with: by hand, on perceptrons that
# learn few examples by heart.
_FALL = {"matrix": 0.3, "vector": 0.0}


def plan_features(step: jax.Array, num_steps: jax.Array) -> jax.Array:
    """The fraction of training that is done, in several ways: `[12]`.

    The first two are logarithms of what is left and of how much of a warm-up is over,
    so that linear maps of them are powers; the third is the logarithm of the horizon.
    """
    done = step.astype(jnp.float32)
    left = jnp.maximum(1.0 - done / num_steps, 1.0 / num_steps)
    warm = jnp.minimum((done + 1.0) / (1.0 + _WARM_UP * num_steps), 1.0)
    plan = jnp.stack([left, warm, num_steps / 1000.0])
    return jnp.concatenate([jnp.log(plan) / GAIN, fraction_features(done / num_steps)])


def time_features(step: jax.Array, num_steps: jax.Array, timed: bool) -> jax.Array:
    """`plan_features`, or where there is no plan features of the step: `[11]`."""
    return plan_features(step, num_steps) if timed else step_features(step)


def num_features(timed: bool) -> int:
    """How many features there are of time and of tensors."""
    of_time = NUM_PLAN_FEATURES if timed else len(STEP_TIMESCALES)
    return of_time + NUM_FEATURES


def control_init(timed: bool, orthogonalize: bool) -> Theta:
    """Constants, and linear maps to the rate, of matrices and of other tensors.

    Args:
        timed: whether the features of time are a plan's, which the rate then follows.
        orthogonalize: whether matrices begin at Muon; else at Adam, like others.
    """
    matrix = _MATRIX if orthogonalize else _VECTOR
    rate = jnp.zeros((num_features(timed),), jnp.float32)
    if timed:
        rate = rate.at[: len(_POWERS)].set(jnp.array(_POWERS, jnp.float32))
    return {
        name: {"rate": rate, "constants": jnp.array(constants, jnp.float32)}
        for name, constants in (("matrix", matrix), ("vector", _VECTOR))
    }


def make_controls(
    theta: Theta, features: jax.Array, matrices: jax.Array, change: jax.Array, mlp: Any
) -> Controls:
    """The controls of all tensors.

    Args:
        theta: from `control_init`.
        features: `[tensors, features]`, those of time first.
        matrices: bool `[tensors]`.
        change: `[tensors, NUM_CONTROLS]`, added to the constants.
        mlp: what `Controls` hands on.
    """
    # Not by `by_kind`: released runs are made again bit for bit, and their last bits
    # may hang on what XLA makes of these lines.
    kinds = theta["matrix"], theta["vector"]
    constants, rate = (
        jnp.where(matrices.reshape(-1, *[1] * (a.ndim - 1)), a, b)
        for a, b in (
            (kinds[0]["constants"][None], kinds[1]["constants"][None]),
            (features @ kinds[0]["rate"], features @ kinds[1]["rate"]),
        )
    )
    y = constants + change
    return Controls(
        # At a rate of 1 a step is as long as the tensor itself was at first.
        rate=jnp.exp(jnp.minimum(GAIN * (y[:, 0] + rate), 0.0)),
        decay=jnp.exp(jnp.minimum(GAIN * y[:, 1], 0.0)),
        blend=y[:, 2],
        skips=y[:, 3:],
        mlp=mlp,
    )


def fall_init() -> Theta:
    """The powers of the loss's fall that rates follow, of matrices and of others."""
    return {kind: {"power": jnp.float32(power)} for kind, power in _FALL.items()}


def fall_rates(theta: Theta, fall: jax.Array, matrices: jax.Array) -> jax.Array:
    r"""What is added to the logarithm of the rate, over the gain, of every tensor.

    Gradients of a loss that nears 0 lose their noise with it, and long steps stay of
    use: the rate is multiplied by $(\bar L / L)^a$.

    Args:
        theta: from `fall_init`: a.
        fall: scalar, $\log \bar L / L$, from `loss_fall`.
        matrices: bool `[tensors]`.
    """
    return by_kind(theta, "power", matrices) * fall / GAIN


def by_kind(theta: Theta, name: str, matrices: jax.Array) -> jax.Array:
    """The entry `name` of `matrix` or of `vector`, for every tensor: `[tensors, ...]`.

    Args:
        theta: of both kinds.
        name: of the entry.
        matrices: bool `[tensors]`.
    """
    a, b = theta["matrix"][name], theta["vector"][name]
    return jnp.where(matrices.reshape(-1, *[1] * a.ndim), a, b)
