"""`l2o list`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from l2o import released
from l2o.gradients import SOURCES
from l2o.learned import ARCHITECTURES
from l2o.learned.facts import facts
from l2o.storage import read_manifest
from meta_test.baselines import BASELINES
from meta_test.families import AUGMENTATIONS, FAMILIES
from meta_test.listing import (
    describe_baseline,
    describe_cells,
    describe_dataset,
    describe_family,
    describe_suite,
)
from meta_test.suites import SUITES
from meta_train import config as configs
from tasks import DATASETS


def listing(what: str) -> dict[str, dict[str, Any]]:
    """`l2o list`: names by kind, with a line on each; facts on an architecture."""

    def first_line(thing: Any) -> str:
        return (thing.__doc__ or "").strip().splitlines()[0]

    def checkpoint(name: str) -> str:
        manifest = read_manifest(released.find(name))
        return (
            f"{manifest['architecture']}, {manifest['num_meta_parameters']:,} "
            f"meta-parameters, {manifest['licence']}"
        )

    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "optimizers": lambda: {n: checkpoint(n) for n in released.names()},
        "baselines": lambda: {n: describe_baseline(b) for n, b in BASELINES.items()},
        "architectures": lambda: {
            n: dataclasses.asdict(facts(c())) for n, c in ARCHITECTURES.items()
        },
        "tasks": lambda: {n: describe_family(n) for n in FAMILIES},
        "augmentations": lambda: {n: first_line(c) for n, c in AUGMENTATIONS.items()},
        "gradients": lambda: {n: first_line(s) for n, s in SOURCES.items()},
        "suites": lambda: {n: describe_suite(s) for n, s in SUITES.items()},
        "datasets": lambda: {n: describe_dataset(n) for n in DATASETS},
        "configs": lambda: {n: _describe(n) for n in configs.names()},
    }
    kinds = {
        "all": tuple(makers),
        "optimizers": ("optimizers", "baselines", "architectures"),
    }
    wanted = kinds.get(what, (what,))
    if what == "suites":
        cells = {f"cells of {n}": describe_cells(s) for n, s in SUITES.items()}
    else:
        cells = {}
    return {kind: makers[kind]() for kind in wanted} | cells


def _describe(name: str) -> str:
    config = configs.load(name)
    tables = (config.task,) if isinstance(config.task, dict) else config.task
    tasks = [str(t.get("name", t.get("family", t.get("suite")))) for t in tables]
    return (
        f"{configs.about(name)}: {config.optimizer.get('arch')} on {', '.join(tasks)}, "
        f"{config.outer.steps:,} outer steps, {config.estimator.pairs} pairs"
    )
