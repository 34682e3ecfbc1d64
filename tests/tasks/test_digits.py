from importlib import resources

import jax
import numpy as np
import pytest

from tasks.base import SPLITS
from tasks.data import digits
from tests.helpers import run_python


@pytest.fixture(scope="module")
def data():
    return digits.load()


def as_levels(data, split):
    """The images of a split as the integers 0..16 that were scanned."""
    return np.rint(np.asarray(data.inputs[split]) * 16).astype(int)


def sorted_rows(images, labels):
    rows = np.column_stack([images, labels])
    return rows[np.lexsort(rows.T)]


def test_all_of_it_is_there_and_equals_scikit_learns(data):
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    images = np.concatenate([as_levels(data, s) for s in SPLITS])
    labels = np.concatenate([np.asarray(data.labels[s]) for s in SPLITS])
    np.testing.assert_array_equal(
        sorted_rows(images, labels),
        sorted_rows(theirs.data.astype(int), theirs.target),
    )


def test_splits_have_the_published_sizes(data):
    sizes = {split: len(data.labels[split]) for split in SPLITS}
    assert sizes == {"train": 1078, "inner_valid": 180, "outer_valid": 180, "test": 359}


def test_every_split_has_every_class(data):
    for split in SPLITS:
        assert set(np.asarray(data.labels[split]).tolist()) == set(range(10)), split


def test_inputs_are_flat_images_scaled_to_one(data):
    for split in SPLITS:
        inputs, labels = data.inputs[split], data.labels[split]
        assert inputs.shape == (len(labels), 64)
        assert (inputs.dtype, labels.dtype) == (np.float32, np.int32)
    everything = np.concatenate([np.asarray(data.inputs[s]) for s in SPLITS])
    assert (everything.min(), everything.max()) == (0.0, 1.0)


def test_splits_are_the_same_in_every_process(data):
    code = (
        "from tasks.data import digits\n"
        "labels = digits.load().labels\n"
        "for split in labels: print(split, *labels[split][:20].tolist())\n"
    )
    here = "".join(
        f"{split} {' '.join(str(i) for i in data.labels[split][:20].tolist())}\n"
        for split in SPLITS
    )
    assert run_python(code) == here


def test_a_batch_is_drawn_from_its_split_with_its_labels(data):
    key = jax.random.key(0)
    for split in SPLITS:
        labels_of = {
            row.tobytes(): label
            for row, label in zip(
                np.asarray(data.inputs[split]),
                np.asarray(data.labels[split]),
                strict=True,
            )
        }
        inputs, labels = (np.asarray(x) for x in data.batch(key, split, 256))
        assert [labels_of[row.tobytes()] for row in inputs] == labels.tolist()


def test_a_batch_reaches_all_examples(data):
    """Of 180 examples, 2,000 draws miss a given one with chance 1.4e-5."""
    inputs, _ = data.batch(jax.random.key(0), "inner_valid", 2000)
    drawn = {row.tobytes() for row in np.asarray(inputs)}
    assert len(drawn) == len(data.labels["inner_valid"])


def test_a_damaged_file_is_refused_in_one_line(tmp_path, monkeypatch):
    content = (resources.files("tasks.data") / "digits.npz").read_bytes()
    (tmp_path / "digits.npz").write_bytes(content + b"\0")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=r"^digits\.npz must have sha256 .*$") as error:
        digits.load.__wrapped__()
    assert "\n" not in str(error.value)
