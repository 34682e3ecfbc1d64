import jax
import numpy as np
import pytest

from tasks.base import SPLITS
from tasks.data import digits
from tasks.data.arrays import on_device


@pytest.fixture(scope="module")
def data():
    return digits.load()


@pytest.fixture(scope="module")
def device_data(data):
    return on_device({"digits": data})


def test_all_of_it_is_there_and_equals_scikit_learns(data):
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    images = np.concatenate([data.inputs[s] for s in SPLITS]).reshape(-1, 64) * 16
    labels = np.concatenate([data.labels[s] for s in SPLITS])
    np.testing.assert_array_equal(
        sorted_rows(images, labels), sorted_rows(theirs.data, theirs.target)
    )


def sorted_rows(images, labels):
    rows = np.column_stack([images, labels]).astype(int)
    return rows[np.lexsort(rows.T)]


def test_a_batch_is_drawn_from_its_split_with_its_labels(data, device_data):
    key = jax.random.key(0)
    for split in SPLITS:
        labels_of = {
            row.tobytes(): label
            for row, label in zip(data.inputs[split], data.labels[split], strict=True)
        }
        batch = device_data.batch(key, split, 256)
        inputs, labels = (np.asarray(x) for x in batch)
        assert [labels_of[row.tobytes()] for row in inputs] == labels.tolist()


def test_a_split_that_is_none(device_data):
    with pytest.raises(ValueError, match=r"^split must be one of train, .*'valid'$"):
        device_data.batch(jax.random.key(0), "valid", 4)


def test_a_batch_reaches_all_examples(data, device_data):
    """Of 180 examples, 2,000 draws miss a given one with chance 1.4e-5."""
    inputs, _ = device_data.batch(jax.random.key(0), "inner_valid", 2000)
    drawn = {row.tobytes() for row in np.asarray(inputs)}
    assert len(drawn) == len(data.labels["inner_valid"])
