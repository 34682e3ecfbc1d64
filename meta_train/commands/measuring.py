"""`l2o bench`: a row of `BENCHMARKS` each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from meta_train.commands.said import say


class Measured(NamedTuple):
    """What a benchmark found.

    Attributes:
        result: for programs.
        text: for people.
        passed: whether what it tried came out well; True where it only measures.
    """

    result: dict[str, Any]
    text: str
    passed: bool = True


def bench(*, what: str, as_json: bool, **options: Any) -> int:
    """Runs a benchmark, which takes of the options of the command what it needs."""
    measured = BENCHMARKS[what](**options)
    if as_json:
        print(json.dumps(measured.result, allow_nan=False))
    else:
        print(measured.text)
    return 0 if measured.passed else 1


# A benchmark imports much, and one is run at a time.


def _meta_training(
    *, optimizer: str, pairs: int, family: str, breakdown: bool, **_: Any
) -> Measured:
    if breakdown:
        from meta_train.bench.breakdown import breakdown as measure
    else:
        from meta_train.bench.meta_training import meta_training as measure

    return _plain(measure(optimizer, pairs, family))


def _step(*, optimizer: str, width: int, layers: int, **_: Any) -> Measured:
    from meta_train.bench.step import step

    return _plain(step(optimizer, width, layers))


def _eval(**_: Any) -> Measured:
    from meta_train.bench.evaluation import evaluation

    return _plain(evaluation(say))


def _tasks(*, programs: int, **_: Any) -> Measured:
    from meta_train.bench.tasks import tasks, text

    result = tasks(programs, say)
    return Measured(result, text(result))


def _sources(**_: Any) -> Measured:
    from meta_train.bench.sources import sources, text

    result = sources(say)
    return Measured(result, text(result))


def _scaling(**_: Any) -> Measured:
    from meta_train.bench.scaling import scaling, text

    result = scaling(say)
    return Measured(result, text(result))


def _estimators(*, out: str, **_: Any) -> Measured:
    from meta_train.bench.estimators import estimators, text, write

    result = estimators(say)
    figure = Path(out or "estimators.png")
    write(result, figure)
    say(f"figure: {figure}")
    return Measured(result, text(result))


def _faults(*, quick: bool, seed: int, out: str, **_: Any) -> Measured:
    from meta_train.bench.faults.campaign import faults, is_passed, text, write

    result = faults(say, quick=quick, seed=seed)
    if out:
        write(result, Path(out))
        say(f"report: {out}")
    return Measured(result, text(result), is_passed(result))


def _plain(result: dict[str, Any]) -> Measured:
    """One figure a line."""
    from meta_train.metrics import flat

    lines = (
        f"{name}: {value:,.3f}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in flat(result).items()
    )
    return Measured(result, "\n".join(lines))


BENCHMARKS: dict[str, Callable[..., Measured]] = {
    "meta-training": _meta_training,
    "estimators": _estimators,
    "step": _step,
    "tasks": _tasks,
    "sources": _sources,
    "eval": _eval,
    "faults": _faults,
    "scaling": _scaling,
}
"""By name."""
