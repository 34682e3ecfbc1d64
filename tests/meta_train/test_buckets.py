"""A run whose directory is in a bucket: the same bits, whatever stops it."""

import json
import os
import signal

import pytest

from meta_train import locks
from meta_train.cli import main
from meta_train.directory import RunDirectory
from tests.buckets import BUCKET
from tests.meta_train import pods, runs


def lines_of(store, folder):
    return store[f"{folder}/metrics.jsonl"].decode()


@pytest.fixture
def out(folder):
    return f"gs://{BUCKET}/{folder}"


@pytest.fixture
def run(store, folder, out, whole):
    """A finished run that a test may change."""
    store.copy(whole, folder)
    return RunDirectory(out)


@pytest.fixture(scope="module")
def whole(shared_store, config):
    """The folder of a run that nothing interrupted."""
    del shared_store
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        runs.start(runs.settings(config), f"gs://{BUCKET}/whole")
    return "whole"


def test_a_run_is_the_same_in_a_bucket(store, whole, reference):
    assert runs.bits(f"gs://{BUCKET}/{whole}") == runs.bits(reference)
    local = {p.relative_to(reference).parts[0] for p in reference.rglob("*")}
    found = {name.split("/")[1] for name in store.names(f"{whole}/")}
    assert found == local - {"lock"}  # It was given back.
    assert (
        RunDirectory(f"gs://{BUCKET}/{whole}").steps()
        == RunDirectory(reference).steps()
    )


def test_a_damaged_checkpoint_is_set_aside(store, folder, out, run, config, reference):
    files = store.names(f"{folder}/checkpoints/step_{runs.STEPS:08d}/state/d/")
    store.flip(max(files, key=lambda name: len(store[name])))
    lines = runs.Lines()
    runs.start(runs.settings(config), out, resume=True, progress=lines)
    assert any("a damaged checkpoint was set aside" in line for line in lines.lines)
    assert runs.bits(out) == runs.bits(reference)
    aside = f"{folder}/checkpoints/damaged_step_{runs.STEPS:08d}"
    assert f"{aside}/manifest.json" in store.names(aside)


def test_what_killed_writers_left_is_no_checkpoint(store, folder, run):
    checkpoints = f"{folder}/checkpoints"
    last, before = (f"{checkpoints}/step_{step:08d}" for step in run.steps()[:2])
    steps = run.steps()
    # One that was not complete, and one that was being replaced.
    store.copy(last, f"{checkpoints}/step_00000099")
    del store[f"{checkpoints}/step_00000099/manifest.json"]
    store.copy(before, f"{checkpoints}/.{before.rpartition('/')[2]}.old")
    del store[f"{before}/manifest.json"]
    store[f"{checkpoints}/step_copy/part"] = b"of somebody"
    assert run.steps() == [steps[0], *steps[2:]]
    run._files.tidy(run._checkpoints, ["state"])
    assert run.steps() == steps
    assert store.names(f"{checkpoints}/step_00000099") == []
    assert store.names(f"{checkpoints}/.") == []
    assert store.names(f"{checkpoints}/step_copy/") != []


@pytest.mark.nightly
@pytest.mark.slow
def test_a_kill_while_two_processes_save(
    store, folder, out, config, tmp_path, reference
):
    """What two began, one goes on with."""
    killed = []

    def kill(method, name):
        """The one that has the lease, while both write their parts."""
        if f"{folder}/checkpoints/step_00000006/" in name and not killed:
            assert method == "write"
            owner = json.loads(store[f"{folder}/lock"])["process"]
            killed.append(int(owner.split()[0]))
            os.kill(killed[0], signal.SIGKILL)

    store.before = kill
    ended = pods.train(tmp_path, config, "--out", out)
    assert ended[0].status == -signal.SIGKILL, ended[0].log
    assert killed
    assert RunDirectory(out).steps() == [4, 2, 0]
    assert store.names(f"{folder}/checkpoints/step_00000006/")
    both = store.names(f"{folder}/checkpoints/step_00000004/state/ocdbt.process_1/")
    assert both != []
    store.age(f"{folder}/lock", locks.LEASE)
    runs.start(runs.settings(config), out, resume=True)
    assert runs.bits(out) == runs.bits(reference)


def test_a_directory_has_one_writer(store, folder, out, monkeypatch):
    """The other one has renewed its lease when it is looked at again."""
    said = []
    monkeypatch.setattr(locks, "RENEWAL", 0.05)
    message = rf"have one writer, {out} is in use by process {os.getpid()} on "
    with RunDirectory(out).locked():
        other = RunDirectory(out)
        with pytest.raises(ValueError, match=message), other.locked(said.append):
            pass
    (line,) = said
    assert f"{out} was in use by process {os.getpid()}" in line
    assert store.names(folder) == []


def test_a_lease_that_ran_out_is_taken_over(store, folder, out, run, monkeypatch):
    """Who had it writes nothing any more, and leaves the new one."""
    monkeypatch.setattr(locks, "SETTLING", 0.0)
    said = []
    published = store[f"{folder}/metrics.jsonl"]
    steps = run.steps()

    def lose_the_lease():
        with run.locked():
            store.age(f"{folder}/lock", locks.LEASE)
            with RunDirectory(out).locked(said.append):
                run.local(run.metrics).write_text("late")
                with pytest.raises(ValueError, match="is in use by process"):
                    runs.save(run, {"a": 1}, 14, {})
            store[f"{folder}/lock"] = b"of a third one"

    with pytest.raises(ValueError, match="is in use by process unknown"):
        lose_the_lease()
    assert said == []
    assert run.steps() == steps
    assert store[f"{folder}/metrics.jsonl"] == published
    assert store[f"{folder}/lock"] == b"of a third one"


def test_a_lease_that_two_take_over_is_of_one(store, folder, out, monkeypatch):
    """The second one removes what the first one made."""
    other = json.dumps({"owner": "other", "process": "7 on elsewhere"}).encode()

    def settle(seconds):
        assert seconds == locks.SETTLING
        store[f"{folder}/lock"] = other

    store[f"{folder}/lock"] = b"damaged"
    store.age(f"{folder}/lock", locks.LEASE)
    monkeypatch.setattr(locks.time, "sleep", settle)
    with (
        pytest.raises(ValueError, match="in use by process 7 on elsewhere"),
        RunDirectory(out).locked(),
    ):
        pytest.fail("it has the lease of another one")
    assert store[f"{folder}/lock"] == other


def test_a_lease_of_the_dead_is_waited_for(store, folder, out, monkeypatch):
    """By the clock of the store, with one line."""
    waited, said = [], []

    def sleep(seconds):
        waited.append(seconds)
        if waited[-1] != locks.SETTLING:
            # What passes here, as the clock is asked for once.
            monkeypatch.setattr(locks, "LEASE", locks.LEASE - 10.0)

    store[f"{folder}/lock"] = b'{"owner": "other", "process": "7 on elsewhere"}'
    store.age(f"{folder}/lock", 25.0)
    monkeypatch.setattr(locks.time, "sleep", sleep)
    with RunDirectory(out).locked(said.append):
        assert json.loads(store[f"{folder}/lock"])["owner"] != "other"
    assert waited == [1.0, 1.0, 1.0, 1.0, locks.SETTLING]
    assert said == [
        f"{out} was in use by process 7 on elsewhere 25 s ago: waiting 35 s for a sign "
        "of it"
    ]
    assert store.names(folder) == []


@pytest.mark.slow
def test_commands_take_buckets(
    store, folder, out, config, tiny_suite, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    train = ["train", str(config), "--out", out, "--set", "suite=tiny", "--json"]
    assert main([*train, "--set", "outer.steps=4"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["directory"] == out
    assert json.loads(store[f"{folder}/report/report.json"]) == summary["report"]
    assert store.names(f"{folder}/report/report.html")
    assert store.names(f"{folder}/tensorboard/")
    assert store.names(f"{folder}/lock") == []
    assert main(["train", "--resume", "--out", out, "--json"]) == 0
    captured = capsys.readouterr()
    assert "nothing to resume" in captured.err
    assert json.loads(captured.out)["report"] == summary["report"]
    assert main([*train, "--set", "outer.steps=4"]) == 1
    assert f"{out} holds a run: pass --resume" in capsys.readouterr().err
    assert main(["plot", out]) == 0
    assert (tmp_path / "meta-training.png").is_file()
    assert main(["launch-local", "--", "train", "--out", out]) == 1
    assert f"{out} holds a run: pass --resume" in capsys.readouterr().err
    assert main(["eval", "digits-mlp", "--out", out]) == 1
    assert "must be a path of a mounted file system" in capsys.readouterr().err
