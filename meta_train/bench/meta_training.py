"""Rate of meta-training, beside plain SGD in the same process."""

import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P

from l2o.learned import LearnedOptimizer
from meta_test.compilation import compiler_options
from meta_test.families import TYPICAL, build_family
from meta_train.bench.optimizers import OPTIMIZERS, named
from meta_train.bench.timing import median_seconds
from meta_train.build import build_trainer, state_sharding
from meta_train.config import EstimatorConfig, OuterConfig, TrainConfig
from meta_train.devices import use_all_cores
from meta_train.estimators.windows import WindowEstimator
from meta_train.outer import OuterState
from tasks.base import TaskFamily


WINDOW = 50


def meta_training(
    optimizer: str, pairs: int, family: str = "image_mlp"
) -> dict[str, Any]:
    """Rate of meta-training by persistent evolution strategies, windows of `WINDOW`.

    The ceiling is measured in the same process, in turns with it: `2 * pairs` vmapped
    trainings of the same task with the same sampling of batches, each step
    `params - lr * grad`, as one program. Spread over all devices, as meta-training's
    blocks are, the same trainings are faster where there are several; that rate is
    given beside it.

    Args:
        optimizer: a name of `OPTIMIZERS`.
        pairs: antithetic pairs.
        family: a name of `meta_test.families.FAMILIES`; `image_mlp` is 64-32-10 on
            digits, batch 64.

    Returns:
        `inner_steps_per_second` (median over repetitions), the same of the ceiling, the
        fraction, the rate of the ceiling's trainings when spread,
        `outer_steps_per_second`; `dispatches_per_outer_step`, counted;
        `compile_seconds` (tracing and compiling an outer step);
        `state_bytes_per_particle`, what an unroll keeps between windows, and
        `temporary_bytes_per_particle`, what a block takes while it is computed, by
        XLA's analysis; `peak_memory_bytes` (resident, of the process).
    """
    use_all_cores()
    optimizer, lopt = named(optimizer, OPTIMIZERS)
    problems = benchmarked(family)
    outer_step = OuterStep(lopt, pairs, problems)
    outer_step.start()
    together, spread = _sgd(problems, pairs)
    seconds, sgd_seconds, spread_seconds = median_seconds(
        [outer_step, together, spread]
    )
    steps = 2 * pairs * WINDOW
    return {
        "optimizer": optimizer,
        "family": family,
        "pairs": pairs,
        "inner_steps_per_second": steps / seconds,
        "outer_steps_per_second": 1.0 / seconds,
        "dispatches_per_outer_step": outer_step.dispatches / outer_step.steps,
        "sgd_inner_steps_per_second": steps / sgd_seconds,
        "fraction_of_sgd": sgd_seconds / seconds,
        "sgd_spread_inner_steps_per_second": steps / spread_seconds,
        "compile_seconds": outer_step.compile_seconds,
        "state_bytes_per_particle": outer_step.state_bytes / (2 * pairs),
        "temporary_bytes_per_particle": outer_step.temporary_bytes / (2 * pairs),
        "peak_memory_bytes": _peak_memory(),
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }


def benchmarked(family: str) -> TaskFamily:
    """The family of that name as it is benchmarked; `image_mlp` with 32 hidden units.

    Raises:
        ValueError: there is no such family.
    """
    table = {"family": family} | TYPICAL.get(family, {})
    if family == "image_mlp":
        table["hidden"] = [32]
    return build_family(table, where="bench")


class OuterStep:
    """A compiled outer step, which each call makes once more.

    Attributes:
        compile_seconds: tracing and compiling it took.
        state_bytes: of the particles.
        temporary_bytes: of the program on a device, by XLA's analysis; times devices.
        dispatches: compiled programs that were called.
    """

    def __init__(
        self,
        lopt: LearnedOptimizer,
        pairs: int,
        family: TaskFamily,
        window: int = WINDOW,
    ) -> None:
        """Traces and compiles it.

        Args:
            lopt: the architecture.
            pairs: antithetic pairs.
            family: what is meta-trained on.
            window: inner steps.
        """
        config = TrainConfig(
            name="bench",
            optimizer={"arch": "learnable_sgd"},
            task={},
            schedule={"kind": "log_uniform", "shortest": 100, "longest": 1000},
            estimator=EstimatorConfig(pairs=pairs, block=_block(pairs), window=window),
            outer=OuterConfig(steps=1, steps_per_dispatch=1),
        )
        trainer = build_trainer(config, family)
        [estimator] = trainer.estimators
        assert isinstance(estimator, WindowEstimator)
        estimator = dataclasses.replace(estimator, lopt=lopt)
        self._trainer = dataclasses.replace(trainer, estimators=(estimator,), lopt=lopt)
        key = jax.random.key(0)
        shapes = jax.eval_shape(lambda t: t.init(key), self._trainer)
        self._sharding = state_sharding(estimator.mesh, shapes)
        placed = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            self._sharding,
        )
        step = jax.jit(lambda t, state: t.step(state), donate_argnums=1)
        began = time.perf_counter()
        self._compiled = step.lower(self._trainer, placed).compile(compiler_options())
        self.compile_seconds = time.perf_counter() - began
        self.state_bytes = sum(
            x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes.particles)
        )
        analysis = self._compiled.memory_analysis()
        devices = estimator.mesh.size
        self.temporary_bytes = (
            0 if analysis is None else devices * analysis.temp_size_in_bytes
        )
        self.dispatches = 0

    def start(self) -> None:
        """Draws the state that the first call moves."""
        init = jax.jit(lambda t, key: t.init(key), out_shardings=self._sharding)
        self._state = init(self._trainer, jax.random.key(0))

    def __call__(self) -> None:
        self._state, metrics = self._compiled(self._trainer, self._state)
        self.dispatches += 1
        jax.block_until_ready(metrics)

    def handed_through(self) -> Callable[[], None]:
        """A call of a program that takes and gives the same state, and does nothing."""
        place = lambda state: jax.tree.map(jnp.copy, state)
        program = jax.jit(lambda t, state: state, donate_argnums=1)
        held = [place(self._state)]

        def call() -> None:
            held[0] = program(self._trainer, held[0])
            jax.block_until_ready(held[0])

        return call

    @property
    def state(self) -> OuterState:
        """After the last call."""
        return self._state

    @property
    def steps(self) -> int:
        """Outer steps that were made."""
        return int(self._state.step)


def _block(pairs: int) -> int:
    """The largest block of at most 4 pairs that divides them."""
    return max(n for n in (1, 2, 4) if pairs % n == 0)


def _sgd(family: TaskFamily, pairs: int) -> list[Callable[[], None]]:
    """Windows of plain SGD without an evolution strategy: in one program, spread."""
    learning_rate = 0.1

    def one(family: TaskFamily, key: jax.Array) -> Any:
        task = family.task(family.sample(key))

        def body(params: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            batch = task.batch(key, "train")
            (loss, _), grads = jax.value_and_grad(task.loss, has_aux=True)(
                params, key, batch
            )
            params = jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)
            return params, loss

        return jax.lax.scan(body, task.init(key), jax.random.split(key, WINDOW))

    def together(family: TaskFamily, keys: jax.Array) -> Any:
        return jax.vmap(lambda key: one(family, key))(keys)

    devices = math.gcd(2 * pairs, len(jax.devices()))
    mesh = jax.make_mesh((devices,), ("particles",), axis_types=(AxisType.Auto,))
    spread = jax.shard_map(
        together,
        mesh=mesh,
        in_specs=(P(), P("particles")),
        out_specs=P("particles"),
        check_vma=False,
    )
    keys = jax.random.split(jax.random.key(1), 2 * pairs)

    def call(layout: Callable[..., Any]) -> Callable[[], None]:
        run = jax.jit(layout)
        return lambda: jax.block_until_ready(run(family, keys)) and None

    return [call(together), call(spread)]


def _peak_memory() -> int:
    """Largest resident size of this process, or of the device where it keeps count."""
    counts = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in counts:
        return counts["peak_bytes_in_use"]
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
