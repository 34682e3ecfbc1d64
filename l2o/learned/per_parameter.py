"""A per-parameter MLP on gradient statistics, for all tensors of a tree.

`plain_outputs` is what it computes, in the words of the papers. Tensors that are not
small take other ways to the same numbers, to which `tests/l2o/test_per_parameter.py`
holds them. Above `SMALL` the normalisers go into the weights of the first layer, and
the MLP is elementwise arithmetic that XLA runs as one loop. Above `groups.BATCHED` the
inputs are never formed: their mean squares are sums that each read the statistics.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from l2o.learned import groups
from l2o.learned.accumulators import (
    Decays,
    Readings,
    TensorStats,
    read_stats,
    update_stats,
)
from l2o.learned.features import Feature, mean_squares, root_scales
from l2o.learned.groups import Group, rows_of
from l2o.learned.network import Layers, dense, elementwise_mlp


SMALL = 256
"""Tensors of at most this size have their inputs stacked in one array.

A loop for each would cost more to compile and to launch than the copy.
"""


@dataclasses.dataclass(frozen=True)
class PerParameterRule:
    """What tells one architecture with a per-parameter MLP from another.

    Attributes:
        features: `(readings, gradient, parameter) -> inputs of the MLP`, of one tensor.
        layers: `own -> layers`: the MLP of one tensor, from what belongs to the tensor.
        finish: `(outputs, p, mean_square, own) -> step`: from the outputs of the MLP,
            the tensor and its mean square to the number that is added to it.
        eps: under the roots of the normalisers.
    """

    features: Callable[[Readings, jax.Array, Feature], list[Feature]]
    layers: Callable[[Any], Layers]
    finish: Callable[[list[jax.Array], jax.Array, jax.Array, Any], jax.Array]
    eps: float


def move_groups(
    rule: PerParameterRule,
    tensors: Sequence[Group],
    stats: Mapping[str, TensorStats],
    decays: Decays,
    own: Any = (),
) -> tuple[list[jax.Array], dict[str, TensorStats]]:
    """Moves the statistics of all tensors, and makes their steps.

    Args:
        rule: the architecture's.
        tensors: all of them, by shape.
        stats: their statistics before this step, by the group's name.
        decays: of the statistics.
        own: what else belongs to each tensor: a tree of arrays with an axis along all
            tensors, in the order of the leaves.

    Returns:
        The steps of every group, `[n, *shape]`, and the statistics after this step.
    """
    moved = {g.name: move_stats(g, stats[g.name], decays) for g in tensors}
    steps = [
        per_parameter_steps(rule, g, read_group(g, moved[g.name]), rows_of(g, own))
        for g in tensors
    ]
    return steps, moved


def move_stats(group: Group, stats: TensorStats, decays: Decays) -> TensorStats:
    """The statistics of a group's tensors after a step."""
    return jax.vmap(lambda s, g: update_stats(s, g, decays))(stats, group.gradients)


def read_group(group: Group, stats: TensorStats) -> Readings:
    """Reads the statistics of a group's tensors."""
    return jax.vmap(lambda s: read_stats(s, group.shape))(stats)


def per_parameter_steps(
    rule: PerParameterRule, group: Group, readings: Readings, own: Any = ()
) -> jax.Array:
    """The steps of a group of tensors.

    Args:
        rule: the architecture's.
        group: tensors of one shape.
        readings: of their statistics, already updated.
        own: what else belongs to each: a tree of arrays with an axis along them.

    Returns:
        The steps, `[n, *shape]`, float32.
    """
    if not group.gradients.size:
        return group.gradients
    size = math.prod(group.shape)
    squares = group.mean_squares()
    scales = None
    if size > groups.BATCHED:
        scales = jax.vmap(functools.partial(_scales, rule))(
            readings, group.gradients, squares
        )

    def one(g: jax.Array, p: jax.Array, mine: Any) -> jax.Array:
        stats, square, scales, rest = mine
        layers = rule.layers(rest)
        values = [f.value() for f in rule.features(stats, g, Feature(p))]
        if size <= SMALL:
            outputs = plain_outputs(layers, values, rule.eps, g.shape)
        else:
            if scales is None:
                sums = jnp.stack([jnp.sum(jnp.square(x)) for x in values])
                # One division: each alone would be a loop to compile and to launch.
                sizes = jnp.array([x.size for x in values], jnp.float32)
                scales = root_scales(sums / sizes, rule.eps)
            outputs = elementwise_mlp(layers, values, scales, g.shape)
        return rule.finish(outputs, p, square, rest)

    # A NaN in the parameters is in the normaliser, and so in all steps of the tensor.
    defined = ~jnp.isnan(squares)
    return groups.for_each(one, group, (readings, squares, scales, own), defined)


def _scales(
    rule: PerParameterRule, stats: Readings, g: jax.Array, square: jax.Array
) -> jax.Array:
    """The normalisers of a tensor's inputs, of which none is formed."""
    inputs = rule.features(stats, g, Feature(mean_square=square))
    return root_scales(mean_squares(inputs, g), rule.eps)


def plain_outputs(
    layers: Layers, features: Sequence[jax.Array], eps: float, shape: Sequence[int]
) -> list[jax.Array]:
    r"""The MLP at every entry of a tensor.

    Every input is divided by its root mean square over the tensor,
    $x_k / \sqrt{\epsilon + \mathrm{mean}(x_k^2)}$, and goes through layers with relus
    between them.

    Args:
        layers: the MLP.
        features: its inputs, broadcastable to `shape`.
        eps: $\epsilon$.
        shape: of the tensor.

    Returns:
        The outputs, each of that shape.
    """
    x = jnp.stack([jnp.broadcast_to(f, shape).reshape(-1) for f in features], axis=-1)
    # An empty tensor has no mean.
    square = jnp.sum(jnp.square(x), axis=0) / max(1, x.shape[0])
    x *= root_scales(square, eps)[None]
    x = dense(layers[0], x)
    for layer in layers[1:]:
        x = dense(layer, jax.nn.relu(x))
    return [x[:, i].reshape(shape) for i in range(x.shape[1])]


def with_constant_inputs(layers: Layers, constants: jax.Array) -> Layers:
    """An MLP whose last inputs are the same numbers everywhere: they are in its bias.

    Args:
        layers: an MLP.
        constants: its last inputs.

    Returns:
        An MLP of the other inputs.
    """
    first, *rest = layers
    inputs = first["w"].shape[0] - constants.shape[0]
    bias = first["b"] + constants @ first["w"][inputs:]
    return [{"w": first["w"][:inputs], "b": bias}, *rest]
