"""Configs: what is read, and what is refused in one line."""

import re

import jax
import pytest

from l2o.config import build, to_dict
from meta_train import config as configs
from meta_train.build import build_trainer
from meta_train.config import TrainConfig
from tests.helpers import run_python
from tests.meta_train import runs


def load(tmp_path, text, *overrides):
    path = tmp_path / "given.toml"
    path.write_text(text)
    return configs.load(str(path), overrides)


def test_a_config_is_read_without_jax():
    run_python(
        "import sys, meta_train.config as configs; configs.load(configs.DEFAULT); "
        "assert not {'jax', 'numpy', 'optax'} & set(sys.modules)"
    )


@pytest.mark.parametrize("name", configs.names())
def test_packaged_configs(name):
    config = configs.load(name)
    assert config.name == name
    assert build(TrainConfig, to_dict(config)) == config


@pytest.mark.parametrize("name", configs.names())
def test_packaged_configs_can_be_built(name):
    trainer = build_trainer(configs.load(name))
    shapes = jax.eval_shape(trainer.init, jax.random.key(0))
    assert len(shapes.particles) == len(trainer.mix.names)
    # What a person reads in a list.
    assert len(configs.about(name)) > 20


def test_the_default_is_packaged():
    assert configs.DEFAULT in configs.names()


def test_a_python_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from meta_train.config import OuterConfig, TrainConfig\n"
        "config = TrainConfig(name='mine', optimizer={'arch': 'small_fc'},\n"
        "    task={'family': 'quadratic'}, schedule={'kind': 'constant'},\n"
        "    outer=OuterConfig(steps=20 * 2))\n"
    )
    config = configs.load(str(path), ["seed=3"])
    assert (config.name, config.outer.steps, config.seed) == ("mine", 40, 3)
    path.write_text("config = {'name': 'mine'}")
    with pytest.raises(ValueError, match="must make a TrainConfig named config, got d"):
        configs.load(str(path))
    with pytest.raises(ValueError, match="a config must be a file that exists, got"):
        configs.load(str(tmp_path / "none.py"))


def test_a_file_and_overrides(tmp_path):
    config = load(tmp_path, runs.TINY, "outer.steps=4", "seed=7", "name=x", "seed=8")
    assert (config.outer.steps, config.seed, config.name) == (4, 8, "x")
    assert config.estimator.window == 5
    assert config.optimizer == {"arch": "small_fc", "hidden_size": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("outer.stepz=1", "outer.stepz is not a field of OuterConfig (did you mean"),
        ("colour=red", "colour is not a field of TrainConfig, got 'red'"),
        ("outer.steps=0", "outer.steps must be an integer of at least 1, got 0"),
        ("outer.steps=-2", "outer.steps must be an integer of at least 1, got -2"),
        ("outer.steps=2.0", "outer.steps must be an integer, got 2.0"),
        ("outer.steps=many", "outer.steps must be an integer, got 'many'"),
        ("outer.steps=true", "outer.steps must be an integer, got True"),
        ("outer.steps=13", "steps must be a multiple of steps_per_dispatch, got 13"),
        ("outer.learning_rate=0", "outer.learning_rate must be a finite number above"),
        ("outer.learning_rate=nan", "outer.learning_rate must be a finite number"),
        ("outer.clip=-1", "outer.clip must be a number in [0.0, 1e+30], got -1"),
        ("outer.warmup=12", "outer.warmup must be a number in [0, 11], got 12"),
        ("outer.final_fraction=2", "outer.final_fraction must be a number in [0"),
        ("outer.max_skipped=0", "outer.max_skipped must be an integer of at least 1"),
        ("estimator.sigma=0", "estimator.sigma must be a finite number above 0"),
        ("estimator.pairs=-4", "estimator.pairs must be an integer of at least 1"),
        ("estimator.block=3", "pairs must be a multiple of block, got 4 and 3"),
        ("estimator.credit=full", "estimator.credit must be one of 'fresh', 'persi"),
        ("estimator.window=5.5", "estimator.window must be an integer, got 5.5"),
        ("checkpoint.keep=0", "checkpoint.keep must be an integer of at least 1"),
        ("checkpoint.seconds=-1", "checkpoint.seconds must be a number in [0.0, 86"),
        ("seed=-1", "seed must be a number in [0, 4294967295], got -1"),
        ("seed=0.5", "seed must be an integer, got 0.5"),
        ("name=a/b", "name must be a file name of letters"),
        ("name=..", "name must be a file name of letters"),
        ('name=""', "name must be a file name of letters"),
        ('name="a b"', "name must be a file name of letters"),
        ("suite=3", "suite must be a string, got 3"),
        ("task=quadratic", "task must be a table or a list, got 'quadratic'"),
        ("outer=3", "outer must be a table of OuterConfig's fields, got 3"),
        ("outer.steps.a=3", "outer.steps must be a table, got 12"),
        ("steps", "an override must be like a.b=value, got 'steps'"),
        ("seed=1 2", "the value must be TOML or one bare word"),
    ],
)
def test_what_is_refused(tmp_path, override, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(tmp_path, runs.TINY, override)
    assert "\n" not in str(caught.value)


def test_what_must_be_given(tmp_path):
    with pytest.raises(ValueError, match="name, optimizer, task, schedule must be"):
        load(tmp_path, "seed = 1")


def test_not_toml(tmp_path):
    with pytest.raises(ValueError, match=r"given.toml: a config must be TOML: .*line"):
        load(tmp_path, "seed: 1")


def test_not_text(tmp_path):
    path = tmp_path / "given.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"given.toml: a config must be UTF-8 text"):
        configs.load(str(path))


@pytest.mark.parametrize("source", ["smal", "no/such.toml", "."])
def test_no_such_config(source):
    with pytest.raises(ValueError, match=r"must be one of .* or a TOML or Python file"):
        configs.load(source)
