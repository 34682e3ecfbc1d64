"""Forward gradients of activities: noise on what layers give, not on their weights."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from l2o.config import require_positive_int
from l2o.gradients.base import (
    Distribution,
    GradientFunction,
    Loss,
    Params,
    as_loss,
    draw,
    require_distribution,
    require_seed,
)
from l2o.gradients.layers import Layer, outputs_of_layers, with_layers


def activity_perturbation(
    function: Any,
    loss: Loss | None = None,
    *,
    tangents: int = 1,
    distribution: Distribution = "gaussian",
    local_losses: bool = False,
    seed: int = 0,
) -> GradientFunction:
    r"""A forward gradient with respect to the outputs of layers.

    With the outputs $a_l = h_{l-1} W_l + b_l$ of an example's layers, its loss L, and
    noise $u_{l,i}$ on all of these,

    $$ \hat\delta_l = \frac1n \sum_{i=1}^n u_{l,i}
       \sum_k u_{k,i}^\top \frac{\partial L}{\partial a_k}, \qquad
       \partial W_l = \mathrm{mean}\; h_{l-1}^\top \hat\delta_l $$

    where the mean is over examples, each of which has noise of its own. Unbiased, with
    a variance that grows with the number of outputs, which are fewer than the weights,
    and shrinks with the number of examples.

    With `local_losses` a layer is told the loss of a fixed random linear readout of
    what the next layer is given, in the place of the model's: the inner sum has a
    single term. Less noise, of the gradient of another loss; the last layer keeps its
    own.

    There are two forward passes, of which the second makes the products layer by layer,
    and no reverse pass: activations that are needed at a time do not grow in number
    with depth.

    Args:
        function: a loss `(params, *args) -> scalar` that applies a flax model to
            `args`, or the model. It is a mean over examples, the leading axis of all
            arrays in `args`.
        loss: of the model's outputs, `(outputs, *targets) -> scalar`.
        tangents: n.
        distribution: of the noise: `gaussian` or `rademacher`.
        local_losses: needs a model and a loss, as above.
        seed: of the readouts, which are the same in every call.

    Returns:
        `(params, key, *args) -> (value, grads)`; the value is exact.

    Raises:
        ValueError: `local_losses` without a model. At the call: a layer with parameters
            is not linear, or is called twice; there is no layer; or
            `params` are not those of the model.

    Source: Ren et al. 2023, "Scaling forward gradient with local losses", arXiv
    2210.03310; the readouts are those of Mostafa et al. 2018, "Deep supervised learning
    using local errors", arXiv 1711.06756, which are not trained.
    """
    require_positive_int("tangents", tangents)
    require_distribution(distribution)
    require_seed(seed)
    if type(local_losses) is not bool:
        raise ValueError(f"local_losses must be true or false, got {local_losses!r}")
    if local_losses and loss is None:
        raise ValueError("local_losses need a flax model and a loss, got a loss alone")
    of_params = as_loss(function, loss)

    def gradient(
        params: Params, key: jax.Array, *args: Any
    ) -> tuple[jax.Array, Params]:
        noise = _Noise(key, tangents, distribution)
        readouts = _Readouts(loss, seed) if local_losses else None
        examples = len(jax.tree.leaves(args)[0])

        def slopes_of_example(number: jax.Array, *example: Any) -> jax.Array:
            # Alone in its batch, so that the loss is its own.
            alone = jax.tree.map(lambda x: x[None], example)
            losses = _Losses(lambda: of_params(params, *alone), alone[1:], readouts)
            return _slopes(losses, noise, number)

        slopes = jax.vmap(slopes_of_example)(jnp.arange(examples), *args)
        # Else XLA finds that both passes draw and compute the same, and keeps it.
        again = jax.lax.optimization_barrier((params, key, args, slopes))
        params, key, args, slopes = again
        products = _Products(params, _Noise(key, tangents, distribution), slopes)
        value = with_layers(lambda: of_params(params, *args), products.outputs)
        return value, products.gradient()

    return gradient


@dataclasses.dataclass(frozen=True)
class _Noise:
    """The noise of a call, which both passes draw."""

    key: jax.Array
    tangents: int
    distribution: Distribution

    def of(
        self,
        number: jax.Array,
        tangent: jax.Array | int,
        layer: int,
        like: jax.Array,
    ) -> jax.Array:
        """On the outputs of one layer for one example, `[1, ...]` as `like`."""
        key = jax.random.fold_in(jax.random.fold_in(self.key, number), tangent)
        # Noise depends on keys alone: all of it would be drawn at the start, and kept.
        key = jax.random.fold_in(key, layer + _never(like).astype(jnp.int32))
        return draw(key, (1, *like.shape[1:]), like.dtype, self.distribution)


@dataclasses.dataclass(frozen=True)
class _Readouts:
    """Local losses: those of fixed random readouts."""

    loss: Any
    seed: int

    def __call__(self, layer: Layer, outputs: int, targets: Any) -> jax.Array:
        """The loss of a readout of what a layer is given."""
        flat = layer.inputs.reshape(len(layer.inputs), -1)
        key = jax.random.fold_in(jax.random.key(self.seed), layer.index)
        weights = jax.random.normal(key, (flat.shape[1], outputs), flat.dtype)
        return self.loss(flat @ (weights / math.sqrt(flat.shape[1])), *targets)


class _Losses:
    """What layers are told, as a function of what is added to their outputs."""

    def __init__(
        self, function: Callable[[], jax.Array], targets: Any, readouts: Any
    ) -> None:
        """Looks at the layers.

        Args:
            function: the loss of one example.
            targets: what a local loss is given beside a readout.
            readouts: of local losses, or None.
        """
        self.layers = outputs_of_layers(function)
        self._function = function
        self._targets = targets
        self._readouts = readouts

    def __call__(self, size: jax.Array, noise: Callable[..., jax.Array]) -> jax.Array:
        """`[layers]`, one entry for each.

        Args:
            size: 0; of the noise, in the direction of which this is differentiated.
            noise: `(layer, outputs) -> noise` on its outputs.
        """
        local: list[jax.Array] = []

        def outputs(layer: Layer) -> jax.Array:
            inputs = layer.inputs
            if self._readouts is not None and layer.index:
                classes = math.prod(self.layers[-1].shape[1:])
                local.append(self._readouts(layer, classes, self._targets))
                inputs = jax.lax.stop_gradient(inputs)
            made = layer.call(inputs)
            return _moved(made, size, noise(layer.index, made))

        last = with_layers(self._function, outputs)
        own = [*local, last] if local else [last] * len(self.layers)
        return jnp.stack(own)


_TANGENTS = "tangents"
"""The axis of directions, which one evaluation of the outputs serves."""


def _never(array: jax.Array) -> jax.Array:
    """False; but XLA does not know, and has to compute the array first.

    That is how layers are told to wait for each other: XLA's schedule would have all
    activations at once, and what each is needed for afterwards.
    """
    return jnp.ravel(array)[0] > jnp.inf


@jax.custom_jvp
def _moved(outputs: jax.Array, size: jax.Array, noise: jax.Array) -> jax.Array:
    """The outputs, whose derivative by the size of the noise is the noise."""
    del size, noise  # Of size 0.
    return outputs


@_moved.defjvp
def _(
    primals: tuple[jax.Array, jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array, Any],
) -> tuple[jax.Array, jax.Array]:
    outputs, _, noise = primals
    outputs_tangent, size_tangent, _ = tangents
    moved = outputs_tangent + size_tangent.astype(noise.dtype) * noise
    # The next layer waits for what becomes of the noise in this one.
    waits = jax.lax.psum(_never(moved).astype(jnp.int32), _TANGENTS) > 0
    return jnp.where(waits, jnp.nan, outputs), moved


def _slopes(losses: _Losses, noise: _Noise, number: jax.Array) -> jax.Array:
    """`[tangents, layers]`: what the noise of an example is multiplied with."""

    def one(tangent: jax.Array) -> jax.Array:
        draw_for = lambda layer, like: noise.of(number, tangent, layer, like)
        return jax.jvp(
            lambda size: losses(size, draw_for), (jnp.zeros(()),), (jnp.ones(()),)
        )[1]

    return jax.vmap(one, axis_name=_TANGENTS)(jnp.arange(noise.tangents))


class _Products:
    """The second pass: the gradient of every layer's parameters, as it is called."""

    def __init__(self, params: Params, noise: _Noise, slopes: jax.Array) -> None:
        """Nothing is found yet.

        Args:
            params: of the model.
            noise: of the first pass.
            slopes: `[examples, tangents, layers]`.
        """
        self._params = {
            tuple(key.key for key in path): leaf
            for path, leaf in jax.tree.leaves_with_path(params)
        }
        self._structure = jax.tree.structure(params)
        self._noise = noise
        self._slopes = slopes
        self._found: dict[tuple[str, ...], jax.Array] = {}

    def outputs(self, layer: Layer) -> jax.Array:
        """The outputs of a layer, whose gradient is noted."""
        outputs = layer.call(layer.inputs)

        def told(number: jax.Array, slopes: jax.Array) -> jax.Array:
            noise = jax.vmap(
                lambda tangent: self._noise.of(number, tangent, layer.index, outputs)[0]
            )(jnp.arange(len(slopes)))
            return jnp.tensordot(slopes.astype(noise.dtype), noise, axes=1)

        examples, tangents, _ = self._slopes.shape
        errors = jax.vmap(told)(jnp.arange(examples), self._slopes[:, :, layer.index])
        params = dict(layer.params)
        transpose = jax.linear_transpose(
            lambda p: layer.linear(p, layer.inputs), params
        )
        (grads,) = transpose(errors / (examples * tangents))
        for name, grad in grads.items():
            path = (*layer.path, name)
            if self._params.get(path) is not params[name]:
                raise ValueError(
                    "params must be those of the flax model itself for this source of "
                    f"gradients, got others for {'/'.join(path)}"
                )
            self._found[path] = grad
        # The next layer waits for the products of this one, which free its inputs.
        waits = functools.reduce(jnp.logical_or, map(_never, grads.values()))
        return jnp.where(waits, jnp.nan, outputs)

    def gradient(self) -> Params:
        """Of all parameters; zero for those of layers that were not called."""
        leaves = [
            self._found.get(path, jnp.zeros_like(leaf))
            for path, leaf in self._params.items()
        ]
        return jax.tree.unflatten(self._structure, leaves)
