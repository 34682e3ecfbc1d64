"""Parameters that are sharded over the explicit axes of a mesh."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec as P

from l2o.learned.base import Theta


WithTheta = Callable[..., optax.GradientTransformationExtraArgs]


def shardable(with_theta: WithTheta) -> WithTheta:
    """Leaves explicit axes of a mesh to XLA's partitioner, inside the optimizer.

    JAX refuses operations whose sharding is ambiguous along explicit axes, and those of
    a learned optimizer are: it puts tensors side by side and multiplies matrices. What
    is known is how its results have to lie. Updates lie as their gradients do, a state
    as the one before. Where the shape of a parameter is found in that of an array of
    the first state, the array's axes are sharded as the parameter's, but for those that
    parameters of one shape disagree about.

    Without explicit axes nothing is changed.

    Args:
        with_theta: the method of an architecture.

    Returns:
        The method, for parameters that are sharded in any way.

    Source: https://docs.jax.dev/en/latest/notebooks/explicit-sharding.html.
    """

    @functools.wraps(with_theta)
    def bound(
        self: Any, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        # Theta and horizon may be on the mesh too, so they are arguments below.
        tx = with_theta(self, theta, num_steps=num_steps)

        def init(params: optax.Params) -> Any:
            mesh = _explicit_mesh(params)
            if mesh is None:
                return tx.init(params)

            def call(theta: Theta, num_steps: Any, params: optax.Params) -> Any:
                return with_theta(self, theta, num_steps=num_steps).init(params)

            # Of what lies nowhere nothing is ambiguous.
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
            )
            state = jax.eval_shape(call, theta, num_steps, shapes)
            lie = _as_parameters(state, params, mesh)
            return _on_auto_axes(call, mesh, lie, theta, num_steps, params)

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, Any]:
            mesh = _explicit_mesh((updates, params))
            if mesh is None:
                return tx.update(updates, state, params, **extra_args)

            def call(theta: Theta, num_steps: Any, arrays: Any, *args: Any) -> Any:
                tx = with_theta(self, theta, num_steps=num_steps)
                return tx.update(*args, **extra_args | arrays)

            arrays = {k: v for k, v in extra_args.items() if isinstance(v, jax.Array)}
            lie = jax.tree.map(lambda x: _sharding(x, mesh), (updates, state))
            args = theta, num_steps, arrays, updates, state, params
            return _on_auto_axes(call, mesh, lie, *args)

        return optax.GradientTransformationExtraArgs(init, update)

    return bound


def _explicit_mesh(tree: Any) -> Any:
    """The mesh of the first leaf that has explicit axes; None where there is none."""
    for leaf in jax.tree.leaves(tree):
        mesh = jax.typeof(leaf).sharding.mesh
        if mesh.explicit_axes:
            # Of what is not under tracing the devices are known, and needed.
            return mesh if isinstance(leaf, Tracer) else leaf.sharding.mesh
    return None


def _sharding(x: Any, mesh: Any) -> NamedSharding:
    """Where an array lies on the mesh; on all devices, if it is not on the mesh yet."""
    own = jax.typeof(x).sharding
    return NamedSharding(mesh, own.spec if own.mesh == mesh.abstract_mesh else P())


def _as_parameters(state: Any, params: Any, mesh: Any) -> Any:
    """Shardings of a state: those of parameters whose shape is found in a leaf's."""
    specs: dict[tuple[int, ...], list[Any]] = {}
    for p in jax.tree.leaves(params):
        axes = list(_sharding(p, mesh).spec) if jax.numpy.ndim(p) else []
        axes += [None] * (jax.numpy.ndim(p) - len(axes))
        known = specs.setdefault(jax.numpy.shape(p), axes)
        # Tensors of one shape lie side by side in one array.
        known[:] = [a if a == b else None for a, b in zip(known, axes, strict=True)]

    def spec(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        size = len(leaf.shape)
        # The largest first: `[16, 8]` is found in `[2, 16, 8]` before `[8]` is.
        for shape in sorted(specs, key=len, reverse=True):
            for start in range(size - len(shape), -1, -1):
                if shape and leaf.shape[start : start + len(shape)] == shape:
                    return NamedSharding(mesh, P(*[None] * start, *specs[shape]))
        return NamedSharding(mesh, P())

    return jax.tree.map(spec, state)


def _on_auto_axes(
    function: Callable[..., Any], mesh: Any, out_sharding: Any, *args: Any
) -> Any:
    with_auto = jax.sharding.auto_axes(
        function, axes=mesh.explicit_axes, out_sharding=out_sharding
    )
    return with_auto(*args)
