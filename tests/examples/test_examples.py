"""The scripts of examples/: short, listed, and good at what they train."""

import importlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import l2o
from examples import flax_nnx, flax_train_state
from tests.helpers import ROOT


# The training loss that 200 steps must reach; untrained it is above 2.3.
REACHED = {
    "celo_public": 0.15,
    "equinox_loop": 0.25,
    "flax_nnx": 0.15,
    "flax_train_state": 0.15,
    "own_task": 0.15,
    "plain_jax": 0.15,
}
FILES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", REACHED)
def test_an_example_learns(name, capsys):
    results = importlib.import_module(f"examples.{name}").main(steps=200)
    trainings = results.values() if isinstance(results, dict) else [results]
    printed = capsys.readouterr().out
    for loss, accuracy in trainings:
        assert loss < REACHED[name]
        assert accuracy > 0.93
        assert f"train loss {loss:.2g}, test accuracy {accuracy:.3f}\n" in printed


def test_every_example_is_tested_and_listed():
    names = {file.stem for file in FILES}
    assert names == set(REACHED)
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[(\w+)\.py\]\(\.\./examples/(\w+)\.py\)", page)
    assert linked == [(name, name) for name, _ in linked]
    assert {name for name, _ in linked} == names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_is_a_short_script(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert f"`python examples/{file.name}`" in lines[0]
    assert lines[-2:] == ['if __name__ == "__main__":', "    main()"]


X, Y = jnp.ones((2, 64)), jnp.zeros((2,), jnp.int32)
NO_VALUE = (
    r"^Celo reads the course of the loss: "
    r"call update\(grads, state, params, value=loss\), got value=None"
)


def test_train_state_without_the_loss():
    """`apply_gradients` has no way to pass it on."""
    model, tx = flax_train_state.MLP(), l2o.optimizer("celo-public", num_steps=10)
    params = model.init(jax.random.key(0), X)["params"]
    state: Any = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    with pytest.raises(ValueError, match=NO_VALUE):
        flax_train_state.plain_step(state, X, Y)


def test_nnx_optimizer_without_the_loss():
    model, tx = flax_nnx.MLP(nnx.Rngs(0)), l2o.optimizer("celo-public", num_steps=10)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = nnx.grad(flax_nnx.loss_fn)(model, X, Y)
    with pytest.raises(ValueError, match=NO_VALUE):
        optimizer.update(model, grads)


def test_without_the_length_of_the_training():
    with pytest.raises(ValueError, match=r"needs num_steps: pass num_steps=<number"):
        l2o.optimizer("celo-public")
