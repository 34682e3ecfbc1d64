import numpy as np
import pytest

from tasks.base import SPLITS
from tasks.data import tabular


NAMES = tuple(tabular.SOURCES)


def load(name):
    return getattr(tabular, name)()


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_standardised_by_the_train_split(name):
    inputs = load(name).inputs["train"].astype(np.float64)
    np.testing.assert_allclose(inputs.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(inputs.std(axis=0), 1.0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_other_splits_are_not_standardised_by_themselves(name):
    means = load(name).inputs["test"].mean(axis=0)
    assert np.abs(means).max() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_classes_are_scikit_learns(name):
    """Up to the scale of columns; the one equal row of iris is left out."""
    datasets = pytest.importorskip("sklearn.datasets")
    options = {"scaled": False} if name == "diabetes" else {}
    rows, labels = getattr(datasets, f"load_{name}")(return_X_y=True, **options)
    if name == "diabetes":
        labels = np.searchsorted(
            np.quantile(labels, [0.25, 0.5, 0.75]), labels, "right"
        )
    theirs, firsts = np.unique(rows, axis=0, return_index=True)
    assert len(rows) - len(theirs) == (1 if name == "iris" else 0)

    data = load(name)
    ours = np.concatenate([data.inputs[s] for s in SPLITS]).astype(np.float64)
    apart = np.abs(unit(ours)[:, None] - unit(theirs)[None]).max(axis=-1)
    same = apart.argmin(axis=1)
    assert apart.min(axis=1).max() < 1e-6
    assert sorted(same) == list(range(len(theirs)))
    np.testing.assert_array_equal(
        np.concatenate([data.labels[s] for s in SPLITS]), labels[firsts][same]
    )


def unit(rows):
    """Columns from 0 to 1."""
    return (rows - rows.min(axis=0)) / np.ptp(rows, axis=0)


def test_classes_of_diabetes_are_quarters():
    labels = np.concatenate([tabular.diabetes().labels[s] for s in SPLITS])
    counts = np.bincount(labels)
    assert counts.sum() == 442
    assert np.abs(counts - 442 / 4).max() <= 1.5
