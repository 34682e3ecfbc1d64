"""`l2o train`."""

import contextlib
import json
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from l2o.config import build, override, to_dict
from l2o.processes import Peers
from l2o.storage import read_manifest
from meta_test import (
    report as reports,
)
from meta_test.evaluate import (
    PROTOCOL,
)
from meta_test.optimizers import baselines
from meta_test.suites import Suite, suite_named
from meta_train import config as configs, status
from meta_train.build import build_trainer, warm_start
from meta_train.commands.judging import contenders_of, judge_on
from meta_train.commands.said import print_json, say
from meta_train.config import TrainConfig
from meta_train.devices import use_all_cores
from meta_train.directory import (
    RunDirectory,
    free_directory,
    newest_directory,
)
from meta_train.distributed import Cluster, end, joined
from meta_train.programs import keep_programs
from meta_train.progress import Progress, Quiet, progress
from meta_train.run import BUDGET, RunResult, run
from meta_train.signals import Interrupted, StopSignal


RUNS = Path("runs")
"""Where runs go that are given no directory."""


def train(
    *,
    config: str,
    overrides: Sequence[str],
    out: str,
    resume: bool,
    budget: str,
    cluster: Cluster | None,
    as_json: bool,
) -> int:
    """`l2o train`: meta-train, save, evaluate, say where everything is.

    Of several processes, the first one reads the config, writes and speaks.
    """
    began = time.monotonic()
    allowed = _seconds(budget) if budget else None
    use_all_cores()
    keep_programs()
    with (
        StopSignal(say) as stop,
        joined(cluster, lambda: stop.received is not None) as peers,
        stop.shared(peers),
    ):

        def locate() -> dict[str, Any]:
            settings, directory = _locate(config, overrides, out, resume)
            return {"config": to_dict(settings), "path": str(directory.path)}

        found = peers.by_first("config", locate)
        settings = build(TrainConfig, found["config"], where="config")
        directory = RunDirectory(found["path"])
        # Before anything is written: a config that cannot be built leaves no trace.
        trainer = build_trainer(settings)
        judged = suite_named(settings.suite) if settings.suite else None
        if settings.validation.suite:
            suite_named(settings.validation.suite, where="validation.suite")
        if not directory.has_run:
            warm_start(settings, trainer.lopt)
        deadline = None
        if allowed is not None:
            reserve = _reserve(judged, allowed) if judged else 0.0
            deadline = began + allowed - reserve
        again = f"l2o train --resume --out {shlex.quote(str(directory.path))}"
        with _intact(again), ExitStack() as stack:
            peers.by_first("lock", lambda: stack.enter_context(directory.locked(say)))

            def finished() -> bool:
                if not (directory.has_run and resume):
                    return False
                directory.require_same_config(settings)
                if not directory.is_finished(settings):
                    return False
                say(f"the run in {directory.path} is finished, nothing to resume")
                print_json(as_json, _summary(directory, finished=True))
                return True

            if peers.by_first("finished", finished):
                return status.DONE
            with _bar("meta-training", peers) as bar:
                bar.line(f"run directory: {directory.path}")
                result = run(
                    settings,
                    trainer,
                    directory,
                    resume=resume,
                    stop=stop,
                    progress=bar,
                    deadline=deadline,
                    peers=peers,
                )

            def conclude() -> bool:
                return _conclude(
                    settings,
                    directory,
                    result,
                    judged,
                    stop,
                    again=again,
                    budget=budget,
                    began=began,
                    as_json=as_json,
                )

            stopped = peers.by_first("conclusion", conclude)
    ended = status.STOPPED if stopped and peers.count > 1 else status.DONE
    if stop.abandoned:
        end(ended)
    return ended


def _conclude(
    settings: TrainConfig,
    directory: RunDirectory,
    result: RunResult,
    judged: Suite | None,
    stop: StopSignal,
    *,
    again: str,
    budget: str,
    began: float,
    as_json: bool,
) -> bool:
    """Evaluates a run, and says where everything is.

    Returns:
        Whether a signal stopped it before all was done.
    """
    if result.stopped_by == BUDGET:
        say(
            f"the budget of {budget} ends the run at outer step {result.step} of "
            f"{settings.outer.steps}, all is saved; to continue: {again}"
        )
    elif not result.finished:
        say(
            f"stopped by {result.stopped_by} at outer step {result.step} of "
            f"{settings.outer.steps}, all is saved; to continue: {again}"
        )
        print_json(as_json, _summary(directory, finished=False, result=result))
        return True
    report = None
    if judged is not None:
        try:
            contenders = contenders_of([str(directory.optimizer)])
            report_path = directory.local(directory.report)
            evaluation = lambda: judge_on(contenders, judged, report_path, stop)
            report, _ = stop.unless_stopped(evaluation)
        except Interrupted as signal:
            say(
                f"stopped by {signal} during the evaluation, the optimizer is "
                f"saved in {directory.optimizer}; to evaluate it: {again}"
            )
            print_json(as_json, _summary(directory, finished=False, result=result))
            return True
    if report is not None and not as_json:
        reports.print_report(report, sys.stdout)
    say(f"optimizer: {directory.optimizer}")
    say(f"metrics:   {directory.metrics}")
    if report is not None:
        say(f"report:    {directory.report / 'report.json'}")
        say(f"page:      {directory.report / 'report.html'}")
        say(f"curves:    {directory.report / 'curves.png'}")
    say(f"done in {time.monotonic() - began:.0f} s")
    print_json(as_json, _summary(directory, finished=result.finished, result=result))
    return False


def _seconds(text: str) -> float:
    """A length of time like 90s, 30m, 2h or 1.5h."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or float(match[1]) == 0.0:
        raise ValueError(f"--budget must be a time like 90s, 30m or 2h, got {text!r}")
    return float(match[1]) * units[match[2]]


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
        directory = RunDirectory(out)
        if not directory.has_run:
            raise ValueError(f"--resume needs a directory that holds a run, got {out}")
        mapping = directory.recorded_config()
        for assignment in overrides:  # Those that change it are refused later, by name.
            mapping = override(mapping, assignment)
        return build(TrainConfig, mapping, where=str(directory.config)), directory
    settings = configs.load(config or configs.DEFAULT, overrides)
    if out:
        return settings, RunDirectory(out)
    choose = newest_directory if resume else free_directory
    return settings, RunDirectory(choose(RUNS, settings.name))


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
        step, inner_steps, seconds = result.step, result.inner_steps, result.seconds
    else:
        step = directory.steps()[0]
        facts = directory.facts(step)
        inner_steps, seconds = facts["inner_steps"], facts["seconds"]
    summary |= {
        "outer_steps": step,
        "inner_steps": inner_steps,
        "seconds": round(seconds, 3),
        "stopped_by": result.stopped_by if result is not None else None,
        "last": (result and result.last) or directory.last_row(),
    }
    if directory.has_optimizer:
        manifest = read_manifest(directory.optimizer)
        summary |= {
            "optimizer": str(directory.optimizer),
            "theta_sha256": manifest["theta_sha256"],
        }
    if directory.has_report:
        path = directory.local(directory.report) / "report.json"
        summary["report"] = json.loads(path.read_text(encoding="utf-8"))
    return summary


@contextlib.contextmanager
def _bar(title: str, peers: Peers) -> Iterator[Progress]:
    """Progress on the terminal, by one process."""
    if peers.is_first:
        with progress(title) as bar:
            yield bar
    else:
        yield Quiet()
