import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_test import reference
from meta_test.families import FAMILIES
from meta_test.inner_loop import derive_keys, evaluate_params
from meta_test.listing import names_of_data
from meta_test.suites import SUITES, Suite
from meta_test.suites.train import HORIZON
from tasks import DATASETS
from tests.helpers import run_python


# A cell may be in several suites; what costs more than a look is in the ones below.
LOOKED_AT = ("quick", "digits")
CELLS = dict.fromkeys(cell for name in LOOKED_AT for cell in SUITES[name].cells)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_gives_tasks_with_finite_losses(cell):
    assert len(set(cell.seeds)) >= 5
    family = cell.family()

    @jax.jit
    def initial_losses(family, specs):
        def one(spec, seed):
            task, keys = family.task(spec), derive_keys(seed)
            params = task.init(keys.init)
            return evaluate_params(task, params, keys.evaluation, 1).test_loss

        return jax.vmap(one)(specs, jnp.asarray(cell.seeds))

    losses = initial_losses(family, cell.specs(family))
    assert losses.shape == (len(cell.seeds),)
    assert jnp.isfinite(losses).all()
    assert len(np.unique(losses)) == len(cell.seeds)


def test_changed_fields_reach_the_task():
    changed = {cell.name: cell for cell in SUITES["digits"].cells}
    for name, field, value in [
        ("initial weights x 3", lambda s: s.network.init_scale, 3.0),
        ("reparametrised by 0.1", lambda s: s.scale, 0.1),
        ("reparametrised by 10", lambda s: s.scale, 10.0),
    ]:
        cell = changed[name]
        specs = cell.specs(cell.family())
        np.testing.assert_allclose(field(specs), value)


def test_a_field_that_is_not_there_is_named():
    cell = dataclasses.replace(SUITES["quick"].cells[0], at={"network.scale": 1.0})
    with pytest.raises(ValueError, match=r"field of NetworkSpec must .*got 'scale'"):
        cell.specs(cell.family())


def test_a_cell_is_sampled_or_given():
    cell = SUITES["quick"].cells[0]
    with pytest.raises(ValueError, match="must be sampled or at a given"):
        dataclasses.replace(cell, sampled=True, at={"network.init_scale": 1.0})


def test_quadratics_differ_between_seeds():
    cell = next(c for c in SUITES["digits"].cells if c.name.startswith("quadratic"))
    eigenvalues = np.asarray(cell.specs(cell.family()).eigenvalues)
    assert len(np.unique(eigenvalues, axis=0)) == len(cell.seeds)


def test_a_horizon_must_fill_the_records():
    cell = dataclasses.replace(SUITES["quick"].cells[0], horizon=150)
    with pytest.raises(ValueError, match=r"multiple of the 100 records.*150"):
        Suite(name="odd", version=1, about="", cells=(cell,))


def test_cells_must_differ_in_name():
    cell = SUITES["quick"].cells[0]
    with pytest.raises(ValueError, match="differ in name"):
        Suite(name="twice", version=1, about="", cells=(cell, cell))


def test_importing_the_suites_reads_no_data():
    run_python(
        "import meta_test.suites, sys\n"
        "from tasks.data import digits\n"
        "assert digits.load.cache_info().currsize == 0\n"
        "assert 'meta_train' not in sys.modules\n"
    )


TRAIN, OOD = (
    [SUITES[name] for name in names]
    for names in (("train-small", "train", "train-wide"), ("ood-small", "ood"))
)


def cells_of(suites):
    return [cell for suite in suites for cell in suite.cells]


def data_of(cell):
    """Names of data sets, at whatever size."""
    names = names_of_data(cell.task).split(", ")
    return {name.partition("@")[0] for name in names} - {"-"}


def family_of(cell):
    assert isinstance(cell.task, Mapping)
    return cell.task["family"]


def shapes_of(cell):
    """The architecture: the family and the shapes of its parameters."""
    family = cell.family()
    params = jax.eval_shape(
        lambda f, k: f.task(f.nominal()).init(k), family, jax.random.key(0)
    )
    return family_of(cell), str(jax.tree.map(lambda x: x.shape, params))


def test_ood_has_no_data_set_of_train():
    seen, unseen = (set().union(*map(data_of, cells_of(s))) for s in (TRAIN, OOD))
    assert seen.isdisjoint(unseen)
    assert seen | unseen == set(DATASETS)


def test_ood_has_no_architecture_of_train():
    seen, unseen = (set(map(shapes_of, cells_of(s))) for s in (TRAIN, OOD))
    assert len(seen) > 10
    assert seen.isdisjoint(unseen)


def test_ood_has_no_seed_of_train():
    seen, unseen = (
        {seed for cell in cells_of(s) for seed in cell.seeds} for s in (TRAIN, OOD)
    )
    assert seen.isdisjoint(unseen)


def test_validation_is_neither_trained_on_nor_judged_by():
    """Its data are those of the train suites, which ood has none of."""
    assert set(SUITES["validation"].cells) <= set(SUITES["validation-wide"].cells)
    cells = SUITES["validation-wide"].cells
    data = set().union(*map(data_of, cells))
    assert data <= set().union(*map(data_of, cells_of(TRAIN)))
    for others in (TRAIN, OOD):
        assert set(map(shapes_of, cells)).isdisjoint(map(shapes_of, cells_of(others)))
        seeds = {seed for cell in cells_of(others) for seed in cell.seeds}
        assert seeds.isdisjoint(seed for cell in cells for seed in cell.seeds)


def test_ood_is_as_wide_as_it_is_said_to_be():
    small, whole = OOD
    assert len(small.cells) >= 12
    assert len({family_of(cell) for cell in small.cells}) >= 8
    assert len(whole.cells) >= 40
    assert {family_of(cell) for cell in whole.cells} == set(FAMILIES)
    unseen = {family_of(cell) for cell in cells_of(TRAIN)}
    assert len(set(FAMILIES) - unseen) >= 5
    assert set(small.cells) <= set(whole.cells)


def test_probes_stretch_what_they_say():
    horizons = {cell.horizon / HORIZON for cell in SUITES["horizon"].cells}
    assert (min(horizons), max(horizons)) == (0.2, 10)
    tables: list[Any] = [cell.task for cell in SUITES["width"].cells]
    widths = [table["hidden"][0] for table in tables]
    assert max(widths) == 64 * min(widths)
    scales = {cell.at["scale"] for cell in SUITES["reparam"].cells}
    assert (min(scales), max(scales)) == (1e-3, 1e3)


def test_cells_by_their_names():
    suite = SUITES["digits"]
    chosen = suite.restricted_to("tanh", "width")
    assert [cell.name for cell in chosen.cells] == ["width 8", "width 128", "tanh"]
    with pytest.raises(ValueError, match=r"^cells of digits must be .*, got 'tan h'"):
        suite.restricted_to("tanh", "tan h")


def test_every_cell_with_every_source():
    suite = SUITES["quick"].with_gradients("backprop", "feedback_alignment", "backprop")
    assert [cell.name for cell in suite.cells] == [
        "mlp 64-32-10, 1,000 steps, backprop",
        "mlp 64-32-10, 1,000 steps, feedback_alignment",
        "mlp 64-32-10, 5,000 steps, backprop",
        "mlp 64-32-10, 5,000 steps, feedback_alignment",
    ]
    assert len({cell.hash for cell in suite.cells}) == 4


# What is published stays: a change of a suite is a new version and a new hash here.
PUBLISHED = {
    "quick": (1, "62c1b1fb05ad5644"),
    "digits": (1, "bfde3270b4f2e2a7"),
    "train-small": (1, "14102db646a5b4d1"),
    "train": (1, "3da85b68a9686b27"),
    "train-wide": (1, "ec4155838ef5919a"),
    "validation": (1, "884808d8a1fa9176"),
    "validation-wide": (1, "28068534010ae99d"),
    "ood-small": (1, "5bc75f77013f6c8f"),
    "ood": (1, "cd76a5b0cb84aece"),
    "horizon": (1, "a9dc8ffd0bc7297a"),
    "width": (1, "6f2e80ee9913d31c"),
    "reparam": (1, "a143cc14d99947cc"),
}


def test_published_suites_are_as_they_were():
    assert {name: (s.version, s.hash[:16]) for name, s in SUITES.items()} == PUBLISHED


def test_every_cell_has_reference_points():
    for suite in SUITES.values():
        known = reference.read(suite)
        for cell in suite.cells:
            found = known[cell.name]
            assert found["initial_loss"] is not None, (suite.name, cell.name)
            assert found["train_loss"] < found["initial_loss"], (suite.name, cell.name)
            assert found["parameters"] > 0
            assert found["flops"] > 0
