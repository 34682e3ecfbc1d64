"""What traces alike has one identity, and nothing else has it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train import identity as identities
from meta_train.build import build_trainer
from meta_train.identity import UnknownError, identity
from tasks.quadratic import Quadratic
from tests.helpers import run_python
from tests.meta_train import runs


CODE = """
from tests.meta_train import runs, test_identity
print(test_identity.of(runs.settings({path!r})))
"""


def of(config, **changes):
    trainer = dataclasses.replace(build_trainer(config), **changes)
    return identity(trainer, arguments=jax.tree.leaves(trainer))


def test_it_is_the_same_in_every_process(config, monkeypatch):
    found = set()
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        found.add(run_python(CODE.format(path=str(config))))
    assert len(found) == 1


@pytest.mark.parametrize(
    "change",
    [
        "optimizer.hidden_size=3",
        "task.dim=5",
        "task.family=nonconvex",
        "schedule.horizon=20",
        "estimator.window=3",
        "estimator.sigma=0.02",
        "estimator.pairs=8",
        "estimator.credit=fresh",
        "outer.learning_rate=0.5",
        "outer.steps_per_dispatch=3",
        "outer.clip=0.5",
        "outer_optimizer={name='sgd'}",
        "meta_loss.scale=log",
    ],
)
def test_what_is_traced_otherwise_has_another(config, change):
    overrides = [change]
    if "family" in change:
        overrides = ['task={family="nonconvex"}']
    before = of(runs.settings(config))
    assert of(runs.settings(config, *overrides)) != before


def test_how_far_theta_moves_counts(config):
    settings = runs.settings(config)
    assert of(settings, scale=0.5) != of(settings)


def test_settings_of_jax_count_but_not_where_programs_are_kept(config):
    settings = runs.settings(config)
    before = of(settings)
    with jax.default_matmul_precision("highest"):
        assert of(settings) != before
    folder = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    try:
        assert of(settings) == before
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)


def test_flags_of_the_compiler_count(config, monkeypatch):
    before = of(runs.settings(config))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert of(runs.settings(config)) != before


def test_the_text_of_the_project_counts(tmp_path, monkeypatch):
    package = tmp_path / "own_project"
    (package / "part").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    module = package / "part" / "module.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(identities, "SOURCES", ("own_project",))
    found = set()
    for text in ("A = 1\n", "A = 2\n", "A = 1\n"):
        module.write_text(text)
        found.add(identities._code.__wrapped__())
    assert len(found) == 2
    module.rename(package / "part" / "other.py")
    assert identities._code.__wrapped__() not in found


def test_of_arguments_the_shapes_count_and_of_constants_the_numbers():
    zeros, ones = jnp.zeros(3), jnp.ones(3)
    assert identity(zeros) != identity(ones)
    assert identity(zeros, arguments=[zeros]) == identity(ones, arguments=[ones])
    longer = jnp.zeros(4)
    assert identity(zeros, arguments=[zeros]) != identity(longer, arguments=[longer])
    assert identity(np.zeros(3)) != identity(np.zeros(3, np.float32))


def test_functions_are_told_by_what_they_have_closed_over():
    def times(factor):
        # As if it were defined here, of which the text counts.
        function = lambda x: factor * x
        function.__module__ = "meta_train.somewhere"
        return function

    assert identity(times(2.0)) == identity(times(2.0))
    assert identity(times(2.0)) != identity(times(3.0))
    bound = functools.partial(times(2.0), 1.0)
    assert identity(bound) != identity(times(2.0))
    assert identity(bound) != identity(functools.partial(times(2.0), 2.0))


def test_things_in_rings_and_things_that_are_shared_end():
    ring = []
    ring.append(ring)
    assert identity(ring) == identity(ring)
    shared = [1]
    assert identity([shared, shared]) != identity([shared, [2]])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Own(Quadratic):
    """Defined where nobody looks for changes."""


def test_what_comes_from_elsewhere_has_none(config):
    with pytest.raises(UnknownError, match=r"must be defined in this project.*Own"):
        identity(build_trainer(runs.settings(config), Own(4)))
    with pytest.raises(UnknownError, match="has no identity"):
        identity(memoryview(b"text"))
