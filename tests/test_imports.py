"""Importing is cheap, and each floor imports only those below it."""

import pytest

import l2o
from tests.helpers import run_python


LOADED = "import sys; print(sorted({m.split('.')[0] for m in sys.modules} & set(%r)))"
HEAVY = ["flax", "jax", "meta_test", "meta_train", "numpy", "optax", "orbax", "tasks"]


def loaded_by(code: str) -> str:
    return run_python(f"{code}\n{LOADED % HEAVY}").strip()


def test_import_l2o_loads_nothing():
    assert loaded_by("import l2o; dir(l2o); l2o.__version__") == "[]"


def test_l2o_loads_neither_orbax_nor_flax_nor_its_siblings():
    code = "import l2o\nfor name in l2o.__all__: getattr(l2o, name)"
    assert loaded_by(code) == "['jax', 'numpy', 'optax']"


def test_public_names():
    assert set(l2o.__all__) <= set(dir(l2o))
    for name in l2o.__all__:
        assert getattr(l2o, name) is not None
    assert issubclass(l2o.SmallFC, l2o.LearnedOptimizer)
    assert issubclass(l2o.CheckpointError, ValueError)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'l2o' has no attribute 'velo'"):
        getattr(l2o, "velo")  # noqa: B009
