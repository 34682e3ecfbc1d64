r"""Averages of the iterates that steps lead to, which `MuonLSTM` may move along with.

The steps u that an optimizer makes of its gradients lead from z to z + u. K averages of
z are kept, of windows that grow with the time t that has passed (steps made, this one
among them),

$$ x_k \leftarrow x_k + c_k (z - x_k), \qquad c_k = \frac{1 + r_k}{t + r_k} $$

so that a step weighs about as $t^{r_k}$: $x_k$ is a mean over the last
$t / (1 + r_k)$ of them. Parameters, at which gradients are taken, are between z and its
averages:

$$ p = \Big(1 - \sum_k \beta_k\Big) z + \sum_k \beta_k x_k $$

With $\beta = 0$ they are z. Steps of a given length never settle in a valley, but go
from one side of it to the other; their mean lies at the bottom. Shares $\beta_k$ and
powers $r_k$ are controls of every tensor, which may change from step to step.

How straight the way was is seen from what is kept anyway: the length of $d_k = z - x_k$
over that of all steps on it, and rates follow a power of that.

What is kept is how far each average lags behind, $d_k$, and not z: the lags
are moved by steps alone, so that parameters that someone else changes stay changed.

Source: this project; averages by polynomial weights after Shamir and Zhang 2013,
gradients at a point between an iterate and its average after Schedule-Free (Defazio et
al. 2024, arXiv 2405.15682).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from l2o.learned.base import Theta
from l2o.learned.groups import Group, in_tree_order, init_groups, rows_of
from l2o.learned.muon_control import GAIN, by_kind
from l2o.learned.muon_step import TINY


# Logits of the shares and logarithms of the powers, over the gain: shares of a half and
# of nine tenths, powers of 8 and 6, twice as large for each further average. By hand,
# on the suite validation-wide, as is the power of the straightness that rates follow.
_MATRIX = (0.0, 0.52)
_VECTOR = (0.55, 0.45)
_STRAIGHT = 0.3

# The straightness at which rates are what they would be without it.
_USUAL = 0.25

# Logarithm of a power: weights of more than t^50 are those of the last steps alone.
_LONGEST = 4.0

# Way of a tensor that has not moved: what `TINY` under the roots adds up to, and more.
_STILL = 100.0 * TINY**0.5


class Averages(NamedTuple):
    """The averages of all tensors."""

    shares: jax.Array  # [tensors, K]: beta, as they were at the last step
    paths: jax.Array  # [tensors, K]: lengths of the ways that averages lag behind
    lags: dict[str, tuple[jax.Array, ...]]  # by shape: d, `[n, *shape]` for each k


class AverageControls(NamedTuple):
    """Controls of the averages, and what they say of the rate."""

    shares: jax.Array  # [tensors, K]: beta
    powers: jax.Array  # [tensors, K]: r, from 1 to 55
    rate: jax.Array  # [tensors]: added to the logarithm of the rate, over the gain


def average_init(averages: int, features: int) -> Theta:
    """What makes the controls of matrices and of other tensors.

    Args:
        averages: K.
        features: how many there are of time and of tensors.
    """

    def of(logit: float, power: float) -> Theta:
        logits = [logit - math.log(averages) / GAIN] * averages
        powers = [power + k * math.log(2.0) / GAIN for k in range(averages)]
        return {
            "shares": jnp.zeros((features + averages, averages), jnp.float32),
            "constants": jnp.array([*logits, *powers], jnp.float32),
            "straight": jnp.full((averages,), _STRAIGHT / averages, jnp.float32),
        }

    return {"matrix": of(*_MATRIX), "vector": of(*_VECTOR)}


def average_controls(
    theta: Theta,
    features: jax.Array,
    straight: jax.Array,
    matrices: jax.Array,
    change: jax.Array,
) -> AverageControls:
    """The controls of all tensors.

    Args:
        theta: from `average_init`.
        features: `[tensors, features]`, those of time first.
        straight: `[tensors, K]`, from `straightness`; the rate is multiplied by a power
            of it, and the shares may follow it too.
        matrices: bool `[tensors]`.
        change: `[tensors, 2 K]`, added to the constants.
    """
    straight = jnp.log((straight + 1e-3) / _USUAL) / GAIN
    inputs = jnp.concatenate([features, straight], axis=1)
    choose = lambda name: by_kind(theta, name, matrices)
    y = (choose("constants") + change).reshape(len(change), 2, straight.shape[1])
    logits = y[:, 0] + jnp.einsum("nf,nfk->nk", inputs, choose("shares"))
    # z itself is one among K + 1, whose logit is 0.
    logits = jnp.concatenate([jnp.zeros_like(logits[:, :1]), logits], axis=1)
    return AverageControls(
        shares=jax.nn.softmax(GAIN * logits, axis=1)[:, 1:],
        powers=jnp.exp(jnp.clip(GAIN * y[:, 1], 0.0, _LONGEST)),
        rate=jnp.sum(straight * choose("straight"), axis=1),
    )


def init_averages(params: object, count: int, averages: int) -> Averages:
    """Averages that are where the parameters are.

    Args:
        params: a tree of tensors.
        count: how many there are.
        averages: K.
    """
    return Averages(
        shares=jnp.zeros((count, averages), jnp.float32),
        paths=jnp.zeros((count, averages), jnp.float32),
        lags=init_groups(
            params, lambda p: (jnp.zeros(p.shape, jnp.float32),) * averages
        ),
    )


def average_steps(
    tensors: Sequence[Group],
    steps: Sequence[jax.Array],
    averages: Averages,
    controls: AverageControls,
    step: jax.Array,
) -> tuple[list[jax.Array], Averages]:
    """Moves the averages, and parameters to where they belong between them.

    Args:
        tensors: all of them, by shape.
        steps: u of every group, `[n, *shape]`.
        averages: before the step.
        controls: in the order of the tree's leaves.
        step: updates made before this one.

    Returns:
        What to add to the parameters of every group, and the averages after the step.
    """
    time = step.astype(jnp.float32) + 1.0
    keep = 1.0 - (1.0 + controls.powers) / (time + controls.powers)
    lags, lengths, moves = {}, [], []
    for group, made in zip(tensors, steps, strict=True):
        ones = [1] * len(group.shape)
        before, after, kept = (
            rows_of(group, x).T.reshape(-1, len(made), *ones)
            for x in (averages.shares, controls.shares, keep)
        )
        move, moved = made, []
        for k, lag in enumerate(averages.lags[group.name]):
            moved.append(kept[k] * (lag + made))
            move += before[k] * lag - after[k] * moved[k]
        lags[group.name] = tuple(moved)
        lengths.append(_rms(made))
        moves.append(move)
    lengths = in_tree_order(tensors, [jnp.zeros((0,), jnp.float32), *lengths])
    paths = keep * (averages.paths + lengths[:, None])
    return moves, Averages(controls.shares, paths, lags)


def straightness(tensors: Sequence[Group], averages: Averages) -> jax.Array:
    """How straight the ways were that averages lag behind, `[tensors, K]`.

    The length of a lag over that of the way, by root mean squares: 1 where all steps
    went one way, and before there was one; near 0 where they went to and fro.
    """
    ratios = []
    for group in tensors:
        paths = rows_of(group, averages.paths)
        lags = jnp.stack([_rms(lag) for lag in averages.lags[group.name]], axis=1)
        moved = paths > _STILL
        ratios.append(jnp.where(moved, lags / jnp.where(moved, paths, 1.0), 1.0))
    return in_tree_order(tensors, [jnp.zeros_like(averages.paths[:0]), *ratios])


def _rms(x: jax.Array) -> jax.Array:
    """Of every tensor of a group, `[n]`."""
    sums = jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))
    return jnp.sqrt(sums / max(1, math.prod(x.shape[1:])) + TINY)
