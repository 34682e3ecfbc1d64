"""Tunes a hand-designed optimizer with Optuna, cell by cell, in studies that survive.

A trial trains one choice of the learning rate and of every setting of the baseline's
space at the seeds of tuning. What is minimised is the median over them of the final
loss on the split `inner_valid`, infinite where as many have diverged. Samplers that fit
numbers cannot have infinity, and one huge number would make all others the same to a
Gaussian process. So an Optuna study is told min(loss, $L_0 + |L_0|$), with the median
initial loss $L_0$; reports have the losses themselves.

A study is named after a hash of all that its trials depend on. It is kept in SQLite,
and after any end of the process goes on to the number of trials that is asked for. A
trial that was in progress is then marked as failed, and does not count. Every trial has
a sampler of its own, seeded by the seed and the number of trials that count before it:
one that began with its seed again would draw what was drawn before. Thus a resumed
study repeats nothing, and has the very trials of one that was never interrupted; but
for CMA-ES and Hyperband, which in Optuna look at the numbers of trials, where failed
ones have theirs.

Optuna is an extra, and imported where it is used.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2o.config import config_hash, nearest, require_positive_int
from meta_test.baselines import (
    LEARNING_RATE,
    Baseline,
    Range,
    find_baseline,
    settings_label,
)
from meta_test.evaluate import PROTOCOL, Protocol, Row, evaluate
from meta_test.optimizers import Contender, fixed_sizes
from meta_test.parts import InParts
from meta_test.results import Results, environment, plain
from meta_test.suites import Cell, Suite


if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial


SAMPLERS: Mapping[str, tuple[str, ...]] = {
    "grid": ("optuna",),
    "random": ("optuna",),
    "tpe": ("optuna",),
    "gp": ("optuna", "scipy", "torch"),
    "cmaes": ("optuna", "cmaes"),
}
"""How trials are chosen, and the distributions that this takes.

* `grid`: all combinations of the learning rates in half decades and three values of
  each other setting, in random order. A grid that is smaller than the number of trials
  ends the study.
* `random`: from the ranges, uniformly or in the logarithm, as they say.
* `tpe`: the tree-structured Parzen estimator of Bergstra et al., 2011, "Algorithms for
  hyper-parameter optimization", multivariate; its first ten trials are random.
* `gp`: a Gaussian process, whose acquisition function by Optuna's documentation is log
  expected improvement (logEI); its first ten trials are random.
* `cmaes`: CMA-ES, Hansen, 2016, "The CMA evolution strategy: a tutorial".

`gp` and `cmaes` learn nothing from trials that were pruned.
"""

PRUNERS = ("none", "halving", "hyperband")
"""What cuts a trial short, at the end of a part of its trainings.

* `none`: nothing but divergence.
* `halving`: successive halving in the asynchronous form of Li et al., 2020, "A system
  for massively parallel hyperparameter tuning": after 1, 3 and 9 of ten parts a trial
  goes on if it is in the best third of those that came as far.
* `hyperband`: Li et al., 2018, "Hyperband: A novel bandit-based approach to
  hyperparameter optimization": with ten parts three such schemes, which begin after 1,
  3 and 9 of them and have 9, 5 and 3 of 17 trials. With `tpe` or `gp` it stands in for
  BOHB, Falkner et al., 2018, "BOHB: Robust and efficient hyperparameter optimization at
  scale". There the model is fitted to the largest budget that has enough trials; here
  `tpe` ranks whole trainings first and then pruned ones, by how far they came, and `gp`
  is fitted to whole trainings alone.

The schedule of learning rates spans the whole horizon: what is cut short is judged in
the middle of it.
"""

REDUCTION = 3
"""One in so many goes on; Hyperband's usual choice."""

CODE = ("parts.py", "statistics.py", "tuning.py")
"""Modules that trials depend on, beside those of every training."""

GRID_VALUES = 3
"""Of each setting but the learning rate, in a grid."""


@dataclasses.dataclass(frozen=True)
class Search:
    """How settings are searched for.

    Attributes:
        sampler: a key of `SAMPLERS`.
        pruner: one of `PRUNERS`.
        trials: of each cell, in all; those that were pruned or diverged count.
        seed: of the sampler.
    """

    sampler: str = "tpe"
    pruner: str = "none"
    trials: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for what, name, known in (
            ("a sampler", self.sampler, SAMPLERS),
            ("a pruner", self.pruner, PRUNERS),
        ):
            if name not in known:
                raise ValueError(
                    f"{what} must be one of {', '.join(known)}, "
                    f"got {name!r}{nearest(name, known)}"
                )
        require_positive_int("trials", self.trials)
        needed = SAMPLERS[self.sampler]
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            extra = "tune-gp" if "torch" in needed else "tune"
            raise ValueError(
                f"the sampler {self.sampler} must have {', '.join(needed)} installed, "
                f"{', '.join(missing)} is not: pip install 'l2o[{extra}]'"
            )


class Trying(NamedTuple):
    """A trial, or the comparison at the end of a cell, is about to start."""

    done: int  # trials of all cells
    total: int
    cell: Cell
    best: float  # validation loss in this cell so far


@dataclasses.dataclass(frozen=True, eq=False)
class Best:
    """The trial with the lowest validation loss.

    Attributes:
        settings: by the names of `meta_test.baselines.Baseline.settings`.
        valid_loss: the median over the seeds of tuning.
        diverged: at how many of these.
        trial: its number in the study.
    """

    settings: Mapping[str, float]
    valid_loss: float
    diverged: int
    trial: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tried:
    """The study of one cell.

    Attributes:
        cell: what was tuned on.
        study: its name in the file of studies.
        finished: trials that trained to the end.
        pruned: trials that were cut short.
        diverged: trials whose median loss is infinite.
        steps: inner steps of all these.
        best: None if all diverged.
        row: the best settings at the seeds of the comparison, None without any.
    """

    cell: Cell
    study: str
    finished: int
    pruned: int
    diverged: int
    steps: int
    best: Best | None
    row: Row | None


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """A baseline tuned on the cells of a suite."""

    optimizer: str
    suite: Suite
    search: Search
    protocol: Protocol
    cells: tuple[Tried, ...]


def tune(
    name: str,
    suite: Suite,
    search: Search,
    folder: Path,
    *,
    protocol: Protocol = PROTOCOL,
    results: Results | None = None,
    on_trial: Callable[[Trying], None] | None = None,
) -> Outcome:
    """Tunes a baseline on every cell, and trains the best at the cell's own seeds.

    Args:
        name: of the baseline, as `meta_test.baselines.find_baseline` takes it.
        suite: whose cells to tune on, each for itself.
        search: how.
        folder: of `studies.db`, with studies of before that are continued; made when it
            does not exist. One process at a time may use it.
        protocol: the seeds of tuning, the number of parts of a training, and when one
            is given up.
        results: where trainings of the comparison are kept.
        on_trial: called before each trial and each comparison; what it raises stops
            the search, and nothing is lost.

    Returns:
        The best settings, what they are worth, and what the search took.

    Raises:
        ValueError: there is no such baseline, or the initial loss of a cell is not
            finite.
    """
    row = find_baseline(name)
    folder.mkdir(parents=True, exist_ok=True)
    tried: list[Tried] = []

    def say_of(number: int, cell: Cell, study: "Study") -> None:
        if on_trial is not None:
            best, total = _best(study), len(suite.cells) * search.trials
            done = number * search.trials + len(_counted(study))
            loss = math.inf if best is None else best.valid_loss
            on_trial(Trying(done, total, cell, loss))

    with _opened(folder / "studies.db") as storage:
        for number, cell in enumerate(suite.cells):
            bench = InParts(name, cell, suite, protocol)
            study = _study(storage, bench, search)
            say = functools.partial(say_of, number, cell, study)
            _search(study, row, search, bench, say)
            say()
            tried.append(_concluded(study, bench, results))
    return Outcome(name, suite, search, protocol, tuple(tried))


@contextlib.contextmanager
def _opened(path: Path) -> "Iterator[RDBStorage]":
    import optuna
    import sqlalchemy

    # It would tell of every study and trial.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A path may hold what has a meaning in a URL.
    url = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string()
    storage = optuna.storages.RDBStorage(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _study(storage: "RDBStorage", bench: InParts, search: Search) -> "Study":
    """The study of a cell, as it was left; what was in progress then has failed."""
    import optuna

    study = optuna.create_study(
        storage=storage,
        study_name=_study_name(bench, search),
        pruner=_pruner(search.pruner, bench.parts),
        load_if_exists=True,
    )
    running = study.get_trials(
        deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)
    )
    for trial in running:
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _study_name(bench: InParts, search: Search) -> str:
    """The cell, and a hash of all that a trial depends on."""
    content = {
        "cell": bench.cell.fingerprint(),
        "num_records": bench.suite.num_records,
        "eval_batches": bench.suite.eval_batches,
        "optimizer": bench.name,
        "settings": find_baseline(bench.name).settings,
        # Not the number of trials: a search may be prolonged.
        "search": [search.sampler, search.pruner, search.seed],
        "tuning_seeds": bench.protocol.seeds,
        "parts": bench.parts,
        "hopeless": str(bench.protocol.hopeless),
        "environment": environment(),
        "code": {
            name: hashlib.sha256(
                Path(__file__).with_name(name).read_bytes()
            ).hexdigest()
            for name in CODE
        },
        "libraries": versions(search.sampler),
    }
    return f"{bench.cell.name}, {config_hash(plain(content))[:16]}"


def versions(sampler: str) -> dict[str, str]:
    """Of the distributions that a sampler takes."""
    return {name: metadata.version(name) for name in SAMPLERS[sampler]}


def _search(
    study: "Study",
    row: Baseline,
    search: Search,
    bench: InParts,
    say: Callable[[], None],
) -> None:
    """Makes the trials that are missing."""
    while (done := len(_counted(study))) < search.trials:
        if search.sampler == "grid" and not _enqueued(study, row, search.seed):
            return
        say()
        study.sampler = _sampler(search.sampler, _seed(search.seed, done))
        _try(study, row, bench, pruned=search.pruner != "none")


def _try(study: "Study", row: Baseline, bench: InParts, *, pruned: bool) -> None:
    """Makes one trial."""
    from optuna.trial import TrialState

    trial = study.ask({n: _distribution(r) for n, r in row.settings.items()})
    state, part = TrialState.COMPLETE, None
    for part in bench.train(trial.params):
        # A median that is infinite is the last: what diverged is not pruned.
        if not pruned or part.number == bench.parts or math.isinf(part.loss):
            continue
        trial.report(min(part.loss, part.ceiling), part.number)
        if trial.should_prune():
            state = TrialState.PRUNED
            break
    assert part is not None
    trial.set_user_attr("part", part._asdict())
    complete = state == TrialState.COMPLETE
    study.tell(trial, min(part.loss, part.ceiling) if complete else None, state)


def _distribution(where: Range) -> "FloatDistribution | IntDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    if where.is_whole:
        return IntDistribution(int(where.low), int(where.high), log=where.log)
    return FloatDistribution(where.low, where.high, log=where.log)


def _sampler(name: str, seed: int) -> "BaseSampler":
    from optuna import samplers

    made: dict[str, Callable[..., BaseSampler]] = {
        "grid": samplers.RandomSampler,  # Never asked: all settings are given.
        "random": samplers.RandomSampler,
        "tpe": samplers.TPESampler,
        "gp": samplers.GPSampler,
        "cmaes": samplers.CmaEsSampler,
    }
    return made[name](seed=seed)


def _pruner(name: str, parts: int) -> "BasePruner":
    from optuna import pruners

    made: dict[str, Callable[[], BasePruner]] = {
        "none": pruners.NopPruner,
        "halving": lambda: pruners.SuccessiveHalvingPruner(1, REDUCTION),
        "hyperband": lambda: pruners.HyperbandPruner(1, parts, REDUCTION),
    }
    return made[name]()


def _seed(seed: int, done: int) -> int:
    """Another one for every trial, of 32 bits."""
    digest = hashlib.sha256(f"{seed} {done}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _enqueued(study: "Study", row: Baseline, seed: int) -> bool:
    """Enqueues the next point of the grid; False when there is none.

    Optuna's own `GridSampler` takes a failed trial for a visited point: what was in
    progress when the process ended would never be trained.
    """
    from optuna.trial import TrialState

    if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        return True
    done = {trial.user_attrs["point"] for trial in _counted(study)}
    points = _grid(row)
    order = jax.random.permutation(jax.random.key(seed), len(points)).tolist()
    left = [point for point in order if point not in done]
    if left:
        study.enqueue_trial(points[left[0]], user_attrs={"point": left[0]})
    return bool(left)


def _grid(row: Baseline) -> list[dict[str, float]]:
    """All combinations of a few values of each setting."""
    axes = []
    for name, where in row.settings.items():
        count = len(row.learning_rates) if name == LEARNING_RATE else GRID_VALUES
        number = int if where.is_whole else float
        axes.append(map(number, where.at(np.linspace(0.0, 1.0, count))))
    return [
        dict(zip(row.settings, values, strict=True))
        for values in itertools.product(*axes)
    ]


def _counted(study: "Study") -> "list[FrozenTrial]":
    """The trials that were not cut off by the end of a process."""
    from optuna.trial import TrialState

    return study.get_trials(
        deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
    )


def _best(study: "Study") -> Best | None:
    """The whole trial with the lowest loss, the first among equals."""
    from optuna.trial import TrialState

    found = [
        Best(
            settings=trial.params,
            valid_loss=trial.user_attrs["part"]["loss"],
            diverged=trial.user_attrs["part"]["diverged"],
            trial=trial.number,
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ]
    finite = (best for best in found if math.isfinite(best.valid_loss))
    return min(finite, key=lambda best: best.valid_loss, default=None)


def _concluded(study: "Study", bench: InParts, results: Results | None) -> Tried:
    """What came of a study, and what its best is worth at the cell's own seeds."""
    from optuna.trial import TrialState

    trials, best = _counted(study), _best(study)
    parts = [trial.user_attrs["part"] for trial in trials]
    diverged = sum(math.isinf(part["loss"]) for part in parts)
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    row = None
    if best is not None:
        report = evaluate(
            [_contender(bench.name, best.settings)],
            dataclasses.replace(bench.suite, cells=(bench.cell,)),
            protocol=bench.protocol,
            results=results,
        )
        (row,) = report.rows
    return Tried(
        cell=bench.cell,
        study=study.study_name,
        finished=len(trials) - pruned - diverged,
        pruned=pruned,
        diverged=diverged,
        steps=sum(part["steps"] for part in parts),
        best=best,
        row=row,
    )


def _contender(name: str, settings: Mapping[str, float]) -> Contender:
    """A baseline at one choice of its settings."""
    make, traced = fixed_sizes(name, settings)
    return Contender(
        name=name,
        make=make,
        candidates={k: jnp.asarray([v], jnp.float32) for k, v in traced.items()},
        labels=(settings_label(settings),),
        evaluated=find_baseline(name).evaluated,
    )
