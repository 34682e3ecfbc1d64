"""What tasks cost: estimates beside measurements, and compiling a family's window."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2o.learned.facts import table
from meta_test.families import TYPICAL, build_family
from meta_train.bench.meta_training import OuterStep
from meta_train.bench.optimizers import OPTIMIZERS
from meta_train.bench.timing import median_seconds
from meta_train.devices import use_all_cores
from tasks.base import TaskFamily
from tasks.cost import estimate
from tasks.data.arrays import Labelled, Text
from tasks.distributions import DISTRIBUTIONS


TRAININGS = 8
"""Trainings at once, as meta-training runs them."""

OPTIMIZER = "small_fc"


def tasks(programs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Estimates of the cost of tasks beside measurements.

    Of every family's typical task: `parameters`, `flops`, `bytes`, `memory_bytes` (held
    between the passes), `estimated_seconds` of a training step on the reference core,
    `measured_seconds` here (of gradient descent, 8 trainings at once, for one of them),
    `temporary_bytes` (of the compiled program, for one training), and
    `window_compile_seconds`: tracing and compiling an outer step of meta-training of
    `OPTIMIZER` with 8 pairs and a window of 50.

    Of tasks drawn from all `tasks.distributions`: their number, the rank correlation
    (Spearman) of estimated and measured seconds, and that of estimated memory and the
    program's temporary bytes.

    Args:
        programs: tasks drawn from each distribution.
        say: called with a line before each measurement.

    Returns:
        `families`, by name; `sampled`, a list of rows; `rank_correlation`;
        `memory_rank_correlation`; `devices`.
    """
    use_all_cores()
    families: dict[str, Any] = {}
    for name, typical in TYPICAL.items():
        say(f"{name}: typical task")
        family = build_family({"family": name, **typical})
        families[name] = row(family) | {
            "window_compile_seconds": OuterStep(
                OPTIMIZERS[OPTIMIZER], 8, family
            ).compile_seconds
        }
    sampled = []
    for number, (name, make) in enumerate(DISTRIBUTIONS.items()):
        key = jax.random.fold_in(jax.random.key(0), number)
        for drawn in make().sample(key, programs):
            say(f"{name}: {_shown(drawn.parameters)}")
            sampled.append(
                {"family": name, "parameters_drawn": _shown(drawn.parameters)}
                | row(drawn.family)
            )
    columns = {
        column: np.array([r[column] for r in sampled])
        for column in (
            "estimated_seconds",
            "measured_seconds",
            "memory_bytes",
            "temporary_bytes",
        )
    }
    return {
        "families": families,
        "sampled": sampled,
        "rank_correlation": rank_correlation(
            columns["estimated_seconds"], columns["measured_seconds"]
        ),
        "memory_rank_correlation": rank_correlation(
            columns["memory_bytes"], columns["temporary_bytes"]
        ),
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }


def row(family: TaskFamily) -> dict[str, Any]:
    """Estimates and measurements of one task."""
    cost = estimate(family)
    # Enough steps that a call takes some milliseconds.
    steps = max(4, min(2000, math.ceil(5e-3 / (TRAININGS * cost.seconds))))
    compiled = (
        jax.jit(_descend, static_argnums=2)
        .lower(family, jax.random.key(0), steps)
        .compile()
    )
    call = lambda: jax.block_until_ready(compiled(family, jax.random.key(0))) and None
    [seconds] = median_seconds([call], repeats=7)
    analysis = compiled.memory_analysis()
    temporary = 0 if analysis is None else analysis.temp_size_in_bytes
    return {
        "parameters": cost.parameters,
        "flops": cost.flops,
        "bytes": cost.bytes,
        "memory_bytes": cost.memory,
        "estimated_seconds": cost.seconds,
        "measured_seconds": seconds / (steps * TRAININGS),
        "temporary_bytes": temporary / TRAININGS,
    }


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's: Pearson's correlation of the ranks, equal values sharing theirs."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def _descend(family: TaskFamily, key: jax.Array, steps: int) -> Any:
    """Gradient descent on `TRAININGS` tasks of the family."""

    def one(key: jax.Array) -> Any:
        spec_key, init_key, memory_key, key = jax.random.split(key, 4)
        task = family.task(family.sample(spec_key))
        params = task.init(init_key)

        def body(carry: Any, key: jax.Array) -> Any:
            params, memory = carry
            batch_key, loss_key = jax.random.split(key)
            batch = task.batch(batch_key, "train")
            loss, grads, memory = task.gradients.step(memory, params, loss_key, batch)
            moved = lambda p, g: (p - 1e-3 * g).astype(p.dtype)
            return (jax.tree.map(moved, params, grads), memory), loss

        memory = task.gradients.init(params, memory_key)
        (params, _), losses = jax.lax.scan(
            body, (params, memory), jax.random.split(key, steps)
        )
        return params, jnp.mean(losses)

    return jax.vmap(one)(jax.random.split(key, TRAININGS))


def _shown(parameters: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {'+'.join(v.names) if isinstance(v, Labelled | Text) else v}"
        for name, v in parameters.items()
    )


def text(result: Mapping[str, Any]) -> str:
    """The result of `tasks` for people."""

    def shown(row: Mapping[str, Any]) -> dict[str, Any]:
        found = {
            "parameters": row["parameters"],
            "kflop": round(row["flops"] / 1e3),
            "kB moved": round(row["bytes"] / 1e3),
            "kB held": round(row["memory_bytes"] / 1e3),
            "estimated us": f"{1e6 * row['estimated_seconds']:.1f}",
            "measured us": f"{1e6 * row['measured_seconds']:.1f}",
        }
        if "window_compile_seconds" in row:
            found["window compiles in, s"] = f"{row['window_compile_seconds']:.1f}"
        return found

    families = {name: shown(row) for name, row in result["families"].items()}
    sampled = {
        f"{row['family']}: {row['parameters_drawn']}": shown(row)
        for row in result["sampled"]
    }
    return "\n".join(
        [
            "typical task of every family, a step of one training:",
            table(families),
            "tasks drawn from all distributions:",
            table(sampled),
            f"rank correlation over {len(sampled)} tasks: "
            f"time {result['rank_correlation']:.3f}, "
            f"memory {result['memory_rank_correlation']:.3f}",
            f"devices: {result['devices']}",
        ]
    )
