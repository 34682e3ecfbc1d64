"""Published architectures follow the trajectories of the public implementations.

The recordings are described in README.md beside this file; `--golden DIR` takes others.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import numpy as np
import optax
import pytest

from l2o.learned import LearnedOptimizer, SmallFC, VeLO, features, network


HERE = Path(__file__).parent
# Largest deviation of a tensor's trajectory, in units of its largest entry.
TOLERANCE = 1e-5

Loaded = tuple[LearnedOptimizer, Any]


def small_fc(config: Mapping[str, Any], state: Any) -> Loaded:
    del config  # Its sizes can be read off the weights.
    mlp = layers(state["nn"]["~"])
    decays = ("momentum_decays", "rms_decays", "adafactor_decays")
    momentum, rms, factored = (state[name] for name in decays)
    lopt = SmallFC(hidden_size=mlp[0]["b"].shape[-1], hidden_layers=len(mlp) - 1)
    return lopt, {
        "mlp": mlp,
        "momentum_decays": momentum,
        "rms_decays": rms,
        "factored_decays": factored,
    }


def velo(config: Mapping[str, Any], state: Any) -> Loaded:
    flat = dict(state["ff_mod_stack"]["~"])
    # One array per group of features, in the order of their numbers.
    groups = sorted((k for k in flat if k.startswith("w0__")), key=lambda k: int(k[4:]))
    flat["w0"] = np.concatenate([flat.pop(k) for k in groups], axis=1)
    mlps = layers(flat)
    rnn, start = state["rnn_params"], state["lstm_init_state"]
    lopt = VeLO(
        lstm_size=config["lstm_hidden_size"],
        mixtures=config["param_inits"],
        hidden_size=mlps[0]["b"].shape[-1],
        hidden_layers=len(mlps) - 1,
        bugged_lstm_state=config["use_bugged_next_lstm_state"],
        bugged_loss_features=config["use_bugged_loss_features"],
    )
    return lopt, {
        "mlps": mlps,
        "lstm": {
            "unused": rnn["linear"],
            "mix": rnn["linear_1"],
            "inputs": rnn["linear_2"],
            "cell": rnn["rnn/linear"],
            "controls": rnn["rnn_to_controls"],
            "step_size": rnn["step_size"],
        },
        "initial_state": {"hidden": start["hidden"], "cell": start["cell"]},
    }


def layers(flat: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`w0, b0, w1, b1, ...` as a list of layers."""
    count = sum(name.startswith("b") for name in flat)
    return [{"w": flat[f"w{i}"], "b": flat[f"b{i}"]} for i in range(count)]


# The public classes that this project has.
CONVERTERS: dict[str, Callable[[Mapping[str, Any], Any], Loaded]] = {
    "AdafacMLPLOpt": small_fc,
    "HyperV2": velo,
}


def pytest_generate_tests(metafunc):
    if "recording" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden") or HERE)
        paths = sorted(folder.glob("*.npz"))
        if not paths:
            raise pytest.UsageError(f"--golden must hold *.npz files, got {folder}")
        ids = [path.stem for path in paths]
        metafunc.parametrize("recording", paths, ids=ids, indirect=True)


@functools.partial(jax.jit, static_argnums=0)
def follow(lopt, theta, params, grads, losses, num_steps):
    """The parameters after every step, `[T, ...]`, as the gradients are handed in."""
    tx = lopt.with_theta(theta, num_steps=num_steps)

    def body(carry, given):
        params, state = carry
        g, loss = given
        updates, state = tx.update(g, state, params, value=loss)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(body, (params, tx.init(params)), (grads, losses))[1]


@pytest.fixture(params=["small tensors", "large tensors"])
def layout(request, monkeypatch):
    """The recorded tensors are all small: they are also put through the other way."""
    if request.param == "large tensors":
        for module in (network, features):
            monkeypatch.setattr(module, "SMALL", -1)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture
def recording(request, layout):
    """The recorded file's content, and our trajectory under its theta."""
    path = request.param
    with np.load(path) as file:
        arrays = dict(file)
    config = json.loads(arrays.pop("config").tobytes())
    if config["arch"] not in CONVERTERS:
        pytest.skip(f"l2o has no {config['arch']}")
    state = flax.serialization.msgpack_restore(
        path.with_suffix("").with_suffix(".theta.state").read_bytes()
    )
    lopt, theta = CONVERTERS[config["arch"]](config, state)

    def part(name):
        return {
            key.split("/")[1]: value
            for key, value in arrays.items()
            if key.startswith(f"{name}/")
        }

    got = follow(
        lopt,
        theta,
        part("params0"),
        part("grads"),
        arrays["losses"],
        np.float32(config["num_steps"]),
    )
    return lopt, theta, part("params0"), jax.device_get(got), part("traj")


@pytest.mark.golden
def test_trajectory_is_that_of_the_public_implementation(recording):
    _, _, start, got, want = recording
    assert set(got) == set(want)
    assert len(want) > 0
    for name in want:
        assert got[name].dtype == np.float32
        assert got[name].shape == want[name].shape
        scale = np.abs(want[name]).max()
        deviation = np.abs(got[name] - want[name]).max()
        assert deviation <= TOLERANCE * scale, name
        # Nor is that because nothing has moved.
        moved = np.abs(want[name] - start[name]).max()
        assert moved > 100 * TOLERANCE * scale, name


@pytest.mark.golden
def test_converted_theta_has_the_structure_of_init_theta(recording):
    lopt, theta, *_ = recording
    own = jax.eval_shape(lopt.init_theta, jax.random.key(0))
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), theta)
    assert shapes == jax.tree.map(lambda x: (x.shape, str(x.dtype)), own)
