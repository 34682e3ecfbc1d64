"""Rate of meta-training, beside plain SGD in the same process."""

import math
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec as P

from l2o.learned import ARCHITECTURES
from meta_test.families import build_family
from meta_train.bench.timing import median_seconds
from meta_train.build import build_trainer, state_sharding
from meta_train.config import EstimatorConfig, OuterConfig, TrainConfig
from meta_train.devices import compiler_options, use_all_cores
from tasks.base import TaskFamily


WINDOW = 50


def meta_training(optimizer: str, pairs: int) -> dict[str, Any]:
    """Rate of meta-training on the 64-32-10 digits task, batch 64, window 50.

    The ceiling is measured in the same process, in turns with it: `2 * pairs` vmapped
    trainings of the same task with the same sampling of batches, each step
    `params - lr * grad`, as one program. Spread over all devices, as meta-training's
    blocks are, the same trainings are faster where there are several; that rate is
    given beside it.

    Args:
        optimizer: a name of `ARCHITECTURES`, at its default sizes.
        pairs: antithetic pairs.

    Returns:
        `inner_steps_per_second` (median over repetitions), the same of the ceiling, the
        fraction, the rate of the ceiling's trainings when spread, `compile_seconds`
        (tracing and compiling an outer step) and `peak_memory_bytes` (resident, of the
        process).
    """
    use_all_cores()
    family = build_family({"family": "image_mlp", "data": "digits", "hidden": [32]})
    outer_step = OuterStep(optimizer, pairs, family)
    outer_step.start()
    together, spread = _sgd(family, pairs)
    seconds, sgd_seconds, spread_seconds = median_seconds(
        [outer_step, together, spread]
    )
    rate = 2 * pairs * WINDOW / seconds
    return {
        "optimizer": optimizer,
        "pairs": pairs,
        "inner_steps_per_second": rate,
        "sgd_inner_steps_per_second": 2 * pairs * WINDOW / sgd_seconds,
        "fraction_of_sgd": sgd_seconds / seconds,
        "sgd_spread_inner_steps_per_second": 2 * pairs * WINDOW / spread_seconds,
        "compile_seconds": outer_step.compile_seconds,
        "peak_memory_bytes": _peak_memory(),
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }


class OuterStep:
    """A compiled outer step, which each call makes once more."""

    def __init__(self, optimizer: str, pairs: int, family: TaskFamily) -> None:
        """Traces and compiles it, and notes the seconds.

        Args:
            optimizer: a name of `ARCHITECTURES`, at its default sizes.
            pairs: antithetic pairs, of windows of `WINDOW`.
            family: what is meta-trained on.
        """
        if optimizer not in ARCHITECTURES:
            raise ValueError(
                f"optimizer must be one of {', '.join(ARCHITECTURES)}, "
                f"got {optimizer!r}"
            )
        config = TrainConfig(
            name="bench",
            optimizer={"arch": optimizer},
            task={},
            schedule={"kind": "log_uniform", "shortest": 100, "longest": 1000},
            meta_loss={"kind": "mean"},
            estimator=EstimatorConfig(pairs=pairs, block=_block(pairs), window=WINDOW),
            outer=OuterConfig(steps=1, steps_per_dispatch=1),
        )
        self._trainer = build_trainer(config, family)
        key = jax.random.key(0)
        shapes = jax.eval_shape(lambda t: t.init(key), self._trainer)
        self._sharding = state_sharding(self._trainer.estimator.mesh, shapes)
        placed = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            self._sharding,
        )
        step = jax.jit(lambda t, state: t.step(state), donate_argnums=1)
        began = time.perf_counter()
        self._compiled = step.lower(self._trainer, placed).compile(compiler_options())
        self.compile_seconds = time.perf_counter() - began

    def start(self) -> None:
        """Draws the state that the first call moves."""
        init = jax.jit(lambda t, key: t.init(key), out_shardings=self._sharding)
        self._state = init(self._trainer, jax.random.key(0))

    def __call__(self) -> None:
        self._state, metrics = self._compiled(self._trainer, self._state)
        jax.block_until_ready(metrics)


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
