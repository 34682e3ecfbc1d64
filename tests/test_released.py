"""What is shipped under checkpoints/ is what it says it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o import released
from l2o.checkpoint import theta_sha256
from l2o.config import config_hash, to_dict
from l2o.storage import read_manifest
from meta_test.inner_loop import run_grid
from meta_test.optimizers import learned
from meta_test.suites import QUICK
from meta_train import config as configs


NAMES = released.names()


def test_there_is_a_released_optimizer():
    assert "digits-mlp" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_manifest_states_what_is_there(name):
    manifest = read_manifest(released.find(name))
    lopt, theta = l2o.load(name)
    assert manifest["name"] == name
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["theta_sha256"] == theta_sha256(theta)
    sizes = [x.size for x in jax.tree.leaves(lopt.init_theta(jax.random.key(0)))]
    assert manifest["num_meta_parameters"] == sum(sizes)
    assert manifest["compute"]["inner_steps"] > 0
    card = (released.find(name) / "README.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")
    assert manifest["theta_sha256"] in card


@pytest.mark.parametrize("name", NAMES)
def test_the_packaged_config_is_the_one_it_was_trained_with(name):
    manifest = read_manifest(released.find(name))
    assert manifest["config_hash"] == config_hash(to_dict(configs.load(name)))


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_the_plain_digits_mlp(name):
    """Far below the 0.1 that plain SGD reaches in 200 steps, from two seeds."""
    lopt, theta = l2o.load(name)
    contender = learned(name, lopt, theta)
    family = QUICK.cells[0].family()
    curves = run_grid(
        family,
        jax.tree.map(lambda x: np.stack([x, x]), family.nominal()),
        contender.make,
        contender.candidates,
        jnp.array([100, 101]),
        num_records=10,
        record_every=20,
        eval_batches=16,
    )
    assert np.all(np.asarray(curves.final.train_loss) < 0.06)
