import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_test.inner_loop import derive_keys, evaluate_params
from meta_test.suites import SUITES, Suite
from tests.helpers import run_python


# A cell may be in several suites.
CELLS = dict.fromkeys(cell for suite in SUITES.values() for cell in suite.cells)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_gives_tasks_with_finite_losses(cell):
    assert len(set(cell.seeds)) >= 5
    family = cell.family()

    @jax.jit
    def initial_losses(family):
        specs = cell.specs(family)

        def one(spec, seed):
            task, keys = family.task(spec), derive_keys(seed)
            params = task.init(keys.init)
            return evaluate_params(task, params, keys.evaluation, 1).test_loss

        return jax.vmap(one)(specs, jnp.asarray(cell.seeds))

    losses = initial_losses(family)
    assert losses.shape == (len(cell.seeds),)
    assert jnp.isfinite(losses).all()
    assert len(np.unique(losses)) == len(cell.seeds)


def test_changed_fields_reach_the_task():
    changed = {cell.name: cell for cell in SUITES["digits"].cells}
    for name, field, value in [
        ("initial weights x 3", "init_scale", 3.0),
        ("reparametrised by 0.1", "reparam", 0.1),
        ("reparametrised by 10", "reparam", 10.0),
    ]:
        cell = changed[name]
        specs = cell.specs(cell.family())
        np.testing.assert_allclose(getattr(specs, field), value)


def test_quadratics_differ_between_seeds():
    cell = next(c for c in SUITES["digits"].cells if c.name.startswith("quadratic"))
    eigenvalues = np.asarray(cell.specs(cell.family()).eigenvalues)
    assert len(np.unique(eigenvalues, axis=0)) == len(cell.seeds)


def test_a_horizon_must_fill_the_records():
    cell = dataclasses.replace(SUITES["quick"].cells[0], horizon=150)
    with pytest.raises(ValueError, match=r"multiple of the 100 records.*150"):
        Suite(name="odd", version=1, cells=(cell,))


def test_cells_must_differ_in_name():
    cell = SUITES["quick"].cells[0]
    with pytest.raises(ValueError, match="differ in name"):
        Suite(name="twice", version=1, cells=(cell, cell))


def test_importing_the_suites_reads_no_data():
    run_python(
        "import meta_test.suites, sys\n"
        "from tasks.data import digits\n"
        "assert digits.load.cache_info().currsize == 0\n"
        "assert 'meta_train' not in sys.modules\n"
    )
