"""The command line: `l2o train`, `eval`, `plot`, `list`, `bench`, `import`, `prepare`.

Exit status: see `meta_train.status`. An error is one line on stderr.
"""

import contextlib
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg, subcommand

from l2o import __version__
from meta_train.commands.said import say


Overrides = Annotated[UseAppendAction[list[str]], arg(name="set", metavar="A.B=VALUE")]


@dataclass(frozen=True)
class Common:
    """What every command takes."""

    _: KW_ONLY
    json: bool = False
    """Print one JSON object on stdout and nothing else."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Train(Common):
    """Meta-train a learned optimizer, save it and evaluate it."""

    config: Annotated[Positional[str], arg(metavar="CONFIG")] = ""
    """A packaged config or a TOML file. Default: small, or the run's own to resume."""
    overrides: Overrides = field(default_factory=list)
    """Change a field of the config; repeatable."""
    out: Annotated[str, arg(metavar="DIR")] = ""
    """Directory of the run, gs://BUCKET/... as well. Default: runs/NAME, numbered if
    taken."""
    resume: bool = False
    """Continue the run in that directory, bit for bit."""
    budget: Annotated[str, arg(metavar="TIME")] = ""
    """Stop in so much time, like 90s, 30m or 2h, evaluation included."""
    coordinator: Annotated[str, arg(metavar="HOST:PORT")] = ""
    """Run as one of several processes, of which number 0 listens here. Default: as TPU
    VMs, SLURM, Open MPI or a job of Kubernetes tell, else one process."""
    process_id: int | None = None
    """The number of this process, from 0."""
    num_processes: int | None = None
    """How many processes there are."""


@dataclass(frozen=True)
class LaunchLocal(Common):
    """Run `l2o train` in several processes of this machine, restarted after faults."""

    command: Annotated[Positional[list[str]], arg(metavar="-- train ...")] = field(
        default_factory=list
    )
    """The command of the run, with the directory as --out DIR."""
    processes: int = 2
    """How many."""
    devices_per_process: int = 1
    """Virtual CPU devices of each."""
    max_restarts: int = 10
    """Give up after so many, and after 3 that made no new checkpoint."""
    grace: float = 10.0
    """Seconds from SIGTERM to SIGKILL for the others, once one process has failed."""


@dataclass(frozen=True)
class Eval(Common):
    """Judge learned optimizers on a suite, beside tuned baselines."""

    optimizers: Annotated[Positional[list[str]], arg(metavar="OPTIMIZER")] = field(
        default_factory=list
    )
    """Released optimizers by name, or directories."""
    suite: str = "digits"
    """What to judge on; see l2o list suites."""
    cells: Annotated[UseAppendAction[list[str]], arg(metavar="TEXT")] = field(
        default_factory=list
    )
    """Only cells of the suite whose name contains this; repeatable."""
    baselines: Annotated[list[str], arg(metavar="NAME")] = field(default_factory=list)
    """Which hand-designed optimizers beside: see l2o list optimizers; NAME+SCHEDULE
    with another schedule: constant, cosine, warmup, warmup_cosine or onecycle.
    Default: those of the suite."""
    gradient: Annotated[
        UseAppendAction[list[str]], arg(metavar="NAME[:SETTING=VALUE,...]")
    ] = field(default_factory=list)
    """Feed all optimizers from another source than backprop, see l2o list gradients;
    repeatable: every task is then judged with each."""
    rates: int = 0
    """So many learning rates of each baseline, two at least, spread over its range.
    Default: its grid of half decades."""
    random: int = 0
    """In the place of rates, so many random settings of each baseline: the learning
    rate and all that l2o list optimizers gives a range, but for whole numbers."""
    tuning_seeds: int = 3
    """At how many seeds each of them is tried, which are not those of the suite."""
    multipliers: int = 0
    """So many factors of the updates of each learned optimizer are tried, in a
    contender of its own beside the untuned one."""
    guard: bool = False
    """Run every learned optimizer also under l2o.guard, in a contender of its own, and
    the Adam that guards fall back to alone."""
    cards: bool = False
    """Add report cards: how far each optimizer converges, from any weights, fast,
    generalises, is robust, small and needs no tuning. That takes further trainings on
    three small problems, most of a minute an optimizer."""
    fresh: bool = False
    """Make all trainings anew; else those that are known from before are not."""
    out: Annotated[str, arg(metavar="DIR")] = ""
    """Where to leave report.json, report.txt, report.html and pictures. Default:
    reports/SUITE."""


@dataclass(frozen=True)
class Tune(Common):
    """Search for the best settings of a baseline on every cell, with Optuna."""

    optimizer: Annotated[Positional[str], arg(metavar="OPTIMIZER")]
    """A baseline, or NAME+SCHEDULE; see l2o list optimizers."""
    suite: str = "digits"
    """Whose cells to tune on, each for itself; see l2o list suites."""
    cells: Annotated[UseAppendAction[list[str]], arg(metavar="TEXT")] = field(
        default_factory=list
    )
    """Only cells of the suite whose name contains this; repeatable."""
    sampler: Literal["grid", "random", "tpe", "gp", "cmaes"] = "tpe"
    """What chooses settings. gp: a Gaussian process with the acquisition function log
    expected improvement (logEI); it needs torch, the extra tune-gp."""
    pruner: Literal["none", "halving", "hyperband"] = "none"
    """What cuts trainings short. hyperband with tpe or gp stands in for BOHB."""
    trials: int = 50
    """Of each cell, in all: those that the directory has from before count."""
    tuning_seeds: int = 3
    """At how many seeds each trial trains, which are not those of the suite."""
    seed: int = 0
    """Of the sampler."""
    out: Annotated[str, arg(metavar="DIR")] = ""
    """Where studies are kept, and tuning.json is left. Default:
    tuning/SUITE-OPTIMIZER."""


@dataclass(frozen=True)
class Compare(Common):
    """Compare two reports of eval, paired by cell and seed."""

    a: Annotated[Positional[str], arg(metavar="A.json")]
    """The report.json that is compared with."""
    b: Annotated[Positional[str], arg(metavar="B.json")]
    """The report.json that is judged."""
    optimizer: Annotated[str, arg(metavar="NAME")] = ""
    """Only this optimizer of A. Default: every one that both have."""
    against: Annotated[str, arg(metavar="NAME")] = ""
    """This one of B beside it. Default: the one of the same name."""


@dataclass(frozen=True)
class Inspect(Common):
    """Look into one training: sharpness, step sizes, effective learning rates."""

    optimizer: Annotated[Positional[str], arg(metavar="OPTIMIZER")]
    """A released optimizer, a directory, or a baseline; see l2o list optimizers."""
    task: str = "image_mlp"
    """The task family, whose typical problem it is; see l2o list tasks."""
    learning_rate: float = 0.0
    """Of a baseline. Default: the middle of its grid."""
    gradient: Annotated[str, arg(metavar="NAME[:SETTING=VALUE,...]")] = ""
    """Feed it from another source than backprop; see l2o list gradients."""
    steps: int = 1000
    """Of the training; a multiple of 50."""
    seed: int = 0
    """Of the initial parameters and the batches."""
    out: Annotated[str, arg(metavar="FILE")] = "inspection.png"
    """The picture."""


@dataclass(frozen=True)
class Map(Common):
    """Draw which trainings converge, over two hyper-parameters, or zoom into that."""

    optimizer: Annotated[Positional[str], arg(metavar="OPTIMIZER")]
    """A released optimizer, a directory, or a baseline; see l2o list optimizers."""
    task: str = "image_mlp"
    """The task family, whose typical problem it is; see l2o list tasks."""
    x: Annotated[str, arg(metavar="AXIS[:LOW:HIGH]")] = ""
    """The horizontal axis: learning_rate or a setting of a baseline, multiplier of a
    learned optimizer, or init_scale. Default: learning_rate or multiplier."""
    y: Annotated[str, arg(metavar="AXIS[:LOW:HIGH]")] = ""
    """The vertical axis. Default: init_scale."""
    size: int = 128
    """Trainings along each axis."""
    steps: int = 100
    """Of each training."""
    seed: int = 0
    """Of the initial parameters and the batches, which all trainings share."""
    zoom: float = 2.0
    """So many times narrower is each of several frames."""
    frames: int = 1
    """Maps of a zoom, drawn as an animated GIF."""
    at: Annotated[str, arg(metavar="X,Y")] = ""
    """Zoom to the boundary near this point. Default: to where it is richest."""
    out: Annotated[str, arg(metavar="FILE")] = ""
    """The picture. Default: map.png, map.gif of several frames."""


@dataclass(frozen=True)
class Plot(Common):
    """Draw the course of meta-training runs, finished or not."""

    runs: Annotated[Positional[list[str]], arg(metavar="RUN")] = field(
        default_factory=list
    )
    """Directories of runs."""
    out: Annotated[str, arg(metavar="FILE")] = ""
    """The picture. Default: curves.png in the run, meta-training.png for several."""


@dataclass(frozen=True)
class List(Common):
    """List what there is."""

    what: Positional[
        Literal[
            "all",
            "optimizers",
            "architectures",
            "tasks",
            "augmentations",
            "gradients",
            "suites",
            "datasets",
            "configs",
        ]
    ] = "all"
    """Of what kind."""


@dataclass(frozen=True)
class Bench(Common):
    """Measure: meta-training, estimators, steps, tasks, gradients, faults and more."""

    what: Positional[
        Literal[
            "meta-training",
            "estimators",
            "step",
            "tasks",
            "sources",
            "eval",
            "faults",
            "scaling",
        ]
    ]
    """The benchmark."""
    optimizer: str = "small_fc"
    """The architecture, in a step at its published sizes; there a baseline too."""
    pairs: int = 8
    """Antithetic pairs, in meta-training."""
    family: str = "image_mlp"
    """The task family, in meta-training."""
    breakdown: bool = False
    """Of meta-training: where the time of an outer step goes, in place of the rate."""
    width: int = 1024
    """Of the dense layers, in a step."""
    layers: int = 8
    """Number of dense layers, in a step."""
    programs: int = 4
    """Tasks that are drawn from each distribution, in tasks."""
    quick: bool = False
    """Of faults: few of each kind."""
    seed: int = 0
    """Of faults: their moments, places and layouts."""
    out: Annotated[str, arg(metavar="PATH")] = ""
    """The picture, of estimators (estimators.png by default); a directory for the
    report, of faults."""


@dataclass(frozen=True)
class Reference(Common):
    """Measure where the trainings of a suite start, and where tuned Adam ends."""

    suites: Annotated[Positional[list[str]], arg(metavar="SUITE")] = field(
        default_factory=list
    )
    """Which suites; see l2o list suites."""
    out: Annotated[str, arg(metavar="DIR")] = "references"
    """Directory of a file SUITE.json each; cells that it has are not measured again."""


@dataclass(frozen=True)
class Import(Common):
    """Make a checkpoint of weights that other projects published (flax msgpack)."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """The file of weights, usually named theta.state."""
    arch: Annotated[str, arg(metavar="NAME")]
    """Of what: small_fc, velo, celo, celo_adam, celo2 or celo2_base."""
    out: Annotated[str, arg(metavar="DIR")]
    """Directory to make, named as the optimizer."""
    overrides: Annotated[
        UseAppendAction[list[str]], arg(name="set", metavar="FIELD=VALUE")
    ] = field(default_factory=list)
    """Set a field of the architecture that weights do not tell; repeatable."""
    licence: str = "unknown"
    """The licence of the weights, for the manifest."""


@dataclass(frozen=True)
class Prepare(Common):
    """Download a data set of TensorFlow Datasets, for reading without a network."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """Its name there, like cifar10 or imagenet_resized/8x8."""
    data_dir: Annotated[str, arg(metavar="DIR")] = ""
    """Where to keep data sets. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[LaunchLocal, subcommand("launch-local")]
    | Annotated[Eval, subcommand("eval")]
    | Annotated[Tune, subcommand("tune")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Inspect, subcommand("inspect")]
    | Annotated[Map, subcommand("map")]
    | Annotated[Plot, subcommand("plot")]
    | Annotated[List, subcommand("list")]
    | Annotated[Bench, subcommand("bench")]
    | Annotated[Reference, subcommand("reference")]
    | Annotated[Import, subcommand("import")]
    | Annotated[Prepare, subcommand("prepare")]
)


_FOR_ALL = tuple(f"--{flag.name}" for flag in fields(Common))
_ASSIGNMENT = re.compile(r"[\w.-]+=")


def arranged(arguments: Sequence[str]) -> list[str]:
    """Arguments as tyro takes them, where people write them in other ways too.

    Flags of all commands may come before the command, several assignments may follow
    one `--set`, and the command of launch-local needs no `--` before it.
    """
    rest = list(arguments)
    first = []
    while rest and rest[0] in _FOR_ALL:
        first.append(rest.pop(0))
    if rest[:1] == ["launch-local"] and "--" not in rest and "train" in rest:
        rest.insert(rest.index("train"), "--")
    result: list[str] = []
    setting = False
    for before, one in zip(["", *rest], rest, strict=False):
        setting = before == "--set" or (setting and _ASSIGNMENT.match(one) is not None)
        if setting and before != "--set":
            result.append("--set")
        result.append(one)
    return [*result[:1], *first, *result[1:]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: the arguments; those of the process when None.

    Returns:
        The exit status.
    """
    arguments = arranged(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--version"]:
        print(f"l2o {__version__}")
        return 0
    command = _parse(arguments)
    if isinstance(command, int):
        return command
    try:
        status = _RUN[type(command)](command)
        _flush()
        return status
    except Exception as error:
        if command.debug:
            traceback.print_exc()
        print(f"l2o: error: {_one_line(error)}", file=sys.stderr)
        with contextlib.suppress(OSError):
            _flush()
        return 1
    except KeyboardInterrupt:
        print("l2o: interrupted", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str]) -> Any:
    """The command, or an exit status."""
    # tyro draws its errors in a box; an error here is one line.
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                Command,
                args=arguments,
                prog="l2o",
                description=__doc__.splitlines()[0] if __doc__ else "",
                config=(FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]+", "\n", box.getvalue())
        lines = [" ".join(line.split()) for line in text.splitlines()]
        # The first line is the title of the box.
        message = " ".join([line for line in lines if line][1:])
        if message:
            print(f"l2o: error: {message}", file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else 2


def _flush() -> None:
    """Writes what stdout still holds while there is someone to tell of a failure."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            sys.stdout.close()  # Or the interpreter tries again, and has more to say.
        raise


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    known = isinstance(error, ValueError | OSError | ArithmeticError)
    return text if known else f"{type(error).__name__}: {text}"


def _train(command: Train) -> int:
    from meta_train.commands.training import train
    from meta_train.distributed import detected, given

    cluster = given(command.coordinator, command.process_id, command.num_processes)
    return train(
        config=command.config,
        overrides=command.overrides,
        out=command.out,
        resume=command.resume,
        budget=command.budget,
        cluster=cluster or detected(),
        as_json=command.json,
    )


def _launch_local(command: LaunchLocal) -> int:
    from l2o.config import require_positive_int
    from l2o.filesystem import filesystem_of, place
    from meta_train.launch import launch

    require_positive_int("devices_per_process", command.devices_per_process)
    if command.command[:1] != ["train"]:
        got = " ".join(command.command) or "nothing"
        print(f"l2o: error: the command must be train, got {got}", file=sys.stderr)
        return 2
    train = _parse(command.command)
    if isinstance(train, int):
        return train
    if not train.out:
        print("l2o: error: train must be given --out DIR here", file=sys.stderr)
        return 2
    run = place(train.out)
    if filesystem_of(run).is_file(run / "config.json") and not train.resume:
        raise ValueError(
            f"a new run needs a directory of its own, {run} holds a run: pass --resume "
            "to continue it or --out for another place"
        )
    environment = {"JAX_NUM_CPU_DEVICES": str(command.devices_per_process)}
    status, restarts = launch(
        [sys.executable, "-m", "meta_train", *command.command],
        run,
        processes=command.processes,
        max_restarts=command.max_restarts,
        grace=command.grace,
        environment=os.environ | environment,
        stdout=sys.stderr.buffer if command.json else sys.stdout.buffer,
        stderr=sys.stderr.buffer,
        say=lambda text: say(f"launch-local: {text}"),
    )
    if command.json:
        print(json.dumps({"exit_status": status, "restarts": restarts}))
    return status


def _eval(command: Eval) -> int:
    from l2o.filesystem import mounted
    from meta_train.commands.judging import evaluate

    if not command.optimizers:
        print("l2o: error: eval needs at least one OPTIMIZER", file=sys.stderr)
        return 2
    parts = command.suite, *(g.partition(":")[0] for g in command.gradient)
    return evaluate(
        optimizers=command.optimizers,
        suite_name=command.suite,
        cells=command.cells,
        baseline_names=command.baselines,
        gradients=command.gradient,
        rates=command.rates,
        random=command.random,
        tuning_seeds=command.tuning_seeds,
        multipliers=command.multipliers,
        guards=command.guard,
        with_cards=command.cards,
        fresh=command.fresh,
        out=mounted(command.out or Path("reports") / "-".join(dict.fromkeys(parts))),
        as_json=command.json,
    )


def _tune(command: Tune) -> int:
    from l2o.filesystem import mounted
    from meta_train.commands.judging import tune

    default = Path("tuning") / f"{command.suite}-{command.optimizer}"
    return tune(
        optimizer=command.optimizer,
        suite_name=command.suite,
        cells=command.cells,
        sampler=command.sampler,
        pruner=command.pruner,
        trials=command.trials,
        tuning_seeds=command.tuning_seeds,
        seed=command.seed,
        out=mounted(command.out or default),
        as_json=command.json,
    )


def _compare(command: Compare) -> int:
    from meta_train.commands.judging import compare

    return compare(
        a=Path(command.a),
        b=Path(command.b),
        optimizer=command.optimizer,
        against=command.against,
        as_json=command.json,
    )


def _inspect(command: Inspect) -> int:
    from meta_train.commands.judging import inspect

    return inspect(
        optimizer=command.optimizer,
        task=command.task,
        learning_rate=command.learning_rate,
        gradient=command.gradient,
        steps=command.steps,
        seed=command.seed,
        out=Path(command.out),
        as_json=command.json,
    )


def _map(command: Map) -> int:
    from meta_train.commands.judging import draw_map

    return draw_map(
        optimizer=command.optimizer,
        task=command.task,
        x=command.x,
        y=command.y,
        size=command.size,
        steps=command.steps,
        seed=command.seed,
        zoom=command.zoom,
        frames=command.frames,
        at=command.at,
        out=command.out,
        as_json=command.json,
    )


def _plot(command: Plot) -> int:
    from meta_train.commands.files import plot

    if not command.runs:
        print("l2o: error: plot needs at least one RUN", file=sys.stderr)
        return 2
    return plot(runs=command.runs, out=command.out, as_json=command.json)


def _list(command: List) -> int:
    from l2o.learned.facts import table
    from meta_train.commands.listing import listing

    entries = listing(command.what)
    if command.json:
        print(json.dumps(entries))
        return 0
    for kind, rows in entries.items():
        print(f"{kind}:")
        if all(isinstance(row, dict) for row in rows.values()):
            print(table(rows))
            continue
        width = max(map(len, rows), default=0)
        for name, text in rows.items():
            print(f"  {name:{width}}  {text}".rstrip())
    return 0


def _bench(command: Bench) -> int:
    from meta_train.commands.measuring import bench

    return bench(
        what=command.what,
        optimizer=command.optimizer,
        pairs=command.pairs,
        family=command.family,
        breakdown=command.breakdown,
        width=command.width,
        layers=command.layers,
        programs=command.programs,
        quick=command.quick,
        seed=command.seed,
        out=command.out,
        as_json=command.json,
    )


def _reference(command: Reference) -> int:
    from meta_train.commands.files import reference

    if not command.suites:
        print("l2o: error: reference needs at least one SUITE", file=sys.stderr)
        return 2
    return reference(suites=command.suites, out=Path(command.out), as_json=command.json)


def _import(command: Import) -> int:
    from l2o.filesystem import place
    from meta_train.commands.files import import_weights

    return import_weights(
        file=Path(command.file),
        arch=command.arch,
        out=place(command.out),
        overrides=command.overrides,
        licence=command.licence,
        as_json=command.json,
    )


def _prepare(command: Prepare) -> int:
    from meta_train.commands.files import prepare

    return prepare(name=command.name, data_dir=command.data_dir, as_json=command.json)


_RUN: dict[type, Any] = {
    Train: _train,
    LaunchLocal: _launch_local,
    Eval: _eval,
    Tune: _tune,
    Compare: _compare,
    Inspect: _inspect,
    Map: _map,
    Plot: _plot,
    List: _list,
    Bench: _bench,
    Reference: _reference,
    Import: _import,
    Prepare: _prepare,
}
