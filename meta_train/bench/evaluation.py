"""A sweep of trainings as one program, beside the same trainings one by one."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from meta_test.baselines import find_baseline
from meta_test.inner_loop import derive_keys, run
from meta_test.optimizers import baseline
from meta_test.suites import SUITES
from meta_test.sweep import run_grid
from meta_train.devices import use_all_cores


RATES = 14
REPEATS = 3
SETTINGS: dict[str, Any] = {"num_records": 100, "eval_batches": 16}


def evaluation(say: Callable[[str], None], horizon: int = 1_000) -> dict[str, Any]:
    """Adam at 14 learning rates and 5 seeds on the plain digits MLP, 64-32-10.

    One by one, each training is a call of one compiled function, with no more trainings
    than one in it; as a sweep, all are one program, which deals them to the devices.
    Both are traced and compiled anew every time, and in turns.

    Args:
        say: called with a line before each repetition.
        horizon: steps of each training, a multiple of 100.

    Returns:
        Medians over the repetitions: `sweep_seconds` and `one_by_one_seconds`,
        compilation included, and their quotient `times_one_by_one`; the same without
        compilation, `sweep_run_seconds` and `one_by_one_run_seconds`;
        `inner_steps_per_second` of the sweep once it is compiled;
        `largest_difference` of the two's final train losses; `devices`.
    """
    use_all_cores()
    cell = SUITES["quick"].cells[0]
    family = cell.family()
    specs = cell.specs(family)
    adam = baseline("adam", find_baseline("adam").spread(RATES))
    settings = {**SETTINGS, "record_every": horizon // SETTINGS["num_records"]}

    def sweep() -> np.ndarray:
        curves = run_grid(
            family, specs, adam.make, adam.candidates, cell.seeds, **settings
        )
        return np.asarray(curves.final.train_loss)

    one = jax.jit(functools.partial(_one, make=adam.make, settings=settings))

    def one_by_one() -> np.ndarray:
        found = [
            jax.device_get(one(family, specs, rate, place, seed).final.train_loss)
            for rate in adam.candidates
            for place, seed in enumerate(cell.seeds)
        ]
        return np.asarray(found).reshape(RATES, -1)

    seconds: dict[str, list[float]] = {}
    difference = 0.0
    for repeat in range(REPEATS):
        say(f"repetition {repeat + 1} of {REPEATS}")
        jax.clear_caches()
        found = []
        for name, call in (("sweep", sweep), ("one_by_one", one_by_one)):
            for label in (f"{name}_seconds", f"{name}_run_seconds"):
                began = time.perf_counter()
                losses = call()
                seconds.setdefault(label, []).append(time.perf_counter() - began)
            found.append(losses)
        difference = max(difference, float(np.nanmax(np.abs(found[0] - found[1]))))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    steps = RATES * len(cell.seeds) * horizon
    return {
        "trainings": RATES * len(cell.seeds),
        "horizon": horizon,
        **medians,
        "times_one_by_one": medians["sweep_seconds"] / medians["one_by_one_seconds"],
        "inner_steps_per_second": steps / medians["sweep_run_seconds"],
        "largest_difference": difference,
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }


def _one(
    family: Any,
    specs: Any,
    rate: jax.Array,
    place: jax.Array,
    seed: jax.Array,
    *,
    make: Any,
    settings: dict[str, Any],
) -> Any:
    spec = jax.tree.map(lambda x: x[place], specs)
    return run(family, spec, make, rate, derive_keys(seed), **settings)
