import jax
import pytest

from meta_test.families import FAMILIES, TYPICAL, build_family
from meta_test.optimizer_training import OptimizerTraining
from tasks import DelayGradient, ImageMLP, Quadratic, Reparametrise
from tasks.network import NetworkChoices


def test_every_family_has_a_typical_table():
    assert set(TYPICAL) == set(FAMILIES)


def test_a_table_becomes_a_family():
    family = build_family(
        {
            "family": "image_mlp",
            "data": ["digits", "mnist@8"],
            "hidden": [8],
            "network": {"activation": ["tanh", "relu"], "init_scale": [0.5, 2]},
        }
    )
    assert isinstance(family, ImageMLP)
    assert family.data.names == ("digits", "mnist@8")
    assert family.hidden == (8,)
    assert family.network == NetworkChoices(
        init_scale=(0.5, 2.0), activation=("tanh", "relu")
    )


def test_augmentations_wrap_from_the_inside():
    family = build_family(
        {
            "family": "quadratic",
            "dim": 4,
            "augment": [
                {"kind": "reparametrise", "scale": [0.1, 10.0]},
                {"kind": "delay_gradient", "longest": 2},
            ],
        }
    )
    assert isinstance(family, DelayGradient)
    assert isinstance(family.inner, Reparametrise)
    assert family.inner.scale == (0.1, 10.0)
    assert family.inner.inner == Quadratic(dim=4)


def test_a_family_may_be_made_of_another():
    family = build_family(
        {"family": "optimizer_training", "steps": 3, "inner": {"family": "quadratic"}}
    )
    assert isinstance(family, OptimizerTraining)
    assert isinstance(family.inner, Quadratic)
    assert family.steps == 3
    assert len(jax.tree.leaves(family)) == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"family": "image_mpl"}, r"task.family must be one of .*'image_mlp'\?\)"),
        ({}, "task.family must be one of .* got None"),
        ({"family": "image_mlp"}, "task.data must name a data set, got none"),
        (
            {"family": "image_mlp", "data": "kjv"},
            "must be labelled examples, got kjv",
        ),
        (
            {"family": "lm_rnn", "data": "digits"},
            "data must be texts, got digits",
        ),
        ({"family": "quadratic", "dim": 0}, "quadratic.dim must be a positive"),
        ({"family": "quadratic", "dims": 3}, "dims is not a field of Quadratic"),
        (
            {"family": "quadratic", "augment": [{"kind": "bigger"}]},
            r"task.augment\[0\].kind must be one of .*, got 'bigger'",
        ),
        (
            {"family": "quadratic", "augment": [{"kind": "scale_loss", "by": 2}]},
            r"task.augment\[0\]: by is not a field of ScaleLoss",
        ),
        (
            {"family": "optimizer_training"},
            r"task.inner.family must be one of .*, got None",
        ),
        (
            {
                "family": "image_mlp",
                "data": "digits",
                "network": {"init_scale": [2, 1]},
            },
            r"task: network.init_scale must be a range",
        ),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(table, message):
    with pytest.raises(ValueError, match=message) as error:
        build_family(table)
    assert "\n" not in str(error.value)
