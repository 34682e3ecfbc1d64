"""Saved optimizers come back with the same bits, or an error says why not."""

import dataclasses
import datetime as dt
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o import checkpoint, config, released, storage
from l2o.learned import ARCHITECTURES
from l2o.learned.base import LearnedOptimizer, require_num_steps
from tests.helpers import run_python


@dataclasses.dataclass(frozen=True)
class Tiny(LearnedOptimizer):
    """Gradient descent whose rate is learned, and may decay."""

    hidden_size: int = 2
    decays: tuple[float, ...] = (0.5, 0.9)
    schedule: bool = False

    needs_value = False

    def __post_init__(self):
        config.require_positive_int("hidden_size", self.hidden_size)

    @property
    def needs_num_steps(self):
        return self.schedule

    def init_theta(self, key):
        w = jax.random.normal(key, (self.hidden_size, len(self.decays)))
        return {"mlp": {"w": w}, "log_rate": jnp.float32(-1.0)}

    def with_theta(self, theta, *, num_steps=None):
        require_num_steps(self, num_steps)
        return optax.with_extra_args_support(optax.sgd(jnp.exp(theta["log_rate"])))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "Tiny", Tiny)


@pytest.fixture
def lopt():
    return Tiny(hidden_size=3, decays=(0.25, 0.5, 0.125))


@pytest.fixture
def theta(lopt):
    return lopt.init_theta(jax.random.key(0))


@pytest.fixture
def saved(tmp_path, lopt, theta):
    checkpoint.save(tmp_path / "tiny", lopt, theta)
    return tmp_path / "tiny"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A shelf of released optimizers of our own."""
    folder = tmp_path / "released"
    folder.mkdir()
    monkeypatch.setattr(released, "_folder", lambda: folder)
    return folder


def error_of(name_or_path) -> str:
    with pytest.raises(l2o.CheckpointError) as caught:
        l2o.load(name_or_path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def forge(path: Path, **fields) -> None:
    """Writes the checkpoint at `path` again, its hashes right, its facts changed."""
    read, manifest = storage.read_tree(path)
    facts = {k: v for k, v in manifest.items() if k not in storage._RESERVED}
    facts = {k: v for k, v in (facts | fields).items() if v is not None}
    storage.write_tree(path, read, facts, overwrite=True)


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES, "Tiny"}))
def test_every_architecture_comes_back_with_its_bits(tmp_path, name):
    lopt = ARCHITECTURES[name]()
    theta = jax.tree.map(
        lambda leaf: jnp.linspace(-1, 1, leaf.size, dtype=leaf.dtype).reshape(
            leaf.shape
        ),
        jax.eval_shape(lopt.init_theta, jax.random.key(1)),
    )
    l2o.save(tmp_path / "x", lopt, theta)
    again, theta_again = l2o.load(tmp_path / "x")
    assert again == lopt
    assert hash(again) == hash(lopt)
    assert jax.tree.structure(theta_again) == jax.tree.structure(theta)
    for a, b in zip(jax.tree.leaves(theta), jax.tree.leaves(theta_again), strict=True):
        assert isinstance(b, jax.Array)
        assert b.dtype == np.float32
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_sizes_that_are_not_the_default_come_back(saved, lopt):
    assert l2o.load(str(saved))[0] == lopt


def test_manifest_says_where_it_came_from(tmp_path, lopt, theta):
    @dataclasses.dataclass(frozen=True)
    class Config:
        lr: float = 0.5
        sizes: tuple[int, ...] = (1, 2)

    before = dt.datetime.now(dt.UTC).date()
    l2o.save(
        tmp_path / "tiny",
        lopt,
        theta,
        config=Config(),
        seed=3,
        compute={"device": "cpu", "hours": 0.5},
        notes=("a", "b"),
    )
    manifest = storage.read_manifest(tmp_path / "tiny")
    created = dt.date.fromisoformat(manifest.pop("created"))
    assert before <= created <= dt.datetime.now(dt.UTC).date()
    versions = manifest.pop("versions")
    assert set(versions) == {"l2o", "jax", "jaxlib", "numpy", "optax", "python"}
    assert versions["jax"] == jax.__version__
    for field in ("files", "trees", "manifest_sha256"):
        del manifest[field]
    assert manifest == {
        "format": 1,
        "name": "tiny",
        "architecture": "Tiny",
        "sizes": {"hidden_size": 3, "decays": [0.25, 0.5, 0.125], "schedule": False},
        "num_meta_parameters": 10,
        "theta_sha256": checkpoint.theta_sha256(theta),
        "config": {"lr": 0.5, "sizes": [1, 2]},
        "config_hash": config.config_hash({"lr": 0.5, "sizes": [1, 2]}),
        "seed": 3,
        "compute": {"device": "cpu", "hours": 0.5},
        "licence": "Apache-2.0",
        "notes": ["a", "b"],
    }


def test_the_same_optimizer_saved_twice_has_the_same_manifest(tmp_path, lopt, theta):
    facts = []
    for folder in ("a", "b"):
        checkpoint.save(tmp_path / folder / "tiny", lopt, theta)
        manifest = storage.read_manifest(tmp_path / folder / "tiny")
        # Orbax names its data files at random.
        facts.append({**manifest, "files": None, "manifest_sha256": None})
    assert facts[0] == facts[1]


@pytest.mark.parametrize(
    ("provenance", "error", "message"),
    [
        ({"seed": {3}}, TypeError, "provenance.seed must be made of"),
        ({"compute": {"x": np.ones((9, 9))}}, TypeError, "provenance.compute.x must"),
        ({"config": {"lr": float("nan")}}, TypeError, "provenance.config.lr must"),
        ({"sizes": {}}, ValueError, "provenance ['sizes'] is recorded by save"),
        ({"files": {}}, ValueError, "fields ['files'] are written by"),
        ({"config": {}, "config_hash": "0"}, ValueError, "config_hash must be that"),
    ],
)
def test_provenance_must_be_plain(tmp_path, lopt, theta, provenance, error, message):
    with pytest.raises(error) as caught:
        l2o.save(tmp_path / "tiny", lopt, theta, **provenance)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_rate": np.zeros((1,), np.float32)}, "leaf 'log_rate' must be float32[]"),
        ({"log_rate": np.zeros(())}, "must be float32[], got float64[]"),
        ({"more": np.zeros(())}, "leaf 'more' must be absent, got float64[]"),
        ({"mlp": {}}, "leaf 'mlp/w' must be float32[3, 3], got absent"),
    ],
)
def test_theta_must_be_of_the_architecture(tmp_path, lopt, theta, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        l2o.save(tmp_path / "tiny", lopt, theta | changes)
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_that_is_not_in_the_table_is_not_saved(tmp_path, theta):
    class Other(Tiny):
        pass

    with pytest.raises(ValueError, match=r"must be one of \[.*'Tiny'.*\], got Other"):
        l2o.save(tmp_path / "tiny", Other(), theta)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "Huge"}, "architecture must be one of ["),
        ({"architecture": None}, "must have the field architecture"),
        ({"theta_sha256": None}, "must have the field theta_sha256"),
        ({"theta_sha256": "0" * 64}, "theta must have the recorded sha256"),
        ({"sizes": {"hidden_sice": 3}}, "(did you mean 'hidden_size'?), got 3"),
        ({"sizes": {"hidden_size": 0}}, "hidden_size must be an integer of at least 1"),
        ({"sizes": {"hidden_size": 3.0}}, "hidden_size must be an integer, got 3.0"),
        ({"sizes": {"hidden_size": 4}}, "must be float32[4, 2], got float32[3, 3]"),
        ({"sizes": []}, "must be a table of Tiny's fields, got []"),
    ],
)
def test_a_manifest_that_does_not_fit(saved, fields, message):
    forge(saved, **fields)
    text = error_of(saved)
    assert message in text
    assert str(saved) in text


def test_a_checkpoint_of_something_else(tmp_path, theta):
    storage.write_tree(tmp_path / "run", {"theta": theta}, {"step": 3})
    assert "must have the field architecture" in error_of(tmp_path / "run")


def test_a_flipped_bit_in_theta_is_detected(saved):
    data = max(
        (p for p in saved.rglob("*") if p.is_file()), key=lambda p: "/d/" in str(p)
    )
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    assert "must have sha256" in error_of(saved)


def test_optimizer_is_the_loaded_theta_bound(saved, theta):
    tx = l2o.optimizer(saved)
    params = {"p": jnp.ones(3)}
    updates: Any = tx.update(params, tx.init(params), params, value=1.0)[0]
    np.testing.assert_allclose(updates["p"], -np.exp(-1.0) * np.ones(3), rtol=1e-6)


def test_optimizer_passes_num_steps(tmp_path, theta):
    l2o.save(tmp_path / "x", Tiny(3, (0.1,) * 3, schedule=True), theta)
    assert l2o.optimizer(tmp_path / "x", 10)
    with pytest.raises(ValueError, match="needs num_steps"):
        l2o.optimizer(tmp_path / "x")


def test_overwrite_only_when_asked(saved, lopt, theta):
    with pytest.raises(FileExistsError, match="overwrite=True"):
        l2o.save(saved, lopt, theta)
    new = jax.tree.map(lambda x: x + 1, theta)
    l2o.save(saved, lopt, new, overwrite=True)
    assert checkpoint.theta_sha256(l2o.load(saved)[1]) == checkpoint.theta_sha256(new)


def test_names_are_found_on_the_shelf(shelf, saved, lopt, monkeypatch):
    assert released.names() == []
    shutil.copytree(saved, shelf / "tiny-1")
    shutil.copytree(saved, shelf / "tiny-2")
    (shelf / "notes").mkdir()
    assert released.names() == ["tiny-1", "tiny-2"]
    assert released.find("tiny-1") == shelf / "tiny-1"
    assert l2o.load("tiny-2")[0] == lopt
    # A checkpoint in the working directory wins over a released name.
    here = shelf.parent / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    shutil.copytree(saved, here / "tiny-1")
    assert released.find("tiny-1").resolve() == here / "tiny-1"
    (here / "tiny-2").mkdir()  # no checkpoint
    assert released.find("tiny-2") == shelf / "tiny-2"


def test_an_unknown_name_lists_the_known_and_the_nearest(shelf, saved):
    shutil.copytree(saved, shelf / "velo-small")
    assert error_of("velo-smal") == (
        "an optimizer must be a released name, one of ['velo-small'], or a "
        "checkpoint's directory, got 'velo-smal' (did you mean 'velo-small'?)"
    )
    assert ".." in error_of("..")
    for path in ("./velo-small", shelf / "velo", Path("velo-small")):
        assert "none is there" in error_of(path)


@pytest.mark.parametrize("name", released.names())
def test_released_optimizers_load(name):
    lopt, theta = l2o.load(name)
    manifest = storage.read_manifest(released.find(name))
    assert manifest["name"] == name
    assert checkpoint.theta_sha256(theta) == manifest["theta_sha256"]
    # A field that came later has its default, by which old weights are what they were.
    assert config.to_dict(lopt) == config.to_dict(type(lopt)()) | manifest["sizes"]


def test_what_one_process_saves_another_loads(saved, theta):
    """With other devices, and without the process that wrote it."""
    code = f"""
from l2o import checkpoint, storage
read, manifest = storage.read_tree({str(saved)!r})
print(checkpoint.theta_sha256(read["theta"]))
"""
    assert run_python(code, devices=2).strip() == checkpoint.theta_sha256(theta)
