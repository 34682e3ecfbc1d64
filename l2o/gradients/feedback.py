"""Feedback alignment: errors go back through other weights than those of the model."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from l2o.config import nearest, require_positive
from l2o.gradients.base import (
    GradientFunction,
    Loss,
    Params,
    as_loss,
    require_seed,
)
from l2o.gradients.layers import Layer, outputs_of_layers, with_layers


_Outputs: TypeAlias = tuple[jax.ShapeDtypeStruct, ...]
"""Of all layers, in the order of their calls."""


class _Rule(abc.ABC):
    """What a layer's inputs are told of the error, in one evaluation of a loss.

    A layer's own parameters always get the gradient that belongs to what its outputs
    are told, and what lies between layers is differentiated as it is.
    """

    @abc.abstractmethod
    def outputs(self, layer: Layer) -> jax.Array:
        """The outputs of a layer, with the way back that the rule wants."""


@dataclasses.dataclass
class _Direct(_Rule):
    """All layers but the last are told the error of the last one's outputs."""

    layers: _Outputs
    key: jax.Array
    scale: float
    taps: list[jax.Array] = dataclasses.field(default_factory=list)

    def outputs(self, layer: Layer) -> jax.Array:
        error = self.layers[-1]
        if layer.index:
            key = jax.random.fold_in(self.key, layer.index)
            feedback = _direct_feedback(key, layer.inputs, error, self.scale)
            self.taps.append(_tap(error, layer.inputs, feedback))
        outputs = _cut_off(layer)
        if layer.index < len(self.layers) - 1:
            return outputs
        # Zeros, by which the error of these outputs finds its way to all layers.
        return sum(self.taps, start=outputs)


@dataclasses.dataclass
class _Layerwise(_Rule):
    """Every layer hands its error on to the one below, through other weights."""

    layers: _Outputs
    weights: Callable[[Layer], jax.Array]

    def outputs(self, layer: Layer) -> jax.Array:
        kernel = jax.lax.stop_gradient(self.weights(layer))
        like = self.layers[layer.index]
        back: Any = _back_through(layer.linear, like, layer.inputs, kernel)
        return _cut_off(layer) + back


def _random_weights(key: jax.Array, scale: float, layer: Layer) -> jax.Array:
    """Fixed, and of the size that a layer's initial weights usually are."""
    kernel = layer.params["kernel"]
    fan_in = math.prod(kernel.shape[:-1])
    noise = jax.random.normal(
        jax.random.fold_in(key, layer.index), kernel.shape, kernel.dtype
    )
    return noise * (scale / math.sqrt(fan_in))


def _signs_of_weights(scale: float, layer: Layer) -> jax.Array:
    """The signs of the weights, with the mean of their sizes."""
    kernel = layer.params["kernel"]
    return jnp.sign(kernel) * (scale * jnp.mean(jnp.abs(kernel)))


_RULES: dict[str, Callable[[_Outputs, jax.Array, float], _Rule]] = {
    "direct": _Direct,
    "layerwise": lambda layers, key, scale: _Layerwise(
        layers, functools.partial(_random_weights, key, scale)
    ),
    "sign": lambda layers, key, scale: _Layerwise(
        layers, functools.partial(_signs_of_weights, scale)
    ),
}


def feedback_alignment(
    function: Any,
    loss: Loss | None = None,
    *,
    rule: Literal["direct", "layerwise", "sign"] = "direct",
    seed: int = 0,
    scale: float = 1.0,
) -> GradientFunction:
    r"""Backpropagation with other weights on the way back.

    With layers $a_l = h_{l-1} W_l + b_l$, $h_l = f(a_l)$ and the error
    $e = \partial L / \partial a_n$ of the last one, the gradients are
    $\partial W_l = h_{l-1}^\top \delta_l$ and $\partial b_l = \sum \delta_l$, with
    $\delta_n = e$ as in backpropagation, and below

    * `direct`: $\delta_l = (e B_l) \odot f'(a_l)$ with a fixed random $B_l$: direct
      feedback alignment. Convolutions are told a random function of the whole error.
    * `layerwise`: $\delta_l = (\delta_{l+1} B_{l+1}^\top) \odot f'(a_l)$ with a fixed
      random $B_{l+1}$ of the shape of $W_{l+1}$: feedback alignment.
    * `sign`: the same with $B_l = \mathrm{sign}(W_l)\, \mathrm{mean}|W_l|$.

    Entries of random feedback are normal with variance scale^2 over the number of
    numbers that each is multiplied with: the outputs for `direct`, the layer's fan-in
    for `layerwise`.

    The model may be anything that calls each of its flax Dense and Conv layers once, or
    others that are linear like them (`l2o.gradients.layers`). A connection around
    layers hands errors on as they are.

    Args:
        function: a loss `(params, *args) -> scalar` that applies a flax model, or the
            model.
        loss: of the model's outputs, `(outputs, *targets) -> scalar`.
        rule: one of the above.
        seed: of the random feedback, which is the same in every call.
        scale: of the feedback.

    Returns:
        `(params, key, *args) -> (value, grads)`; the value is exact, the key not used.

    Raises:
        ValueError: at the call: a layer with parameters is not linear, or is called
            twice; or there is no layer; or, with `direct`, a layer has its examples
            elsewhere than the outputs.

    Source: Nokland 2016, "Direct feedback alignment provides learning in deep neural
    networks", arXiv 1609.01596; Lillicrap et al. 2016, "Random synaptic feedback
    weights support error backpropagation for deep learning", Nature Communications;
    Liao, Leibo and Poggio 2016, "How important is weight symmetry in backpropagation?",
    arXiv 1510.05067.
    """
    if rule not in _RULES:
        raise ValueError(
            f"rule must be one of {', '.join(_RULES)}, got {rule!r}"
            f"{nearest(rule, _RULES)}"
        )
    require_positive("scale", scale)
    require_seed(seed)
    of_params = as_loss(function, loss)

    def gradient(
        params: Params, key: jax.Array, *args: Any
    ) -> tuple[jax.Array, Params]:
        del key  # Feedback is fixed.
        layers = outputs_of_layers(of_params, params, *args)

        def redirected(params: Params) -> jax.Array:
            way = _RULES[rule](layers, jax.random.key(seed), scale)
            return with_layers(lambda: of_params(params, *args), way.outputs)

        return jax.value_and_grad(redirected)(params)

    return gradient


def _cut_off(layer: Layer) -> jax.Array:
    """The outputs of a layer, whose inputs are told nothing by them."""
    return layer.call(jax.lax.stop_gradient(layer.inputs))


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many leading axes two shapes share, not counting the last of each."""
    count = 0
    for x, y in zip(a[:-1], b[:-1], strict=False):
        if x != y:
            break
        count += 1
    return count


def _direct_feedback(
    key: jax.Array, inputs: jax.Array, error: jax.ShapeDtypeStruct, scale: float
) -> jax.Array:
    """`[numbers of the error, numbers of the inputs]` of an example."""
    # Where both have a place (of a sequence, say) each place is told its own error.
    shared = _common(inputs.shape, error.shape)
    if not shared and min(inputs.ndim, len(error.shape)) > 1:
        raise ValueError(
            "direct feedback needs examples as the first axis of all layers and of the "
            f"outputs, got inputs {list(inputs.shape)} of a layer and outputs "
            f"{list(error.shape)}: use rule='layerwise'"
        )
    rows, columns = (math.prod(x.shape[shared:]) for x in (error, inputs))
    noise = jax.random.normal(key, (rows, columns), inputs.dtype)
    return noise * (scale / math.sqrt(rows))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap(
    error: jax.ShapeDtypeStruct, inputs: jax.Array, feedback: jax.Array
) -> jax.Array:
    """Zeros of the shape of the error, which the inputs are told through feedback."""
    del inputs, feedback
    return jnp.zeros(error.shape, error.dtype)


def _tap_forward(
    error: jax.ShapeDtypeStruct, inputs: jax.Array, feedback: jax.Array
) -> tuple[jax.Array, Any]:
    # Inputs are passed on for their shape alone: XLA keeps nothing of them.
    return _tap(error, inputs, feedback), (inputs, feedback)


def _tap_backward(
    error: jax.ShapeDtypeStruct, kept: Any, told: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, feedback = kept
    shared = _common(inputs.shape, error.shape)
    flat = told.reshape(*told.shape[:shared], -1)
    return (flat @ feedback).reshape(inputs.shape), jnp.zeros_like(feedback)


_tap.defvjp(_tap_forward, _tap_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _back_through(
    linear: Callable[[Mapping[str, jax.Array], jax.Array], jax.Array],
    like: jax.ShapeDtypeStruct,
    inputs: jax.Array,
    kernel: jax.Array,
) -> jax.Array:
    """Zeros like the outputs, whose error the inputs are told through a kernel."""
    del linear, inputs, kernel
    return jnp.zeros(like.shape, like.dtype)


def _back_through_forward(
    linear: Callable[[Mapping[str, jax.Array], jax.Array], jax.Array],
    like: jax.ShapeDtypeStruct,
    inputs: jax.Array,
    kernel: jax.Array,
) -> tuple[jax.Array, Any]:
    return _back_through(linear, like, inputs, kernel), (inputs, kernel)


def _back_through_backward(
    linear: Callable[[Mapping[str, jax.Array], jax.Array], jax.Array],
    like: jax.ShapeDtypeStruct,
    kept: Any,
    told: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    del like
    inputs, kernel = kept
    transpose = jax.linear_transpose(lambda x: linear({"kernel": kernel}, x), inputs)
    return *transpose(told), jnp.zeros_like(kernel)


_back_through.defvjp(_back_through_forward, _back_through_backward)
