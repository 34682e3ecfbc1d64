"""What the commands do."""

import contextlib
import dataclasses
import hashlib
import json
import re
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import l2o
from l2o import released
from l2o.checkpoint import theta_sha256
from l2o.config import build, override
from l2o.gradients import SOURCES
from l2o.learned import ARCHITECTURES
from l2o.learned.facts import facts
from l2o.storage import read_manifest
from meta_test import (
    across_figure,
    card_figure,
    compare as comparisons,
    inspection,
    inspection_figure,
    pictures,
    reference as references,
    report as reports,
    trainability,
    trainability_figure,
    tuning,
    tuning_report,
)
from meta_test.card import Card, cards as make_cards
from meta_test.evaluate import (
    PROTOCOL,
    Progress as Cells,
    Protocol,
    Report,
    evaluate as judge,
)
from meta_test.families import AUGMENTATIONS, FAMILIES, TYPICAL, build_family
from meta_test.listing import (
    describe_baseline,
    describe_cells,
    describe_dataset,
    describe_family,
    describe_suite,
)
from meta_test.optimizers import (
    BASELINES,
    Contender,
    baseline,
    baselines,
    find_baseline,
    learned,
)
from meta_test.results import Results, default_folder
from meta_test.suites import SUITES, Cell, Suite, suite_named
from meta_train import config as configs, plot as plots
from meta_train.build import build_trainer, warm_start
from meta_train.config import TrainConfig
from meta_train.devices import use_all_cores
from meta_train.directory import (
    RunDirectory,
    free_directory,
    make_directory,
    newest_directory,
)
from meta_train.progress import progress
from meta_train.run import BUDGET, RunResult, run
from meta_train.signals import Interrupted, StopSignal
from tasks import DATASETS
from tasks.data import tfds, tfds_prepare
from tasks.data.arrays import Examples
from tasks.data.tfds_find import data_directory, find


RECORDS = 50
"""Points on the curves of `l2o inspect`."""

RUNS = Path("runs")
"""Where runs go that are given no directory."""


def train(
    *,
    config: str,
    overrides: Sequence[str],
    out: str,
    resume: bool,
    budget: str,
    as_json: bool,
) -> int:
    """`l2o train`: meta-train, save, evaluate, say where everything is."""
    began = time.monotonic()
    allowed = _seconds(budget) if budget else None
    use_all_cores()
    settings, directory = _locate(config, overrides, out, resume)
    # Before anything is written: a config that cannot be built leaves no trace.
    trainer = build_trainer(settings)
    judged = suite_named(settings.suite) if settings.suite else None
    if settings.validation.suite:
        suite_named(settings.validation.suite, where="validation.suite")
    if settings.warm_start and not directory.has_run:
        warm_start(settings.warm_start, trainer.lopt, settings.warm_start_tensors)
    deadline = None
    if allowed is not None:
        deadline = began + allowed - (_reserve(judged, allowed) if judged else 0.0)
    again = f"l2o train --resume --out {shlex.quote(str(directory.path))}"
    with StopSignal(_say) as stop, directory.locked(), _intact(again):
        if directory.has_run and resume:
            directory.require_same_config(settings)
            if directory.is_finished(settings):
                _say(f"the run in {directory.path} is finished, nothing to resume")
                _print_json(as_json, _summary(directory, finished=True))
                return 0
        with progress("meta-training") as bar:
            bar.line(f"run directory: {directory.path}")
            result = run(
                settings,
                trainer,
                directory,
                resume=resume,
                stop=stop,
                progress=bar,
                deadline=deadline,
            )
        if result.stopped_by == BUDGET:
            _say(
                f"the budget of {budget} ends the run at outer step {result.step} of "
                f"{settings.outer.steps}, all is saved; to continue: {again}"
            )
        elif not result.finished:
            _say(
                f"stopped by {result.stopped_by} at outer step {result.step} of "
                f"{settings.outer.steps}, all is saved; to continue: {again}"
            )
            _print_json(as_json, _summary(directory, finished=False, result=result))
            return 0
        report = None
        if judged is not None:
            try:
                contenders = _contenders([str(directory.optimizer)])
                report, _ = _judge(contenders, judged, directory.report, stop)
            except Interrupted as signal:
                _say(
                    f"stopped by {signal} during the evaluation, the optimizer is "
                    f"saved in {directory.optimizer}; to evaluate it: {again}"
                )
                _print_json(as_json, _summary(directory, finished=False, result=result))
                return 0
    if report is not None and not as_json:
        reports.print_report(report, sys.stdout)
    _say(f"optimizer: {directory.optimizer}")
    _say(f"metrics:   {directory.metrics}")
    if report is not None:
        _say(f"report:    {directory.report / 'report.json'}")
        _say(f"page:      {directory.report / 'report.html'}")
        _say(f"curves:    {directory.report / 'curves.png'}")
    _say(f"done in {time.monotonic() - began:.0f} s")
    _print_json(as_json, _summary(directory, finished=result.finished, result=result))
    return 0


def evaluate(
    *,
    optimizers: Sequence[str],
    suite_name: str,
    cells: Sequence[str],
    baseline_names: Sequence[str],
    gradients: Sequence[str],
    rates: int,
    random: int,
    tuning_seeds: int,
    multipliers: int,
    guards: bool,
    with_cards: bool,
    fresh: bool,
    out: Path,
    as_json: bool,
) -> int:
    """`l2o eval`: judge learned optimizers beside baselines."""
    use_all_cores()
    chosen = suite_named(suite_name)
    protocol = Protocol(
        tuning_seeds=tuning_seeds,
        multipliers=multipliers,
        guards=guards,
        rates=rates,
        random=random,
    )
    if cells:
        chosen = chosen.restricted_to(*cells)
    if baseline_names:
        baselines(baseline_names)  # A name that is wrong is said now.
        chosen = dataclasses.replace(chosen, baselines=tuple(baseline_names))
    if gradients:
        chosen = chosen.with_gradients(*gradients)
    contenders = _contenders(optimizers)
    with StopSignal(_say) as stop:
        try:
            report, cards = _judge(
                contenders,
                chosen,
                out,
                stop,
                protocol=protocol,
                with_cards=with_cards,
                fresh=fresh,
            )
        except Interrupted as signal:
            _say(
                f"stopped by {signal}, no report was written; what was trained is "
                "kept, to go on: the same command again"
            )
            _print_json(as_json, {"finished": False, "stopped_by": str(signal)})
            return 0
    _print_json(as_json, reports.as_json(report, cards=cards))
    if not as_json:
        reports.print_report(report, sys.stdout, cards)
    _say(f"report:    {out / 'report.json'}")
    _say(f"page:      {out / 'report.html'}")
    _say(f"curves:    {out / 'curves.png'}")
    return 0


def tune(
    *,
    optimizer: str,
    suite_name: str,
    cells: Sequence[str],
    sampler: str,
    pruner: str,
    trials: int,
    tuning_seeds: int,
    seed: int,
    out: Path,
    as_json: bool,
) -> int:
    """`l2o tune`: search for the best settings of a baseline on every cell."""
    use_all_cores()
    chosen = suite_named(suite_name)
    if cells:
        chosen = chosen.restricted_to(*cells)
    find_baseline(optimizer)  # A name that is wrong is said now.
    search = tuning.Search(sampler, pruner, trials, seed)
    protocol = Protocol(tuning_seeds=tuning_seeds)
    done = 0
    with StopSignal(_say) as stop, RunDirectory(out).locked():
        try:
            with progress("tuning") as bar:

                def on_trial(trying: tuning.Trying) -> None:
                    nonlocal done
                    done = trying.done
                    stop.check()
                    facts = {"cell": trying.cell.name, "best": f"{trying.best:.4g}"}
                    bar.update(trying.done, trying.total, facts)

                outcome = tuning.tune(
                    optimizer,
                    chosen,
                    search,
                    out,
                    protocol=protocol,
                    results=Results(default_folder(), bar.line),
                    on_trial=on_trial,
                )
        except Interrupted as signal:
            _say(
                f"stopped by {signal} after {done} trials, all of them are kept in "
                f"{out}; to go on: the same command again"
            )
            _print_json(as_json, {"finished": False, "stopped_by": str(signal)})
            return 0
        path = tuning_report.write(outcome, out)
    _print_json(as_json, tuning_report.as_json(outcome))
    if not as_json:
        tuning_report.print_outcome(outcome, sys.stdout)
    _say(f"report:    {path}")
    return 0


def compare(*, a: Path, b: Path, optimizer: str, against: str, as_json: bool) -> int:
    """`l2o compare`: two reports of `l2o eval`, paired by cell and seed."""
    pairs = comparisons.compare_reports(
        _read_report(a), _read_report(b), optimizer=optimizer, against=against
    )
    _print_json(as_json, comparisons.as_json(pairs))
    if not as_json:
        comparisons.print_pairs(pairs, sys.stdout)
    return 0


def inspect(
    *,
    optimizer: str,
    task: str,
    learning_rate: float,
    gradient: str,
    steps: int,
    seed: int,
    out: Path,
    as_json: bool,
) -> int:
    """`l2o inspect`: one short training, measured and drawn."""
    table = {"family": task} | TYPICAL.get(task, {})
    if gradient:
        table["augment"] = [{"kind": "gradient_source", "source": gradient}]
    family = build_family(table, where="inspect")
    own, candidate = optimizer.partition("+")[0], 0
    if own in BASELINES:
        # Without one, the middle of the grid.
        given = [learning_rate] if learning_rate else BASELINES[own].learning_rates
        contender, candidate = baseline(optimizer, given), len(given) // 2
    elif learning_rate:
        raise ValueError(
            f"--learning-rate is that of a baseline, got {learning_rate:g} for the "
            f"learned optimizer {optimizer}"
        )
    else:
        [contender] = _contenders([optimizer])
    if steps < 1 or steps % RECORDS:
        raise ValueError(
            f"--steps must be a positive multiple of {RECORDS}, the points of the "
            f"picture, got {steps}"
        )
    found = inspection.inspect_training(
        family,
        contender,
        candidate=candidate,
        steps=steps,
        records=RECORDS,
        seed=seed,
    )
    inspection_figure.write(found, out)
    _print_json(as_json, inspection.as_json(found) | {"figure": str(out)})
    if not as_json:
        if not contender.learned:
            print(f"{optimizer} at a learning rate of {found.candidate}")
        print(f"mean loss of the last steps: {found.loss[-1]:.4g}")
        print(f"sharpness: {found.sharpness[-1]:.4g}, 2/lr: {found.critical[-1]:.4g}")
        if gradient:
            first, last = found.alignment[[0, -1]]
            print(f"angle with backprop's gradient: from {first:.0f} to {last:.0f} deg")
    _say(f"figure:    {out}")
    return 0


def draw_map(
    *,
    optimizer: str,
    task: str,
    x: str,
    y: str,
    size: int,
    steps: int,
    seed: int,
    zoom: float,
    frames: int,
    at: str,
    out: str,
    as_json: bool,
) -> int:
    """`l2o map`: which trainings converge, over two hyper-parameters."""
    use_all_cores()
    family = build_family({"family": task} | TYPICAL.get(task, {}), where="map")
    if optimizer.partition("+")[0] in BASELINES:
        subject = trainability.of_baseline(optimizer)
    else:
        [contender] = _contenders([optimizer])
        subject = trainability.of_learned(contender)
    film = frames > 1
    figure = Path(out or ("map.gif" if film else "map.png"))
    if film and figure.suffix != ".gif":
        raise ValueError(f"--out of several frames must end in .gif, got {out}")
    pictures.require_format(figure)
    if at and not film:
        raise ValueError(f"--at is for --frames of 2 or more, got {at} and {frames}")
    maps, done, began = (), 0, 0.0
    pieces = trainability.explore(
        family,
        subject,
        subject.axis(x or next(iter(subject.ranges)), "--x"),
        subject.axis(y or trainability.INIT_SCALE, "--y"),
        size=size,
        steps=steps,
        seed=seed,
        frames=frames,
        factor=zoom,
        at=_point(at) if at else None,
    )
    with StopSignal(_say) as stop, progress("map") as bar:
        for maps in pieces:
            began = began or time.monotonic()  # The program is compiled by now.
            done = sum(int(found.trained.sum()) for found in maps)
            facts: dict[str, Any] = {"frame": len(maps)}
            if maps[-1].trained.any():
                facts["converged"] = f"{100 * maps[-1].share_converged:.3g} %"
            bar.update(done, frames * size**2, facts)
            if stop.received:
                break
    seconds = time.monotonic() - began
    drawn = [found for found in maps if found.trained.any()]
    if drawn:
        trainability_figure.write(drawn, figure)
    summary = {
        "optimizer": optimizer,
        "task": task,
        "size": size,
        "steps": steps,
        "seed": seed,
        "finished": stop.received is None,
        "frames": [trainability.as_json(found) for found in drawn],
        "seconds": round(seconds, 3),
        "trainings_per_second": round(done / seconds, 1),
        "figure": str(figure) if drawn else None,
    }
    _print_json(as_json, summary)
    if not as_json:
        for found in drawn:
            print(trainability.as_text(found))
    if stop.received:
        _say(f"stopped by {stop.received} after {done:,} trainings")
    elif len(drawn) < frames:
        _say(f"frame {len(drawn)} has no boundary: the zoom ends there")
    if drawn:
        _say(f"{done / seconds:,.0f} trainings a second")
        _say(f"figure:    {figure}")
    return 0


def plot(*, runs: Sequence[str], out: str, as_json: bool) -> int:
    """`l2o plot`: the course of runs in one picture."""
    curves = [plots.read_run(Path(run)) for run in runs]
    default = (
        Path(runs[0]) / "curves.png" if len(runs) == 1 else Path("meta-training.png")
    )
    figure = Path(out) if out else default
    plots.write(curves, figure)
    _say(f"figure:    {figure}")
    ends = {r.name: {"steps": r.rows[-1]["step"], "last": r.rows[-1]} for r in curves}
    _print_json(as_json, {"figure": str(figure), "runs": ends})
    return 0


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


def import_weights(
    *,
    file: Path,
    arch: str,
    out: Path,
    overrides: Sequence[str],
    licence: str,
    as_json: bool,
) -> int:
    """`l2o import`: a checkpoint of published weights, and where they came from."""
    if out.exists():
        raise FileExistsError(f"--out must be a directory to make, {out} exists")
    flags: dict[str, Any] = {}
    for assignment in overrides:
        flags = override(flags, assignment)
    lopt, theta = l2o.import_public(file, arch, **flags)
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    source = {"file": file.name, "sha256": sha256, "arch": arch}
    l2o.save(out, lopt, theta, licence=licence, source=source)
    manifest = read_manifest(out)
    shown = ("architecture", "sizes", "num_meta_parameters", "theta_sha256", "licence")
    if as_json:
        summary = {"directory": str(out), "source": source}
        _print_json(True, summary | {name: manifest[name] for name in shown})
    else:
        print(
            f"{out}: {manifest['architecture']}, {manifest['num_meta_parameters']:,} "
            f"meta-parameters, from {file.name} of sha256 {sha256}"
        )
    return 0


def reference(*, suites: Sequence[str], out: Path, as_json: bool) -> int:
    """`l2o reference`: measure where trainings start and where tuned Adam ends."""
    chosen = [suite_named(name) for name in suites]
    found = {}
    with StopSignal(_say) as stop:
        try:
            for one in chosen:
                with progress(one.name) as bar:

                    def on_cell(done: int, total: int, cell: Cell) -> None:
                        stop.check()
                        bar.update(done, total, {"cell": cell.name})

                    found[one.name] = references.update(one, out, on_cell)
        except Interrupted as signal:
            _say(
                f"stopped by {signal}, the cells measured so far are saved in {out}; "
                "to go on: the same command again"
            )
            _print_json(as_json, {"finished": False, "stopped_by": str(signal)})
            return 0
    _print_json(as_json, found)
    if not as_json:
        for name, rows in found.items():
            print(f"{out / name}.json: {len(rows)} cells")
    return 0


def prepare(*, name: str, data_dir: str, as_json: bool) -> int:
    """`l2o prepare`: download a data set, and read all of it once."""
    where = data_directory(data_dir)
    directory = find(name, where)
    if directory is None:
        directory = tfds_prepare.prepare(name, where)
    else:
        _say(f"{name} is already prepared")
    if name in DATASETS:
        _say(
            f"{name} names the embedded data set, that of TensorFlow Datasets is "
            f"{name}:{directory.name}"
        )
    data = tfds.load(name, data_dir=where)
    if isinstance(data, Examples):
        kind, arrays, unit = "images", data.inputs, "examples"
    else:
        kind, arrays, unit = "text", data, "bytes"
    sizes = {split: len(array) for split, array in arrays.items()}
    if as_json:
        summary = {"name": name, "directory": str(directory), "kind": kind}
        _print_json(True, summary | {unit: sizes})
    else:
        listed = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
        print(f"{directory}: {kind}, {listed} {unit}")
    return 0


def _read_report(path: Path) -> dict[str, Any]:
    """The tree of a report of `l2o eval`."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a report in JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must be a report, got a {type(tree).__name__}")
    return tree


def _seconds(text: str) -> float:
    """A length of time like 90s, 30m, 2h or 1.5h."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or float(match[1]) == 0.0:
        raise ValueError(f"--budget must be a time like 90s, 30m or 2h, got {text!r}")
    return float(match[1]) * units[match[2]]


def _point(text: str) -> tuple[float, float]:
    """Two numbers like 0.1,3e-2."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--at must be two numbers X,Y, got {text!r}") from None
    return x, y


def _reserve(suite: Suite, budget: float) -> float:
    """The seconds of a budget that are left for evaluating an optimizer on a suite.

    Enough for 20,000 steps a second, which small tasks reach on two CPU cores; at least
    a tenth and at most half of the budget.
    """
    candidates = sum(len(one.labels) for one in baselines(suite.baselines))
    trainings = candidates * PROTOCOL.tuning_seeds
    # What was chosen, by train and by validation loss.
    finals = 1 + 2 * len(suite.baselines)
    steps = sum(c.horizon * (trainings + finals * len(c.seeds)) for c in suite.cells)
    return min(max(steps / 20_000, 0.1 * budget), 0.5 * budget)


def _locate(
    config: str, overrides: Sequence[str], out: str, resume: bool
) -> tuple[TrainConfig, RunDirectory]:
    """What to run, and where."""
    if resume and out and not config:
        directory = RunDirectory(Path(out))
        if not directory.has_run:
            raise ValueError(f"--resume needs a directory that holds a run, got {out}")
        mapping = directory.recorded_config()
        for assignment in overrides:  # Those that change it are refused later, by name.
            mapping = override(mapping, assignment)
        return build(TrainConfig, mapping, where=str(directory.config)), directory
    settings = configs.load(config or configs.DEFAULT, overrides)
    if out:
        return settings, RunDirectory(Path(out))
    choose = newest_directory if resume else free_directory
    return settings, RunDirectory(choose(RUNS, settings.name))


def _contenders(sources: Sequence[str]) -> list[Contender]:
    """Learned optimizers by their names, or by their sources where two share one."""
    manifests = [read_manifest(released.find(source)) for source in sources]
    names = [str(manifest.get("name")) for manifest in manifests]
    taken = Counter([*names, *BASELINES])
    contenders = []
    for source, name, manifest in zip(sources, names, manifests, strict=True):
        lopt, theta = l2o.load(source)
        contenders.append(
            learned(
                name if taken[name] == 1 else source,
                lopt,
                theta,
                theta_sha256=theta_sha256(theta),
                config_hash=manifest.get("config_hash"),
                compute=manifest.get("compute"),
            )
        )
    return contenders


def _judge(
    contenders: Sequence[Contender],
    chosen: Suite,
    out: Path,
    stop: StopSignal,
    *,
    protocol: Protocol = PROTOCOL,
    with_cards: bool = False,
    fresh: bool = False,
) -> tuple[Report, tuple[Card, ...]]:
    """Evaluates and writes the report; `report.json` comes last and whole."""
    made = not out.exists()
    make_directory(out)
    # Made now: what cannot be written is not worth evaluating.
    partial = out / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    make_directory(partial)
    cards = ()
    try:
        with progress("evaluation") as bar:
            results = Results(default_folder(), bar.line, read=not fresh)

            def on_progress(cells: Cells) -> None:
                stop.check()
                where = {"cell": cells.cell.name, "optimizer": cells.contender.name}
                bar.update(cells.done, cells.total, where)

            report = judge(
                [
                    *protocol.with_variants(contenders),
                    *protocol.baselines(chosen.baselines),
                ],
                chosen,
                protocol=protocol,
                results=results,
                on_progress=on_progress,
            )
            if with_cards:
                bar.line("report cards")
                cards = make_cards(report, results=results, on_progress=on_progress)
        paths = reports.write(report, partial, cards=cards)
        # An older report may have pictures that this one has not.
        for name in (*across_figure.PICTURES, card_figure.PICTURE):
            (out / name).unlink(missing_ok=True)
        last = (paths.figure, paths.text, paths.table, paths.page, paths.json)
        for path in (*paths.pictures, *last):
            path.replace(out / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # It holds the report.
                out.rmdir()
    return report, cards


@contextlib.contextmanager
def _intact(again: str) -> Iterator[None]:
    """Adds to an error of writing that nothing is lost, and how to go on."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"a run must be able to write until its end, got {error}; what was saved "
            f"is intact, to continue: {again}"
        ) from error


def _summary(
    directory: RunDirectory, *, finished: bool, result: RunResult | None = None
) -> dict[str, Any]:
    """What `l2o train --json` prints."""
    summary: dict[str, Any] = {"directory": str(directory.path), "finished": finished}
    if result is not None:
        summary |= {
            "outer_steps": result.step,
            "inner_steps": result.inner_steps,
            "seconds": round(result.seconds, 3),
            "last": result.last,
        }
    if directory.optimizer.is_dir():
        manifest = read_manifest(directory.optimizer)
        summary |= {
            "optimizer": str(directory.optimizer),
            "theta_sha256": manifest["theta_sha256"],
        }
    if directory.has_report:
        path = directory.report / "report.json"
        summary["report"] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def _describe(name: str) -> str:
    config = configs.load(name)
    tables = (config.task,) if isinstance(config.task, dict) else config.task
    tasks = [str(t.get("name", t.get("family", t.get("suite")))) for t in tables]
    return (
        f"{configs.about(name)}: {config.optimizer.get('arch')} on {', '.join(tasks)}, "
        f"{config.outer.steps:,} outer steps, {config.estimator.pairs} pairs"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_json(wanted: bool, content: dict[str, Any]) -> None:
    if wanted:
        print(json.dumps(content, allow_nan=False))
