"""Looking into flax models: what the linear layers of a loss are given.

These are Dense and Conv, and any other layer like them: with parameters `kernel` and
perhaps `bias`, a field `use_bias`, and linear, to which JAX's transposition is put.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax


@dataclasses.dataclass(frozen=True)
class Layer:
    """One linear layer at work.

    Attributes:
        module: the layer, bound to its parameters.
        index: its place among the layers, in the order in which they are called.
        inputs: `[examples, ...]`.
        call: `(inputs) -> outputs`, what the layer does by itself; once.
    """

    module: nn.Module
    index: int
    inputs: jax.Array
    call: Callable[[jax.Array], jax.Array]

    @property
    def path(self) -> tuple[str, ...]:
        """Where its parameters stand in those of the model."""
        return self.module.path

    @property
    def params(self) -> Mapping[str, jax.Array]:
        """`kernel`, and `bias` if it has one."""
        return self.module.variables["params"]

    def linear(self, params: Mapping[str, jax.Array], inputs: jax.Array) -> jax.Array:
        """The outputs for other inputs and parameters; no bias where none is given.

        Linear in the inputs without a bias, and in the parameters.
        """
        settings: Any = {"use_bias": "bias" in params}
        bare = self.module.clone(parent=None, name=None, **settings)
        outputs: Any = bare.apply({"params": dict(params)}, inputs)
        return outputs


_NOT_LINEAR = (
    "layers with parameters must be Dense, Conv or linear like them for this source of "
    "gradients, got "
)

Handler = Callable[[Layer], jax.Array]
"""What is done in the place of a layer's call: gives its outputs."""


def with_layers(function: Callable[[], Any], handle: Handler) -> Any:
    """`function()`, in which a handler takes the place of every layer.

    Args:
        function: applies a flax model.
        handle: is given the linear layers in the order of their calls.

    Raises:
        ValueError: a layer with parameters is not linear, or is called twice.
    """
    seen: list[tuple[str, ...]] = []
    busy = False

    def intercept(
        next_call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        nonlocal busy
        module = context.module
        if busy or context.method_name != "__call__":
            return next_call(*args, **kwargs)
        params = module.variables.get("params", {})
        own = {name for name, x in params.items() if not isinstance(x, Mapping)}
        if not own:
            return next_call(*args, **kwargs)
        if not _looks_linear(module, own):
            raise ValueError(_NOT_LINEAR + _named(module))
        if module.path in seen:
            raise ValueError(
                "a layer must be called once for this source of gradients, "
                f"got {_named(module)} a second time"
            )
        seen.append(module.path)
        # A handler may apply a layer again, which is none of the model's.
        busy = True
        try:
            (inputs,) = (*args, *kwargs.values())
            return handle(
                Layer(
                    module=module,
                    index=len(seen) - 1,
                    inputs=inputs,
                    call=next_call,
                )
            )
        finally:
            busy = False

    with nn.intercept_methods(intercept):
        return function()


def outputs_of_layers(
    function: Callable[..., Any], *args: Any
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """What the layers of a function's model give, in the order of their calls.

    Nothing is run.

    Raises:
        ValueError: there is no layer, or one that cannot be handled.
    """
    found: list[jax.ShapeDtypeStruct] = []

    def note(layer: Layer) -> jax.Array:
        outputs = layer.call(layer.inputs)
        _require_linear(layer, outputs)
        found.append(jax.ShapeDtypeStruct(outputs.shape, outputs.dtype))
        return outputs

    jax.eval_shape(lambda *args: with_layers(lambda: function(*args), note), *args)
    if not found:
        raise ValueError(
            "a flax model of Dense and Conv layers is needed for this source of "
            "gradients, got a loss that calls none"
        )
    return tuple(found)


def _looks_linear(module: nn.Module, params: set[str]) -> bool:
    fields = {field.name for field in dataclasses.fields(module)}
    return {"kernel"} <= params <= {"kernel", "bias"} and "use_bias" in fields


def _require_linear(layer: Layer, outputs: jax.Array) -> None:
    """Raises ValueError unless a layer is linear in its inputs and its parameters."""
    if isinstance(layer.module, nn.Dense | nn.Conv):
        return
    params = dict(layer.params)
    ways = (
        (lambda x: layer.linear({"kernel": params["kernel"]}, x), layer.inputs),
        (lambda params: layer.linear(params, layer.inputs), params),
    )
    try:
        for linear, like in ways:
            jax.linear_transpose(linear, like)(outputs)
    except Exception as error:
        # Whatever JAX says of an operation that it cannot transpose.
        raise ValueError(_NOT_LINEAR + _named(layer.module)) from error


def _named(module: nn.Module) -> str:
    return f"{type(module).__name__} {'/'.join(module.path) or '(the model itself)'}"
