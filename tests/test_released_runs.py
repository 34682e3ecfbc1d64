"""A release is what its committed config makes: the first dispatch, bit for bit."""

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o.learned.base import tensors_by_path
from meta_test.compilation import compiler_options
from meta_train import config as configs
from meta_train.build import block_mesh, build_trainer, state_sharding, warm_start
from meta_train.estimators.base import GradientEstimator, MetaGradient
from meta_train.metrics import summarise
from tests.helpers import ROOT, nightly, run_python


RECORDED = ROOT / "docs" / "reports"
NAMES = sorted(path.parent.name for path in RECORDED.glob("*/training.jsonl"))
CPU = ["GenuineIntel", "6", "207"]
"""Of the machine that made them: vendor, family, model."""

CPUS = {
    name: ["AuthenticAMD", "25", "17"]
    for name in ("velo-averaged", "velo-averaged-fit", "velo-fall", "velo-mean")
}
"""Of those that another machine made."""

CHECKED = [
    "lopt-anytime",
    "lopt-small",
    "lstm",
    "velo-averaged",
    "velo-base",
    "velo-fall",
    "velo-small",
]
"""A minute or two each; of the others `first_row` tells the same."""


class Idle(GradientEstimator):
    """In the place of a family that is not drawn: it is not compiled."""

    def __init__(self, mesh):
        self.mesh = mesh

    def init(self, theta, key):
        return ()

    def estimate(self, theta, state, key, outer_step):
        zero = jnp.zeros((), jnp.int32)
        nothing = MetaGradient(
            jnp.zeros_like(theta), jnp.float32(jnp.nan), zero, zero, zero, zero
        )
        return nothing, state


jax.tree_util.register_pytree_node(
    Idle, lambda idle: ((), idle.mesh), lambda mesh, _: Idle(mesh)
)


def first_row(name):
    """Prints what the first dispatch of a run with this config reports of itself."""
    config = configs.load(name)
    trainer = build_trainer(config)
    key = jax.random.key(config.seed)
    run_key = jax.random.split(key, 3)[2]
    used = np.zeros(len(trainer.estimators), bool)
    for step in range(config.outer.steps_per_dispatch):
        used |= np.asarray(trainer.mix.draw(jax.random.fold_in(run_key, step)))
    trainer = dataclasses.replace(
        trainer,
        estimators=tuple(
            estimator if drawn else Idle(estimator.mesh)
            for estimator, drawn in zip(trainer.estimators, used, strict=True)
        ),
    )
    given = warm_start(config, trainer.lopt)
    state = jax.jit(lambda trainer: trainer.init(key, given))(trainer)
    state = jax.device_put(state, state_sharding(block_mesh(config.estimator), state))
    dispatch = jax.jit(
        lambda trainer, state: trainer.dispatch(state),
        compiler_options=compiler_options(),
    )
    _, metrics = dispatch(trainer, state)
    steps, names = config.outer.steps_per_dispatch, trainer.mix.names
    print(json.dumps(summarise(steps, jax.device_get(metrics), names)))


def same_machine(name):
    """Whether bits are to be those of the machine that the release was made on.

    Compilers round as the CPU allows, and within a window such differences grow.
    """
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    told = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    cpu = [told.get(key, "").strip() for key in ("vendor_id", "cpu family", "model")]
    wide = "avx512f" in told.get("flags", "").split()
    return version("jaxlib") == "0.10.2" and wide and cpu == CPUS.get(name, CPU)


def drawn(row):
    """What no rounding changes: which families took part, and which problems began."""
    of_each = {
        name: [family[key] for key in ("updates", "restarts")]
        for name, family in row["families"].items()
    }
    return row["step"], row["skipped"], of_each


def meta_losses(row):
    found = [family["meta_loss"] for family in row["families"].values()]
    return [np.nan if loss is None else loss for loss in found]


@pytest.mark.timeout(600)  # A program of ten families.
@pytest.mark.slow
@pytest.mark.parametrize("name", nightly(CHECKED, but=["lstm", "velo-small"]))
def test_config_makes_the_released_run(name):
    recorded = (RECORDED / name / "training.jsonl").read_text().splitlines()[0]
    want = json.loads(recorded)
    code = f"from tests.test_released_runs import first_row; first_row({name!r})"
    # On as many devices as the run had, and a compiler that may take its time.
    found = json.loads(run_python(code, devices=2, timeout=580.0).splitlines()[-1])
    if same_machine(name):
        assert found == want
        return
    assert drawn(found) == drawn(want)
    # They are logarithms. With AVX2 instead of AVX-512 they differ by 0.05 at most, the
    # norms of gradients by a fifth.
    np.testing.assert_allclose(meta_losses(found), meta_losses(want), atol=0.1)


def test_what_was_recorded_ends_where_the_config_does():
    assert set(CHECKED) <= set(NAMES)
    for name in NAMES:
        rows = (RECORDED / name / "training.jsonl").read_text().splitlines()
        steps = [json.loads(row)["step"] for row in rows]
        config = configs.load(name)
        assert steps[0] == config.outer.steps_per_dispatch, name
        assert steps[-1] == config.outer.steps, name
        assert steps == sorted(steps), name


def test_a_release_of_which_nothing_is_trained_is_what_its_config_begins_at():
    config = configs.load("velo-mean")
    assert config.outer.freeze == ("*",)
    lopt, theta = l2o.load("velo-mean")
    given = warm_start(config, lopt)
    drawn = tensors_by_path(lopt.init_theta(jax.random.key(config.seed)))
    for path, tensor in tensors_by_path(theta).items():
        want = given[path].tensor if path in given else drawn[path]
        np.testing.assert_array_equal(tensor, want, err_msg=path)
    assert set(drawn) - set(given) == {"fall/matrix/power", "fall/vector/power"}
