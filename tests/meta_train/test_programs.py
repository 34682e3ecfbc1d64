"""Compiled programs are kept between runs, in a folder of the user's alone."""

import os
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest

from meta_train import programs, status
from meta_train.programs import keep_programs
from tests.meta_train import pods, runs


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where the cache would be, in a process that has been told of none."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield tmp_path / "l2o" / "programs"
    for name, value in before.items():
        jax.config.update(name, value)


def folder():
    return Path(getattr(jax.config, "jax_compilation_cache_dir"))  # noqa: B009


def test_the_folder_is_the_users_alone(home):
    keep_programs()
    assert folder().parent == home
    assert folder().stat().st_mode & 0o777 == 0o700
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    folder_of_others = next(home.iterdir())
    folder_of_others.chmod(0o770)
    keep_programs()
    assert folder() == Path("elsewhere")


def test_who_says_where_is_listened_to(home, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    keep_programs()
    assert not home.exists()


def test_the_oldest_are_removed(home, monkeypatch):
    keep_programs()
    for i in range(4):
        (folder() / str(i)).write_bytes(bytes(10))
        os.utime(folder() / str(i), (i, i))
    monkeypatch.setattr(programs, "MOST_BYTES", 25)
    keep_programs()
    assert sorted(path.name for path in folder().iterdir()) == ["2", "3"]


def test_what_is_not_compiled_is_verified(home):
    keep_programs()
    made = []

    def lower():
        made.append(1)
        double = jax.jit(lambda x: 2 * x)
        return jax.export.export(double)(jax.ShapeDtypeStruct((), "float32"))

    assert not programs.has_lowered("key")
    for _ in range(2):
        assert programs.lowered("key", lower).call(np.float32(3.0)) == 6.0
        assert programs.has_lowered("key")
        assert len(made) == 1
    [path] = folder().glob("*-stablehlo")
    assert path.stat().st_mode & 0o777 == 0o600
    good = path.read_bytes()
    for damaged in (b"", good[:-1], good[:40] + b"x" + good[41:]):
        path.write_bytes(damaged)
        made.clear()
        programs.lowered("key", lower)
        assert len(made) == 1
        programs.lowered("key", lower)
        assert len(made) == 1
    assert not list(folder().glob(".stablehlo-*"))  # Nothing half written is left.


def test_without_a_folder_nothing_is_kept(home, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/programs")
    export = jax.export.export(jax.jit(lambda x: 2 * x))
    lower = lambda: export(jax.ShapeDtypeStruct((), "float32"))
    assert programs.lowered("key", lower).call(np.float32(3.0)) == 6.0
    assert not programs.has_lowered("key")
    assert not home.exists()


UNTRACED = """
from meta_train.outer import OuterTrainer
def dispatch(self, state):
    raise AssertionError("traced again")
OuterTrainer.dispatch = dispatch
"""


@pytest.mark.slow
def test_a_restart_finds_them_and_has_the_same_bits(home, config, reference, tmp_path):
    """Every process of a run, which do not share them."""
    logs = tmp_path / "logs"
    logs.mkdir()
    found = []
    for out, code in ((tmp_path / "cold", ""), (tmp_path / "warm", UNTRACED)):
        ended = pods.train(logs, config, "--out", out, codes={0: code, 1: code})
        assert [one.status for one in ended] == [status.DONE] * 2, ended
        assert runs.bits(out) == runs.bits(reference)
        found.append({path.name for path in home.glob("*/*")})
    cold, warm = found
    assert sum("dispatch" in name and name.endswith("-cache") for name in cold) == 2
    assert sum(name.endswith("-stablehlo") for name in cold) == 1
    assert warm == cold
