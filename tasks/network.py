r"""What tasks on neural networks share: activations and initialisations to sample.

Both are written so that the choice can be traced: networks that differ in them are one
program, in which nothing is computed for a choice that was not taken.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.base import Params
from tasks.checks import require_choices, require_range
from tasks.sampling import index, log_uniform, middle, pick


class _Mix(NamedTuple):
    r"""An activation $(a + b x)\,\sigma(c (x + d x^3)) + e + f x + g \max(x, 0)$."""

    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 0.0
    f: float = 0.0
    g: float = 0.0


class _Activation(NamedTuple):
    function: Callable[[jax.Array], jax.Array]
    mix: _Mix  # the same function


ACTIVATIONS = {
    "relu": _Activation(nn.relu, _Mix(g=1.0)),
    "tanh": _Activation(nn.tanh, _Mix(a=2.0, c=2.0, e=-1.0)),
    # In its usual approximation, which is one of the hyperbolic tangent.
    "gelu": _Activation(nn.gelu, _Mix(b=1.0, c=math.sqrt(8 / math.pi), d=0.044715)),
    "sigmoid": _Activation(nn.sigmoid, _Mix(a=1.0, c=1.0)),
    "swish": _Activation(nn.swish, _Mix(b=1.0, c=1.0)),
    "leaky_relu": _Activation(nn.leaky_relu, _Mix(f=0.01, g=0.99)),
    "identity": _Activation(lambda x: x, _Mix(f=1.0)),
}

INIT_SCHEMES = ("lecun", "he", "glorot")
"""Variances of weights: 1 / inputs, 2 / inputs, 2 / (inputs + outputs)."""


class NetworkSpec(NamedTuple):
    """How one network differs from the others of its family."""

    init_scale: jax.Array  # shape=(), float32: multiplies the initial weights
    init_scheme: jax.Array  # shape=(), int32: place in `NetworkChoices.init_scheme`
    activation: jax.Array  # shape=(), int32: place in `NetworkChoices.activation`


@dataclasses.dataclass(frozen=True)
class NetworkChoices:
    """What is drawn for each network of a family.

    Attributes:
        init_scale: range of what multiplies the initial weights, log-uniform. Weights
            are the parameters of two or more axes.
        init_scheme: some of `INIT_SCHEMES`. Modules draw their weights with variance
            1 / inputs, which a scheme changes.
        activation: some of `ACTIVATIONS`.
    """

    init_scale: tuple[float, float] = (1.0, 1.0)
    init_scheme: tuple[str, ...] = ("lecun",)
    activation: tuple[str, ...] = ("relu",)

    def __post_init__(self) -> None:
        require_range("init_scale", self.init_scale)
        require_choices("init_scheme", self.init_scheme, INIT_SCHEMES)
        require_choices("activation", self.activation, ACTIVATIONS)

    def sample(self, key: jax.Array) -> NetworkSpec:
        """Draws one network; vmap me."""
        scale_key, scheme_key, activation_key = jax.random.split(key, 3)
        return NetworkSpec(
            init_scale=log_uniform(scale_key, self.init_scale),
            init_scheme=index(scheme_key, self.init_scheme),
            activation=index(activation_key, self.activation),
        )

    def nominal(self) -> NetworkSpec:
        """The middle of the range, and the first of each kind."""
        return NetworkSpec(middle(self.init_scale), jnp.int32(0), jnp.int32(0))

    def activate(self, spec: NetworkSpec) -> Callable[[jax.Array], jax.Array]:
        """The activation of one network."""
        chosen = [ACTIVATIONS[name] for name in self.activation]
        if len(chosen) == 1:
            return chosen[0].function
        # One sigmoid and one maximum for all, instead of every function at every input.
        table = jnp.asarray([row.mix for row in chosen], jnp.float32)
        mix = _Mix(*table[spec.activation])

        def activation(x: jax.Array) -> jax.Array:
            gate = nn.sigmoid(mix.c * (x + mix.d * x * x * x))
            linear = mix.e + mix.f * x + mix.g * jnp.maximum(x, 0.0)
            return (mix.a + mix.b * x) * gate + linear

        return activation

    def init(self, module: nn.Module, spec: NetworkSpec, *args: Any) -> Params:
        """The initial parameters of one network.

        Args:
            module: draws its weights with variance 1 / inputs.
            spec: the network.
            *args: of `module.init`: a key, and an example of its inputs.
        """
        return self.rescale(module.init(*args)["params"], spec)

    def rescale(self, params: Params, spec: NetworkSpec) -> Params:
        """Parameters whose weights have the scale and scheme of `spec`."""

        def scaled(weights: jax.Array) -> jax.Array:
            if weights.ndim < 2:
                return weights
            *field, inputs, outputs = weights.shape
            fan_in, fan_out = (math.prod(field) * n for n in (inputs, outputs))
            gain = {
                "lecun": 1.0,
                "he": math.sqrt(2.0),
                "glorot": math.sqrt(2.0 * fan_in / (fan_in + fan_out)),
            }
            factor = pick(
                [jnp.float32(gain[name]) for name in self.init_scheme],
                spec.init_scheme,
            )
            return weights * (spec.init_scale * factor)

        return jax.tree.map(scaled, params)


class MLP(nn.Module):
    """A fully connected network, with the activation between its layers.

    Attributes:
        sizes: outputs of each layer.
        activation: of the layers but the last.
    """

    sizes: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[examples, sizes[-1]]` from inputs `[examples, ...]`, taken as vectors."""
        x = x.reshape(len(x), -1)
        for i, size in enumerate(self.sizes):
            if i:
                x = self.activation(x)
            x = nn.Dense(size)(x)
        return x
