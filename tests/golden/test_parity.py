"""Published architectures follow the trajectories of the public implementations.

The recordings are described in README.md beside this file; `--golden DIR` takes others.
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

import l2o
from l2o.learned import groups, per_parameter
from tests.helpers import nightly


HERE = Path(__file__).parent
# Largest deviation of a tensor's trajectory, in units of its largest entry.
TOLERANCE = 1e-5

# The public classes: our name, and which facts of a recording are which of our fields.
# Sizes are read off the weights.
CLASSES = {
    "AdafacMLPLOpt": ("small_fc", {}),
    "HyperV2": (
        "velo",
        {
            "use_bugged_next_lstm_state": "bugged_lstm_state",
            "use_bugged_loss_features": "bugged_loss_features",
        },
    ),
    "Celo": ("celo", {"phase": "phase"}),
    "CeloAdam": ("celo_adam", {}),
    "Celo2": (
        "celo2",
        {"orthogonalize": "orthogonalize", "learning_rate": "step_mult"},
    ),
}


def weights(path: Path) -> Path:
    """The theta of a recording; that of the released Celo may be in its own folder."""
    beside = path.with_suffix(".theta.state")
    released = path.parent.parent / "public_checkpoints" / "celo" / "theta.state"
    return beside if beside.is_file() else released


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


@pytest.fixture(params=nightly(["plain", "elementwise", "looped"], but=["plain"]))
def layout(request, monkeypatch):
    """The recorded tensors are all small: they are also put through the other ways.

    Elementwise as larger ones are, and as the largest are, in a loop over those of one
    shape.
    """
    if request.param != "plain":
        monkeypatch.setattr(per_parameter, "SMALL", -1)
    if request.param == "looped":
        monkeypatch.setattr(groups, "BATCHED", -1)
    jax.clear_caches()
    yield
    jax.clear_caches()


class Recording(NamedTuple):
    """A recorded file's content, and the optimizer that its theta makes."""

    lopt: l2o.LearnedOptimizer
    theta: Any
    config: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def part(self, name):
        return {
            key.split("/")[1]: value
            for key, value in self.arrays.items()
            if key.startswith(f"{name}/")
        }


@pytest.fixture
def recording(request):
    path = request.param
    with np.load(path) as file:
        arrays = dict(file)
    config = json.loads(arrays.pop("config").tobytes())
    arch, fields = CLASSES[config["arch"]]
    fields = fields | {"step_mult": "step_mult"}
    flags = {own: config[theirs] for theirs, own in fields.items() if theirs in config}
    lopt, theta = l2o.import_public(weights(path), arch, **flags)
    return Recording(lopt, theta, config, arrays)


@pytest.mark.golden
def test_trajectory_is_that_of_the_public_implementation(recording, layout):
    start, losses = recording.part("params0"), recording.arrays["losses"]
    num_steps = np.float32(recording.config.get("num_steps", len(losses)))
    followed = follow(
        recording.lopt,
        recording.theta,
        start,
        recording.part("grads"),
        losses,
        num_steps,
    )
    moved = recording.config.get("moved", list(followed))
    want = {name: recording.part("traj")[name] for name in moved}
    got = {name: np.asarray(followed[name]) for name in moved}
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
    own = jax.eval_shape(recording.lopt.init_theta, jax.random.key(0))
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), recording.theta)
    assert shapes == jax.tree.map(lambda x: (x.shape, str(x.dtype)), own)
