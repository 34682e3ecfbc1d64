import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.base import Split
from tasks.classification import LOSSES, LabelChoices
from tasks.data.arrays import Examples, on_device


COUNT = 2_000


def constant(value):
    """A data set whose inputs are all `value`, and whose labels are all 0."""
    splits = ("train", "inner_valid", "outer_valid", "test")
    return Examples(
        inputs={s: np.full((COUNT, 2), value, np.float32) for s in splits},
        labels={s: np.zeros(COUNT, np.int32) for s in splits},
        num_classes=4,
    )


DATA = on_device({"ones": constant(1.0), "twos": constant(2.0)})
NOISY = LabelChoices(noise=(0.0, 1.0))


def labels_of(noise, split: Split = "train", seed=0, key=0):
    spec = NOISY.nominal()._replace(
        noise=jnp.float32(noise), seed=jnp.uint32(seed), source=jnp.int32(1)
    )
    places = DATA.draw(jax.random.key(key), split, 4_000, spec.source)
    _, labels = NOISY.batch(spec, DATA, jax.random.key(key), split, 4_000)
    return np.asarray(places), np.asarray(labels)


@pytest.mark.statistical
def test_noise_replaces_its_share_of_training_labels():
    """Of 4,000 draws of 2,000 labels; a random label is the old one with chance 1/4.

    False alarms: each deviation is at most 0.013, so 4.6 of them: below 1e-5.
    """
    for noise in (0.0, 0.2, 1.0):
        _, labels = labels_of(noise)
        assert np.mean(labels != 0) == pytest.approx(0.75 * noise, abs=0.06)
        assert set(labels) <= {0, 1, 2, 3}


def test_a_wrong_label_is_the_same_whenever_it_is_drawn():
    known = {}
    for key in range(3):
        for place, label in zip(*labels_of(0.5, key=key), strict=True):
            assert known.setdefault(place, label) == label


def test_another_problem_has_other_wrong_labels():
    _, one = labels_of(0.5, seed=1)
    _, two = labels_of(0.5, seed=2)
    assert np.mean(one != two) > 0.3


def test_labels_of_other_splits_are_true():
    splits: tuple[Split, ...] = ("inner_valid", "outer_valid", "test")
    for split in splits:
        _, labels = labels_of(1.0, split)
        assert not labels.any()


def test_the_source_says_which_data_set():
    for source in (0, 1):
        spec = NOISY.nominal()._replace(source=jnp.int32(source))
        inputs, _ = NOISY.batch(spec, DATA, jax.random.key(0), "test", 16)
        np.testing.assert_array_equal(inputs, source + 1.0)


LOGITS = jnp.log(jnp.array([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]]))


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("cross_entropy", [-math.log(0.7), math.log(4)]),
        (
            "smoothed",
            [-0.925 * math.log(0.7) - 0.075 * math.log(0.1), math.log(4)],
        ),
        ("brier", [0.3**2 + 3 * 0.1**2, 0.75]),
    ],
)
def test_losses_of_hand_computed_cases(name, want):
    targets = jax.nn.one_hot(jnp.array([0, 0]), 4)
    found = LOSSES[name].function(LOGITS, targets)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    assert LOSSES[name].chance(4) == pytest.approx(want[1])


def test_the_loss_is_the_one_that_was_drawn():
    choices = LabelChoices(loss=tuple(LOSSES))
    labels = jnp.array([0, 0])
    for place, row in enumerate(LOSSES.values()):
        spec = choices.nominal()._replace(loss=jnp.int32(place))
        loss, aux = choices.evaluate(spec, LOGITS, labels)
        want = row.function(LOGITS, jax.nn.one_hot(labels, 4)).mean()
        assert float(loss) == pytest.approx(float(want))
        assert float(aux["accuracy"]) == 1.0
        level = choices.normalise(spec, jnp.float32(row.chance(4)), 4)
        assert float(level) == pytest.approx(1.0)
