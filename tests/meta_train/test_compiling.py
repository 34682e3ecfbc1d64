"""A dispatch is traced once, and later compiled from what is kept: the same bits."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_test.compilation import compiler_options
from meta_train.build import block_mesh, build_trainer, placed, state_sharding
from meta_train.compiling import compile_dispatch
from meta_train.outer import OuterTrainer
from tasks.quadratic import Quadratic
from tests.helpers import run_python
from tests.meta_train import runs


DIGITS = 'task={family="image_mlp",data="digits",hidden=[],batch_size=8}'

CODE = """
from tests.meta_train import runs, test_compiling
settings = runs.settings({path!r}, test_compiling.DIGITS)
print(test_compiling.{function}(settings))
"""


class Prepared:
    """A trainer, and the sharded state that it begins with."""

    def __init__(self, config, family=None):
        key = jax.random.key(config.seed)
        self.trainer = build_trainer(config, family)
        self._init = jax.jit(lambda trainer: trainer.init(key))
        self.shapes = jax.eval_shape(self._init, self.trainer)
        self.mesh = block_mesh(config.estimator)
        self.sharding = state_sharding(self.mesh, self.shapes)

    def state(self):
        return placed(self._init(self.trainer), self.sharding)

    def compiled(self):
        found = compile_dispatch(self.trainer, self.shapes, self.sharding, self.mesh)
        return found.result()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Own(Quadratic):
    """A user's own family."""


def sha256(*trees):
    """Of all that is in trees, and of their structure."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        host = np.asarray(leaf)
        found.update(f"{host.shape} {host.dtype} ".encode() + host.tobytes())
    return found.hexdigest(), str(jax.tree.structure(trees))


@pytest.fixture
def folder(tmp_path):
    """Where nothing is kept yet."""
    before = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "programs"))
    yield tmp_path / "programs"
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def traces(monkeypatch):
    """Counts how often a dispatch is traced."""
    count, dispatch = [], OuterTrainer.dispatch

    def counted(self, state):
        count.append(1)
        return dispatch(self, state)

    monkeypatch.setattr(OuterTrainer, "dispatch", counted)
    return count


def test_what_is_kept_is_not_traced_again(config, folder, traces):
    prepared = Prepared(runs.settings(config))
    found = set()
    for _ in range(2):
        found.add(twice(prepared, prepared.compiled()))
        assert len(traces) == 1
    [kept] = folder.glob("*-stablehlo")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    found.add(twice(prepared, prepared.compiled()))
    assert len(traces) == 2
    assert len(found) == 1
    assert kept.read_bytes() != content


def test_what_cannot_be_kept_is_traced_and_runs(config, folder, traces):
    prepared = Prepared(runs.settings(config), Own(4))
    for count in (1, 2):
        state, _ = prepared.compiled()(prepared.trainer, prepared.state())
        assert state.step == runs.settings(config).outer.steps_per_dispatch
        assert len(traces) == count
    assert not list(folder.glob("*-stablehlo"))


def test_a_state_is_donated_as_before(config, folder):
    """Or a run would need twice the memory."""
    prepared = Prepared(runs.settings(config))
    of_state = sum(
        leaf.nbytes
        for leaf in jax.tree.leaves(jax.device_get(prepared.state()))
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
    for _ in range(2):
        state = prepared.state()
        dispatch = prepared.compiled()
        memory = dispatch.compiled.memory_analysis()
        assert memory is not None
        assert memory.alias_size_in_bytes >= of_state
        dispatch(prepared.trainer, state)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def plain(settings):
    """Of a dispatch that is compiled as it is traced."""
    prepared = Prepared(settings)
    dispatch = jax.jit(lambda trainer, state: trainer.dispatch(state))
    lowered = dispatch.lower(prepared.trainer, prepared.state())
    return twice(prepared, lowered.compile(compiler_options()))


def kept(settings):
    """Of one that was not kept before."""
    prepared = Prepared(settings)
    return twice(prepared, prepared.compiled())


def twice(prepared, dispatch):
    """sha256 after two dispatches."""
    state, _ = dispatch(prepared.trainer, prepared.state())
    return sha256(*dispatch(prepared.trainer, state))


@pytest.mark.nightly
@pytest.mark.slow
def test_bits_do_not_depend_on_what_is_kept(config, tmp_path, monkeypatch):
    """Nor on the number of devices."""
    found = set()
    for function, devices in (("plain", 1), ("kept", 2), ("kept", 2)):
        folder = tmp_path / function
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        code = CODE.format(path=str(config), function=function)
        found.add(run_python(code, devices=devices))
        assert len(list(folder.glob("*-stablehlo"))) == (function == "kept")
    assert len(found) == 1
