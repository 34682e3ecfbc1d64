"""`l2o eval`, `tune`, `compare`, `inspect` and `map`."""

import contextlib
import dataclasses
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import l2o
from l2o import released
from l2o.checkpoint import theta_sha256
from l2o.disk import remove_leftovers, temporary_of
from l2o.storage import read_manifest
from meta_test import (
    across_figure,
    card_figure,
    compare as comparisons,
    inspection,
    inspection_figure,
    pictures,
    report as reports,
    trainability,
    trainability_axes,
    trainability_figure,
    tuning,
    tuning_report,
)
from meta_test.baselines import BASELINES, find_baseline
from meta_test.card import Card, cards as make_cards
from meta_test.evaluate import (
    PROTOCOL,
    Progress as Cells,
    Protocol,
    Report,
    evaluate as judge,
)
from meta_test.families import TYPICAL, build_family
from meta_test.optimizers import Contender, baseline, baselines, learned
from meta_test.results import Results, default_folder
from meta_test.suites import Suite, suite_named
from meta_train.commands.said import print_json, say
from meta_train.devices import use_all_cores
from meta_train.directory import (
    RunDirectory,
    make_directory,
)
from meta_train.progress import progress
from meta_train.signals import Interrupted, StopSignal


RECORDS = 50
"""Points on the curves of `l2o inspect`."""


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
    contenders = contenders_of(optimizers)
    with StopSignal(say) as stop:
        try:
            report, cards = judge_on(
                contenders,
                chosen,
                out,
                stop,
                protocol=protocol,
                with_cards=with_cards,
                fresh=fresh,
            )
        except Interrupted as signal:
            say(
                f"stopped by {signal}, no report was written; what was trained is "
                "kept, to go on: the same command again"
            )
            print_json(as_json, {"finished": False, "stopped_by": str(signal)})
            return 0
    print_json(as_json, reports.as_json(report, cards=cards))
    if not as_json:
        reports.print_report(report, sys.stdout, cards)
    say(f"report:    {out / 'report.json'}")
    say(f"page:      {out / 'report.html'}")
    say(f"curves:    {out / 'curves.png'}")
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
    with StopSignal(say) as stop, RunDirectory(out).locked():
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
            say(
                f"stopped by {signal} after {done} trials, all of them are kept in "
                f"{out}; to go on: the same command again"
            )
            print_json(as_json, {"finished": False, "stopped_by": str(signal)})
            return 0
        path = tuning_report.write(outcome, out)
    print_json(as_json, tuning_report.as_json(outcome))
    if not as_json:
        tuning_report.print_outcome(outcome, sys.stdout)
    say(f"report:    {path}")
    return 0


def compare(*, a: Path, b: Path, optimizer: str, against: str, as_json: bool) -> int:
    """`l2o compare`: two reports of `l2o eval`, paired by cell and seed."""
    first, second = _read_report(a), _read_report(b)
    pairs = comparisons.compare_reports(
        first, second, optimizer=optimizer, against=against
    )
    unlike = comparisons.differences(first, second)
    print_json(as_json, comparisons.as_json(pairs, unlike))
    if not as_json:
        comparisons.print_pairs(pairs, sys.stdout, unlike)
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
        [contender] = contenders_of([optimizer])
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
    print_json(as_json, inspection.as_json(found) | {"figure": str(out)})
    if not as_json:
        if not contender.learned:
            print(f"{optimizer} at a learning rate of {found.candidate}")
        print(f"mean loss of the last steps: {found.loss[-1]:.4g}")
        print(f"sharpness: {found.sharpness[-1]:.4g}, 2/lr: {found.critical[-1]:.4g}")
        if gradient:
            first, last = found.alignment[[0, -1]]
            print(f"angle with backprop's gradient: from {first:.0f} to {last:.0f} deg")
    say(f"figure:    {out}")
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
        subject = trainability_axes.of_baseline(optimizer)
    else:
        [contender] = contenders_of([optimizer])
        subject = trainability_axes.of_learned(contender)
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
        subject.axis(y or trainability_axes.INIT_SCALE, "--y"),
        size=size,
        steps=steps,
        seed=seed,
        frames=frames,
        factor=zoom,
        at=_point(at) if at else None,
    )
    with StopSignal(say) as stop, progress("map") as bar:
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
    print_json(as_json, summary)
    if not as_json:
        for found in drawn:
            print(trainability.as_text(found))
    if stop.received:
        say(f"stopped by {stop.received} after {done:,} trainings")
    elif len(drawn) < frames:
        say(f"frame {len(drawn)} has no boundary: the zoom ends there")
    if drawn:
        say(f"{done / seconds:,.0f} trainings a second")
        say(f"figure:    {figure}")
    return 0


def contenders_of(sources: Sequence[str]) -> list[Contender]:
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


def judge_on(
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
    # Nor is what another process is evaluating to the same place to be lost.
    partial = temporary_of(out / "report")
    remove_leftovers(out / "report")
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


def _read_report(path: Path) -> dict[str, Any]:
    """The tree of a report of `l2o eval`."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a report in JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must be a report, got a {type(tree).__name__}")
    return tree


def _point(text: str) -> tuple[float, float]:
    """Two numbers like 0.1,3e-2."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--at must be two numbers X,Y, got {text!r}") from None
    return x, y
