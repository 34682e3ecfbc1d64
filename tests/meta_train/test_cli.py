"""The command line: exit statuses, one line an error, one JSON object on stdout."""

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import numpy as np
import pytest

import l2o
from l2o.learned.facts import table
from l2o.storage import read_manifest
from meta_test import tuning
from meta_test.card import Card
from meta_test.evaluate import Progress
from meta_test.results import Results
from meta_test.suites import SUITES
from meta_test.wishes import Wish
from meta_train.bench import meta_training, step
from meta_train.cli import Bench, arranged, main
from meta_train.commands import judging, training
from meta_train.commands.measuring import BENCHMARKS
from meta_train.directory import RunDirectory
from tests.helpers import ROOT
from tests.meta_train import runs
from tests.meta_train.runs import STEPS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Commands run in an empty directory."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def error_of(capsys, *arguments):
    """The status and the error of a command that prints nothing else."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("l2o: error: ")
    return status, line.removeprefix("l2o: error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of {train, launch-local, eval, tune, compare, inspect, "),
        (["frobnicate"], "Unrecognized options: frobnicate"),
        (["train", "--outt", "x"], "Unrecognized options: --outt"),
        (["train", "a", "b"], "Unrecognized options: b"),
        (["train", "--set"], "Missing value for argument '--set'"),
        (["eval"], "eval needs at least one OPTIMIZER"),
        (["eval", "--json"], "eval needs at least one OPTIMIZER"),
        (["eval", "x", "--suite"], "Missing value for argument '--suite'"),
        (["tune"], "Missing from l2o tune"),
        (["tune", "adam", "--sampler", "tp"], "invalid choice 'tp'"),
        (["tune", "adam", "--pruner", "median"], "invalid choice 'median'"),
        (["compare", "a.json"], "Missing from l2o compare"),
        (["list", "nothing"], "invalid choice 'nothing'"),
        (["bench"], "Missing from l2o bench"),
        (["bench", "meta-training", "--pairs", "x"], "Error parsing --pairs"),
        (["reference"], "reference needs at least one SUITE"),
        (["import"], "Missing from l2o import"),
        (["import", "theta.state", "--out", "x"], "--arch NAME"),
        (["prepare"], "Missing from l2o prepare"),
    ],
)
def test_wrong_usage(capsys, arguments, message):
    status, error = error_of(capsys, *arguments)
    assert status == 2
    assert message in error


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train c --set a=1 b.c=2 --out d", "train c --set a=1 --set b.c=2 --out d"),
        ("train --set a=1 c.toml", "train --set a=1 c.toml"),
        ("--json --debug list", "list --json --debug"),
        ("launch-local --processes 2 train c", "launch-local --processes 2 -- train c"),
        ("launch-local -- train --set a=1", "launch-local -- train --set a=1"),
        ("", ""),
    ],
)
def test_other_ways_to_write_arguments(given, expected):
    assert arranged(given.split()) == expected.split()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"l2o {l2o.__version__}\n"


def test_help(capsys):
    for arguments in (["--help"], ["train", "--help"]):
        assert main(arguments) == 0
        captured = capsys.readouterr()
        assert "usage: l2o" in captured.out
        assert captured.err == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["outer.stepz=1"], "outer.stepz is not a field of OuterConfig (did you mean"),
        (["estimator.pairs=0"], "estimator.pairs must be an integer of at least 1"),
        (["seed=1.5"], "seed must be an integer, got 1.5"),
        (["nonsense"], "an override must be like a.b=value, got 'nonsense'"),
        (["optimizer.arch=smal_fc"], "got 'smal_fc' (did you mean 'small_fc'?)"),
        (["optimizer.hidden_size=0"], "hidden_size must be an integer of at least 1"),
        (["optimizer.hidden_size=2.5"], "hidden_size must be an integer, got 2.5"),
        (["optimizer.depht=1"], "optimizer: depht is not a field of SmallFC"),
        (["task.family=cubic"], "task.family must be one of "),
        (["task.dim=-1"], "-1"),
        (["task.data=digits"], "task: data is not a field of Quadratic"),
        (["task.family=image_mlp"], "task.data must name a data set, got none"),
        (["schedule.kind=never"], "schedule.kind must be one of constant, "),
        (["schedule.horizon=12"], "must divide the schedule's horizons, got window 5"),
        (["estimator.window=4"], "must divide the schedule's horizons, got window 4"),
        (["suite=nothing"], "a suite must be one of quick, "),
        (["meta_loss.reduce=sum"], "reduce must be one of 'mean', 'last', "),
        (["task.suite=digits"], "task must have a suite or a family, got a suite and"),
        (["task=[]"], "task must have at least one family, got none"),
        (['task=[{family="quadratic", weight=-1}]'], "task[0].weight must be a finite"),
        (["outer.families_per_step=2"], "must be at most the 1 families of task, got"),
        (['outer.freeze=["lstm/*"]'], "outer.freeze: a pattern must match a tensor"),
        (['estimator.sigma_of={"mlq/*"=1.0}'], "estimator.sigma_of: a pattern must"),
        (["estimator.method=mixture", "estimator.credit=fresh"], "credit must be left"),
        (["outer_optimizer.name=adm"], "got 'adm' (did you mean 'adam'?)"),
        (
            ["outer_optimizer.name=adam", "outer_optimizer.beta=1"],
            "outer_optimizer.beta must be an argument of optax.adam, one of b1, b2, ",
        ),
        (["validation.suite=nothing"], "validation.suite must be one of quick, "),
        (
            ["validation.suite=quick", "validation.every=3"],
            "validation.every must be a multiple of outer.steps_per_dispatch, got 3",
        ),
        (["warm_start=nobody"], "nobody"),
    ],
)
def test_a_wrong_config_leaves_no_trace(capsys, config, elsewhere, overrides, message):
    flags = [part for override in overrides for part in ("--set", override)]
    status, error = error_of(capsys, "train", config, *flags)
    assert status == 1
    assert message in error
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("budget", ["30", "m", "-1m", "0s", "1d"])
def test_a_wrong_budget(capsys, config, elsewhere, budget):
    status, error = error_of(capsys, "train", config, f"--budget={budget}")
    assert status == 1
    assert error == f"--budget must be a time like 90s, 30m or 2h, got {budget!r}"
    assert list(elsewhere.iterdir()) == []


def test_no_such_config(capsys):
    status, error = error_of(capsys, "train", "smal")
    assert status == 1
    assert error.startswith("a config must be one of ")
    assert error.endswith(
        "or a TOML or Python file, got 'smal' (did you mean 'small'?)"
    )


@pytest.mark.parametrize("out", ["file", "file/run", "/proc/no/run"])
def test_a_directory_that_cannot_be_written(capsys, config, elsewhere, out):
    (elsewhere / "file").write_text("mine")
    status, error = error_of(capsys, "train", config, "--out", out)
    assert status == 1
    assert error.startswith(f"{out} must be a directory or a place for one: ")
    assert (elsewhere / "file").read_text() == "mine"


def test_two_runs_in_one_directory(capsys, config, elsewhere):
    with RunDirectory(elsewhere / "run").locked():
        status, error = error_of(capsys, "train", config, "--out", "run")
    assert status == 1
    assert error == (
        f"a run directory must have one writer, run is in use by process {os.getpid()}"
    )


def test_a_run_is_not_written_over(capsys, config, reference):
    before = runs.bits(reference)
    assert main(["train", str(config), "--out", str(reference)]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert "holds a run: pass --resume to continue it or --out for another" in line
    assert runs.bits(reference) == before


def test_a_finished_run(capsys, reference):
    assert main(["train", "--resume", "--out", str(reference), "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["finished"] is True
    assert summary["theta_sha256"] == runs.bits(reference)["theta"]
    assert (summary["outer_steps"], summary["stopped_by"]) == (STEPS, None)
    assert summary["last"]["step"] == STEPS
    assert summary["inner_steps"] > 0
    assert captured.err == (f"the run in {reference} is finished, nothing to resume\n")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--set", "outer.clip=1"], "outer.clip was 3.0 and is now 1.0"),
        (["--set", "task.dim=8"], "task.dim was 4 and is now 8"),
        (["{config}", "--set", "seed=1"], "seed was 0 and is now 1"),
        (["{other}"], "name was 'tiny' and is now 'other'"),
    ],
)
def test_a_resume_under_another_config(
    capsys, config, reference, elsewhere, arguments, field
):
    other = elsewhere / "other.toml"
    other.write_text(runs.TINY.replace('"tiny"', '"other"'))
    given = [text.format(config=config, other=other) for text in arguments]
    status, error = error_of(capsys, "train", *given, "--resume", "--out", reference)
    assert status == 1
    assert error.startswith(f"a run must be resumed with its own config, {field}")


def test_a_resume_with_patterns_in_another_order(capsys, config, elsewhere):
    """Where several match the last counts, so that they are another config."""
    orders = (
        'estimator.sigma_of={"*" = 0.5, "mlp/*" = 0.1}',
        'estimator.sigma_of={"mlp/*" = 0.1, "*" = 0.5}',
    )
    command = ["train", config, "--out", "run", "--set"]
    assert main([str(x) for x in (*command, orders[0], "outer.steps=2")]) == 0
    capsys.readouterr()
    again = (*command, orders[1], "outer.steps=2", "--resume")
    status, error = error_of(capsys, *again)
    assert status == 1
    assert "estimator.sigma_of had the order *, mlp/* and has now mlp/*, *" in error


def test_a_resume_of_nothing(capsys, elsewhere):
    status, error = error_of(capsys, "train", "--resume", "--out", "nothing")
    assert status == 1
    assert error == "--resume needs a directory that holds a run, got nothing"
    assert list(elsewhere.iterdir()) == []


def test_debug_adds_the_traceback(capsys):
    assert main(["train", "smal", "--debug"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last):")
    assert error.splitlines()[-1].startswith("l2o: error: a config must be one of")


@pytest.mark.slow
def test_training_evaluation_and_a_signal_between(
    capsys, config, reference, elsewhere, tiny_suite, monkeypatch
):
    judge = judging.judge

    def judge_with_signal(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return judge(*arguments, **options)

    # Without --out the directory is named after the run.
    command = ["train", str(config), "--set", "suite=tiny", "--json"]
    with monkeypatch.context() as patch:
        patch.setattr(judging, "judge", judge_with_signal)
        assert main(command) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["finished"], summary["outer_steps"]) == (False, STEPS)
    assert "report" not in summary
    assert captured.err.splitlines()[-1] == (
        "stopped by SIGTERM during the evaluation, the optimizer is saved in "
        "runs/tiny/optimizer; to evaluate it: l2o train --resume --out runs/tiny"
    )
    directory = elsewhere / "runs" / "tiny"
    assert runs.bits(directory) == runs.bits(reference)
    assert not (directory / "report").exists()

    # Of a process that died: process numbers end far below.
    (directory / "report" / f".report.tmp-{2**30}").mkdir(parents=True)
    assert main(["train", "--resume", "--out", "runs/tiny", "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["finished"] is True
    assert [row["contender"] for row in summary["report"]["rows"]] == [
        "tiny",
        "sgd",
        "adam",
    ]
    assert sorted(path.name for path in (directory / "report").iterdir()) == [
        "curves.png",
        "profile.png",
        "report.csv",
        "report.html",
        "report.json",
        "report.txt",
        "speedup.png",
    ]
    assert "report:    runs/tiny/report/report.json" in captured.err
    assert "page:      runs/tiny/report/report.html" in captured.err
    assert runs.bits(directory) == runs.bits(reference)

    assert main(["train", str(config), "--set", "suite=tiny", "--resume"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "the run in runs/tiny is finished, nothing to resume\n"


def test_a_budget_stops_in_time_and_still_evaluates(
    capsys, config, reference, elsewhere, tiny_suite, monkeypatch
):
    command = ["train", str(config), "--set", "suite=tiny", "--out", "run", "--json"]
    # As much is left for the evaluation as there is.
    monkeypatch.setattr(training, "_reserve", lambda suite, budget: budget)
    assert main([*command, "--budget", "2h"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["finished"], summary["outer_steps"]) == (False, 0)
    assert summary["report"]["rows"][0]["contender"] == "tiny"
    assert "the budget of 2h ends the run at outer step 0 of 12" in captured.err
    assert "to continue: l2o train --resume --out run" in captured.err


def test_what_a_budget_leaves_for_the_evaluation(tiny_suite):
    # 13 rates of SGD and 11 of Adam at 3 seeds, two choices of each and the optimizer
    # at 2 seeds, of 10 steps.
    steps = (24 * 3 + 5 * 2) * 10
    assert training._reserve(tiny_suite, 0.1) == pytest.approx(steps / 20_000)
    assert training._reserve(tiny_suite, 3600.0) == 360.0
    assert training._reserve(tiny_suite, 0.01) == 0.005


def test_evaluation(capsys, reference, elsewhere, tiny_suite, monkeypatch):
    optimizer = str(reference / "optimizer")
    (elsewhere / "out").mkdir()
    (elsewhere / "out" / "thesis.tex").write_text("mine")
    # Two runs of one config: their optimizers have one name.
    shutil.copytree(optimizer, elsewhere / "copy")
    assert main(["eval", optimizer, "copy", "--suite=tiny", "--out=out", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    names = [contender["name"] for contender in report["contenders"]]
    assert names == [optimizer, "copy", "sgd", "adam"]
    sha256 = read_manifest(optimizer)["theta_sha256"]
    assert report["contenders"][0]["provenance"]["theta_sha256"] == sha256
    assert json.loads((elsewhere / "out" / "report.json").read_text()) == report
    assert (elsewhere / "out" / "thesis.tex").read_text() == "mine"

    assert main(["eval", optimizer, "--suite=tiny"]) == 0
    captured = capsys.readouterr()
    assert "tiny" in captured.out
    assert (elsewhere / "reports" / "tiny" / "curves.png").is_file()

    feeding = "forward_gradient:distribution=rademacher,tangents=2"
    chosen = ["--baselines", "adam+constant", "--gradient", feeding]
    assert main(["eval", optimizer, "--suite=tiny", "--json", *chosen]) == 0
    fed = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in fed["contenders"]] == [
        fed["contenders"][0]["name"],
        "adam+constant",
    ]
    assert fed["suite"]["name"] == f"tiny, {feeding}"
    assert (elsewhere / "reports" / "tiny-forward_gradient").is_dir()

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        options["on_progress"](None)

    monkeypatch.setattr(judging, "judge", interrupted)
    assert main(["eval", optimizer, "--suite=tiny", "--out=new", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"finished": False, "stopped_by": "SIGINT"}
    assert "stopped by SIGINT, no report was written" in captured.err
    assert not (elsewhere / "new").exists()


def test_report_cards(capsys, reference, elsewhere, tiny_suite, monkeypatch):
    def of_one_wish(report, *, results, on_progress):
        on_progress(Progress(0, 1, tiny_suite.cells[0], report.contenders[0]))
        assert isinstance(results, Results)
        wish = Wish("peace", 0.5, "half", "of it", {"doves": 1.0})
        return tuple(Card(contender.name, (wish,)) for contender in report.contenders)

    monkeypatch.setattr(judging, "make_cards", of_one_wish)
    optimizer = str(reference / "optimizer")
    command = ["eval", optimizer, "--suite=tiny", "--out=out"]
    assert main([*command, "--cards", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads((elsewhere / "out" / "report.json").read_text()) == report
    [wish] = report["cards"][0]["wishes"]
    assert wish == {
        "name": "peace",
        "score": 0.5,
        "shown": "half",
        "detail": "of it",
        "values": {"doves": 1.0},
    }
    assert [card["contender"] for card in report["cards"]] == ["tiny", "sgd", "adam"]
    assert (elsewhere / "out" / "cards.png").is_file()
    assert main([*command, "--cards"]) == 0
    captured = capsys.readouterr()
    assert "Report cards." in captured.out
    assert "report cards" in captured.err
    # Without them no older ones are left beside the new report.
    assert main([*command, "--json"]) == 0
    assert "cards" not in json.loads(capsys.readouterr().out)
    assert not (elsewhere / "out" / "cards.png").exists()


def test_what_cannot_be_evaluated(capsys, reference, elsewhere, tiny_suite):
    optimizer = elsewhere / "optimizer"
    shutil.copytree(reference / "optimizer", optimizer)
    (elsewhere / "file").touch()
    cases = [
        (["nobody", "--suite=tiny"], "an optimizer must be a released name"),
        (
            ["no/body", "--suite=tiny"],
            "no/body must be a checkpoint directory, none is there",
        ),
        ([optimizer, "--suite=tinny"], "(did you mean 'tiny'?)"),
        (
            [optimizer, "--suite=tiny", "--gradient=feedback_alignment:rule=up"],
            "rule must be one of direct, layerwise, sign, got 'up'",
        ),
        (
            [optimizer, "--suite=tiny", "--baselines", "adamm"],
            "got 'adamm' (did you mean 'adam'?)",
        ),
        (
            [optimizer, "--suite=tiny", "--baselines", "lbfgs+cosine"],
            "the schedule of lbfgs must be none, got 'cosine'",
        ),
        (
            [optimizer, "--suite=tiny", "--rates=3", "--random=3"],
            "baselines must have spread rates or random settings, got both, 3 and 3",
        ),
        ([optimizer, "--suite=tiny", "--out=file"], "file must be a directory or a"),
        (
            [optimizer, optimizer, "--suite=tiny", "--out=out"],
            "contenders must differ in name",
        ),
    ]
    for arguments, message in cases:
        status, error = error_of(capsys, "eval", *arguments)
        assert status == 1
        assert message in error
    runs.damage(optimizer)
    status, error = error_of(capsys, "eval", optimizer, "--suite=tiny", "--out=out")
    assert status == 1
    assert "must have sha256" in error
    left = {path.name for path in elsewhere.iterdir()}
    assert left == {"file", "optimizer"}


def test_a_baseline_is_tuned(capsys, elsewhere, tiny_suite, monkeypatch):
    command = ["tune", "sgd", "--suite=tiny", "--sampler=random", "--seed=1"]
    assert main([*command, "--trials=2", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    (cell,) = found["cells"]
    assert sum(cell["trials"][k] for k in ("finished", "pruned", "diverged")) == 2
    assert len(cell["comparison"]["train_losses"]) == 2
    folder = elsewhere / "tuning" / "tiny-sgd"
    assert json.loads((folder / "tuning.json").read_text()) == found
    assert captured.err.splitlines()[-1] == "report:    tuning/tiny-sgd/tuning.json"

    tune = tuning.tune

    def tune_with_signal(*arguments, on_trial, **options):
        def with_signal(trying):
            if trying.done == 3:
                signal.raise_signal(signal.SIGTERM)
            on_trial(trying)

        return tune(*arguments, on_trial=with_signal, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "tune", tune_with_signal)
        assert main([*command, "--trials=4", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"finished": False, "stopped_by": "SIGTERM"}
    assert captured.err.splitlines()[-1] == (
        "stopped by SIGTERM after 3 trials, all of them are kept in tuning/tiny-sgd; "
        "to go on: the same command again"
    )
    assert json.loads((folder / "tuning.json").read_text()) == found

    assert main([*command, "--trials=4"]) == 0
    captured = capsys.readouterr()
    header, _, line, *_ = captured.out.splitlines()
    assert header.startswith("cell  settings  valid loss  finished")
    assert line.startswith("bowl  ")
    assert captured.err.startswith("3/4")


def test_what_cannot_be_tuned(capsys, elsewhere, tiny_suite, monkeypatch):
    cases = [
        (["adamm"], "got 'adamm' (did you mean 'adam'?)"),
        (["adam+up"], "the schedule of adam must be one of constant, "),
        (["adam", "--suite=tinny"], "(did you mean 'tiny'?)"),
        (["adam", "--cells=box"], "cells of tiny must be among bowl, got 'box'"),
        (["adam", "--trials=0"], "trials must be an integer of at least 1, got 0"),
        (["adam", "--tuning-seeds=0"], "tuning_seeds must be an integer of at least 1"),
        (["adam", "--out=/proc/no"], "/proc/no must be a directory or a place for one"),
    ]
    for arguments, message in cases:
        status, error = error_of(capsys, "tune", "--suite=tiny", *arguments)
        assert status == 1
        assert message in error
    find = importlib.util.find_spec
    without = lambda name: None if name == "torch" else find(name)
    monkeypatch.setattr(importlib.util, "find_spec", without)
    status, error = error_of(capsys, "tune", "adam", "--suite=tiny", "--sampler=gp")
    assert status == 1
    assert error == (
        "the sampler gp must have optuna, scipy, torch installed, torch is not: "
        "pip install 'l2o[tune-gp]'"
    )
    assert list(elsewhere.iterdir()) == []


def test_two_reports_are_compared(capsys, reference, elsewhere, tiny_suite):
    optimizer = str(reference / "optimizer")
    assert main(["eval", optimizer, "--suite=tiny", "--random=3", "--out=a"]) == 0
    capsys.readouterr()
    command = ["compare", "a/report.json", "a/report.json"]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [pair["b"] for pair in found["pairs"]] == ["tiny", "sgd", "adam"]
    for pair in found["pairs"]:
        assert pair["splits"]["train"]["verdict"] == "no difference"
        assert pair["splits"]["test"]["cells"][0]["won"] == 0.5
    assert captured.err == ""
    assert main([*command, "--optimizer=sgd", "--against=adam"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("adam in B against sgd in A\n")
    assert text.index("The rule: ") < text.index("verdict\n")

    (elsewhere / "text").write_text("no report")
    (elsewhere / "list").write_text("[]")
    (elsewhere / "old").write_text('{"schema": 1}')
    cases = [
        (["a/report.json", "nothing"], "No such file or directory: 'nothing'"),
        (["a/report.json", "text"], "text must be a report in JSON: Expecting value"),
        (["a/report.json", "list"], "list must be a report, got a list"),
        (["a/report.json", "old"], "a report must have schema 2, "),
        ([*command[1:], "--optimizer=ada"], "got 'ada' (did you mean 'adam'?)"),
        ([*command[1:], "--against=adam"], "--against must come with --optimizer"),
    ]
    for arguments, message in cases:
        status, error = error_of(capsys, "compare", *arguments)
        assert status == 1
        assert message in error


def test_inspection(capsys, reference, elsewhere):
    optimizer = str(reference / "optimizer")
    short = ["--task=quadratic", "--steps=50", "--json"]
    for name, options in (
        ("sgd+constant", ["--learning-rate=0.025", "--out=sgd.png"]),
        (optimizer, ["--gradient=forward_gradient"]),
    ):
        assert main(["inspect", name, *short, *options]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (elsewhere / found["figure"]).stat().st_size > 10_000
        assert len(found["loss"]) == 50
        if name != optimizer:
            assert found["candidate"] == "0.025"
            np.testing.assert_allclose(found["critical"], 2 / 0.025, rtol=1e-4)
    status, error = error_of(capsys, "inspect", optimizer, "--learning-rate=0.1")
    assert status == 1
    assert "--learning-rate is that of a baseline, got 0.1" in error
    status, error = error_of(capsys, "inspect", "sgd", "--steps=120")
    assert status == 1
    assert "--steps must be a positive multiple of 50, " in error


def test_a_map(capsys, reference, elsewhere):
    short = ["--task=quadratic", "--size=16", "--steps=10", "--json"]
    optimizer = str(reference / "optimizer")
    # The largest eigenvalue is 1: below a rate of 2 it converges.
    command = ["map", "sgd+constant", *short, "--x=learning_rate:0.2:20"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    [frame] = found["frames"]
    assert frame["share_converged"] == 0.5
    assert frame["x"] == {"name": "learning_rate", "low": 0.2, "high": 20.0}
    assert frame["y"] == {"name": "init_scale", "low": 0.01, "high": 100.0}
    assert (found["finished"], found["figure"]) == (True, "map.png")
    assert (elsewhere / "map.png").read_bytes().startswith(b"\x89PNG")
    assert found["trainings_per_second"] > 0

    film = ["--frames=2", "--zoom=4", "--at=1.5,1", "--out=a/z.gif"]
    assert main([*command, *film]) == 0
    outer, inner = json.loads(capsys.readouterr().out)["frames"]
    assert outer == frame
    assert inner["x"]["low"] < 2.0 < inner["x"]["high"] < 4.0
    assert (elsewhere / "a" / "z.gif").read_bytes().startswith(b"GIF")

    assert main(["map", optimizer, *short[:-1], "--out=learned.svg"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("256 trainings, ")
    assert "figure:    learned.svg" in printed.err


def test_a_map_that_a_signal_stops(capsys, elsewhere, monkeypatch):
    explore = judging.trainability.explore

    def stopping(pieces, after):
        for index, piece in enumerate(pieces):
            if index == after:
                signal.raise_signal(signal.SIGTERM)
            yield piece

    command = ["map", "sgd", "--task=quadratic", "--size=16", "--steps=2", "--json"]
    for after, left in ((0, []), (1, [128]), (3, [256])):
        monkeypatch.setattr(
            judging.trainability,
            "explore",
            lambda *given, after=after, **options: stopping(
                explore(*given, **options), after
            ),
        )
        assert main([*command, "--frames=2", f"--out={after}.gif"]) == 0
        captured = capsys.readouterr()
        summary = json.loads(captured.out)
        assert summary["finished"] is False
        assert [frame["trainings"] for frame in summary["frames"]] == left
        assert (elsewhere / f"{after}.gif").exists() == bool(left)
        assert f"stopped by SIGTERM after {sum(left)} trainings" in captured.err


def test_what_cannot_be_mapped(capsys, reference, elsewhere):
    optimizer = str(reference / "optimizer")
    cases = [
        (["adamm"], "an optimizer must be a released name"),
        (
            ["sgd", "--x=weight_decay"],
            "--x of sgd must be one of learning_rate, ",
        ),
        (
            [optimizer, "--x=learning_rate"],
            "must be one of multiplier, init_scale",
        ),
        (["lbfgs", "--y=memory_size"], "--y must be spread continuously"),
        (["sgd", "--x=init_scale"], "the axes must differ, got init_scale twice"),
        (["sgd", "--at=1,1"], "--at is for --frames of 2 or more, got 1,1 and 1"),
        (["sgd", "--at=1", "--frames=2"], "--at must be two numbers X,Y, got '1'"),
        (["sgd", "--frames=40"], "must be distinct in float32"),
        (["sgd", "--frames=2", "--out=a.png"], "--out of several frames must end in"),
        (["sgd", "--out=map.txt"], "--out must end in one of "),
        (["sgd", "--task=imag_mlp"], "map.family must be one of "),
    ]
    for arguments, message in cases:
        status, error = error_of(capsys, "map", *arguments)
        assert status == 1
        assert message in error
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("what", "kinds"),
    [
        (
            [],
            [
                *("optimizers", "baselines", "architectures"),
                *("tasks", "augmentations", "gradients"),
                *("suites", "datasets", "configs"),
            ],
        ),
        (["optimizers"], ["optimizers", "baselines", "architectures"]),
        (["architectures"], ["architectures"]),
        (["tasks"], ["tasks"]),
        (["datasets"], ["datasets"]),
        (["suites"], ["suites", *(f"cells of {name}" for name in SUITES)]),
    ],
)
def test_lists(capsys, what, kinds):
    assert main(["list", *what, "--json"]) == 0
    captured = capsys.readouterr()
    entries = json.loads(captured.out)
    assert list(entries) == kinds
    assert captured.err == ""
    if "architectures" in entries:
        assert type(entries["architectures"]["velo"]["theta"]) is int
        assert entries["architectures"]["velo"]["needs_value"] is True
    assert main(["list", *what]) == 0
    text = capsys.readouterr().out
    for kind, rows in entries.items():
        assert f"{kind}:\n" in text
        if all(isinstance(row, dict) for row in rows.values()):
            assert table(rows) in text
            continue
        for name, line in rows.items():
            assert line
            assert any(
                entry.split()[0] == name and entry.endswith(line)
                for entry in text.splitlines()
            )


def test_every_benchmark_is_in_the_table():
    assert get_args(get_type_hints(Bench)["what"]) == tuple(BENCHMARKS)


@pytest.mark.parametrize(
    ("module", "function", "command"),
    [
        (meta_training, "meta_training", ["meta-training"]),
        (step, "step", ["step", "--optimizer", "lstm", "--width", "8"]),
    ],
)
def test_benchmarks(capsys, monkeypatch, module, function, command):
    result = {"optimizer": "lstm", "rate": 12345.678, "pairs": 2}
    monkeypatch.setattr(module, function, lambda *_: result)
    assert main(["bench", *command, "--json"]) == 0
    captured = capsys.readouterr()
    assert (json.loads(captured.out), captured.err) == (result, "")
    assert main(["bench", *command]) == 0
    assert "rate: 12,345.678\n" in capsys.readouterr().out


def test_reference_points_are_measured_once(capsys, monkeypatch, tiny_suite):
    assert main(["reference", "tiny", "--out", "points", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tiny"]["bowl"]
    assert found["hash"] == tiny_suite.cells[0].hash
    assert found["parameters"] == 4
    assert found["train_loss"] < found["initial_loss"]
    assert json.loads(Path("points/tiny.json").read_text()) == {"bowl": found}
    monkeypatch.setattr("meta_test.reference.measure", None)  # Not called again.
    assert main(["reference", "tiny", "--out", "points"]) == 0
    assert "points/tiny.json: 1 cells\n" in capsys.readouterr().out


def test_published_weights_become_an_optimizer(capsys, elsewhere):
    source = ROOT / "tests" / "golden" / "velo_tiny_bugged.theta.state"
    command = ["import", str(source), "--arch=velo", "--licence=MIT"]
    flags = ["--set", "bugged_lstm_state=true", "--set", "step_mult=0.5"]
    assert main([*command, "--out=new/tiny", *flags, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert captured.err == ""
    lopt, theta = l2o.load("new/tiny")
    assert lopt == l2o.VeLO(
        lstm_size=16, mixtures=8, bugged_lstm_state=True, step_mult=0.5
    )
    l2o.export_public("again", lopt, theta)
    assert Path("again").read_bytes() == source.read_bytes()
    manifest = read_manifest("new/tiny")
    assert manifest["name"] == "tiny"
    assert manifest["licence"] == "MIT"
    assert manifest["source"] == {
        "file": source.name,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "arch": "velo",
    }
    assert summary == {
        "directory": "new/tiny",
        **{field: manifest[field] for field in summary if field != "directory"},
    }
    assert {"source", "theta_sha256", "licence", "sizes"} < set(summary)

    assert main([*command, "--out=plain"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"plain: velo, {manifest['num_meta_parameters']:,} meta-parameters, from "
        f"{source.name} of sha256 {manifest['source']['sha256']}"
    )
    assert read_manifest("plain")["sizes"]["bugged_lstm_state"] is False


def test_what_cannot_be_imported(capsys, elsewhere):
    source = ROOT / "tests" / "golden" / "small_fc_lopt.theta.state"
    (elsewhere / "taken").mkdir()
    (elsewhere / "taken" / "x").touch()
    (elsewhere / "cut").write_bytes(source.read_bytes()[:-1])
    cases = [
        ([source, "--arch=velo", "--out=x"], "(arch small_fc fits)"),
        ([source, "--arch=small_fd", "--out=x"], "(did you mean 'small_fc'?)"),
        ([source, "--arch=small_fc", "--out=taken"], "to make, taken exists"),
        ([source, "--arch=small_fc", "--out=x", "--set", "phase=1"], "phase is not a"),
        ([source, "--arch=small_fc", "--out=x", "--set", "phase"], "must be like"),
        (["cut", "--arch=small_fc", "--out=x"], "incomplete input"),
        (["nothing", "--arch=small_fc", "--out=x"], "nothing must be a file of"),
    ]
    for arguments, message in cases:
        status, error = error_of(capsys, "import", *arguments)
        assert status == 1
        assert message in error
    assert {path.name for path in elsewhere.iterdir()} == {"taken", "cut"}
    assert [path.name for path in (elsewhere / "taken").iterdir()] == ["x"]


def test_a_checkout_needs_no_installation(elsewhere):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "meta_train", "list", "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["configs"]
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            runs.command("list", "tasks"),
            env=runs.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "l2o: error: [Errno 28] No space left on device\n"


def test_the_result_is_an_optimizer(reference):
    tx = l2o.optimizer(reference / "optimizer", num_steps=10)
    params = {"x": np.ones(4, np.float32)}
    updates, _ = tx.update({"x": np.ones(4, np.float32)}, tx.init(params), params)
    (step,) = (np.asarray(leaf) for leaf in jax.tree.leaves(updates))
    assert step.shape == (4,)
    assert np.all(np.isfinite(step))
    assert np.any(step != 0)
