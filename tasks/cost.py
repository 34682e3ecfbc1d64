"""What a training step of a task costs, without compiling it."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from tasks.base import Task, TaskFamily


_KEY = jax.eval_shape(lambda: jax.random.key(0))


class Cost(NamedTuple):
    """What one step takes: a batch, a loss and its gradient, for one training.

    Attributes:
        parameters: numbers that are trained.
        flops: floating-point operations.
        bytes: read and written by all operations, as if none were fused.
        operations: array operations, one after another.
        memory: bytes that are held at once at the end of the forward pass: parameters,
            their gradient, the batch, and what the backward pass needs.
    """

    parameters: int
    flops: float
    bytes: float
    operations: float
    memory: int

    @property
    def seconds(self) -> float:
        """Of a step on the reference core: see `ReferenceCore`."""
        core = ReferenceCore()
        return (
            self.operations * core.seconds_per_operation
            + self.flops / core.flops_per_second
            + self.bytes / core.bytes_per_second
        )


@dataclasses.dataclass(frozen=True)
class ReferenceCore:
    """A machine to compare tasks on: one ordinary core, many trainings at once.

    Another machine is faster or slower, but mostly by the same factor for all tasks;
    `l2o bench tasks` reports how well the order holds.
    """

    seconds_per_operation: float = 2e-7
    flops_per_second: float = 1.5e10
    bytes_per_second: float = 2.5e10


def estimate(family: TaskFamily) -> Cost:
    """The cost of a step of the family's nominal task.

    Floating-point operations and bytes are those that XLA's analysis finds in the
    program before any optimisation; it counts the body of a loop once, so that the
    bodies of loops of known length are analysed apart and multiplied. Nothing is
    compiled and nothing is run.
    """
    spec = jax.eval_shape(family.nominal)
    params = jax.eval_shape(lambda f, s, k: f.task(s).init(k), family, spec, _KEY)

    def start(family: TaskFamily, spec: Any, params: Any, key: jax.Array) -> Any:
        return family.task(spec).gradients.init(params, key)

    memory = jax.eval_shape(start, family, spec, params, _KEY)

    def step(
        family: TaskFamily, spec: Any, memory: Any, params: Any, key: jax.Array
    ) -> Any:
        task = family.task(spec)
        batch_key, loss_key = jax.random.split(key)
        batch = task.batch(batch_key, "train")
        return task.gradients.step(memory, params, loss_key, batch)

    program = jax.make_jaxpr(step)(family, spec, memory, params, _KEY)
    flops, moved, operations = _of(program)
    return Cost(
        parameters=sum(math.prod(p.shape) for p in jax.tree.leaves(params)),
        flops=flops,
        bytes=moved,
        operations=operations,
        memory=_held(family, spec, params),
    )


def _of(program: Any) -> tuple[float, float, float]:
    """Flops, bytes and operations of a closed jaxpr."""
    function = core.jaxpr_as_fun(program)
    shapes = [
        jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in program.jaxpr.invars
    ]
    analysis = jax.jit(function).lower(*shapes).cost_analysis() or {}
    flops = float(analysis.get("flops", 0.0))
    moved = float(analysis.get("bytes accessed", 0.0))
    operations, loops = _walk(program.jaxpr)
    for length, body in loops:
        inner = _of(body)
        flops += (length - 1) * inner[0]
        moved += (length - 1) * inner[1]
        operations += length * inner[2]
    return flops, moved, operations


def _walk(jaxpr: Any) -> tuple[float, list[tuple[int, Any]]]:
    """Operations outside loops, and the loops of known length with their bodies."""
    operations, loops = 0.0, []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            loops.append((equation.params["length"], equation.params["jaxpr"]))
            continue
        inner = [
            part
            for value in equation.params.values()
            for part in (value if isinstance(value, tuple | list) else [value])
            if isinstance(part, core.Jaxpr | core.ClosedJaxpr)
        ]
        if not inner:
            operations += 1
        for part in inner:
            found = _walk(part.jaxpr if isinstance(part, core.ClosedJaxpr) else part)
            operations += found[0]
            loops += found[1]
    return operations, loops


def _held(family: TaskFamily, spec: Any, params: Any) -> int:
    """Bytes between the forward and the backward pass."""

    def forward(family: TaskFamily, spec: Any, params: Any, key: jax.Array) -> Any:
        task: Task = family.task(spec)
        batch = task.batch(key, "train")
        loss = lambda p: task.loss(p, key, batch)[0]
        return params, batch, jax.vjp(loss, params)[1]

    held = jax.eval_shape(forward, family, spec, params, _KEY)
    return sum(
        math.prod(x.shape) * jnp.dtype(x.dtype).itemsize
        for x in jax.tree.leaves((held, params))
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    )
