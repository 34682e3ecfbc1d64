"""Augmentations of augmentations, where optimizers meet them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.learned import LearnableAdam
from meta_test.families import build_family
from meta_test.inner_loop import derive_keys, run
from meta_train.unroll import draw, start, unroll
from tasks import (
    DelayGradient,
    EvolutionGradient,
    ImageMLP,
    LowPrecision,
    NormaliseGradient,
    Quadratic,
    ReduceBatch,
    Reparametrise,
    ScaleLoss,
    SubsampleDirections,
    load,
)
from tasks.augmentations.base import mapped
from tasks.base import backprop
from tests.tasks.augmentations.descent import vector


BOWL = Quadratic(dim=4, noise=0.1)


def digits():
    return ImageMLP(load("digits"), hidden=(), batch_size=8)


NESTS = {
    "evolution in low precision, delayed": lambda: DelayGradient(
        LowPrecision(EvolutionGradient(BOWL, pairs=(1, 4))), longest=3
    ),
    "directions of small batches, scaled": lambda: ScaleLoss(
        SubsampleDirections(ReduceBatch(digits()), sign=True)
    ),
    "normalised and delayed, reparametrised": lambda: Reparametrise(
        DelayGradient(NormaliseGradient(BOWL)), "parameter"
    ),
}
LOPT = LearnableAdam()


@jax.jit
def begin(family, key):
    theta = LOPT.init_theta(key)
    problem = draw(family, key)
    return theta, start(LOPT, theta, problem, jnp.int32(4), jnp.int32(0))


@jax.jit
def window(family, theta, state):
    return unroll(family, LOPT, theta, state, 2)


@jax.jit
def meta_test(family):
    return run(
        family,
        family.nominal(),
        lambda rate, num_steps: optax.sgd(rate),
        0.1,
        derive_keys(0),
        num_records=3,
        record_every=2,
        eval_batches=1,
    )


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("nest", NESTS)
def test_three_nested_train(nest):
    """In meta-training two windows, in meta-testing six steps of gradient descent."""
    family = NESTS[nest]()
    theta, state = begin(family, jax.random.key(0))
    state, first = window(family, theta, state)
    state, second = window(family, theta, state)
    assert int(state.step) == 4
    for leaf in jax.tree.leaves((state.params, first, second)):
        assert np.isfinite(leaf).all()
    curve = meta_test(family)
    measured = [x for x in jax.tree.leaves(curve) if not np.isnan(x).all()]
    # Quadratics have no accuracy.
    assert len(measured) in (8, 14)
    assert all(np.isfinite(x).all() for x in measured)
    assert float(curve.final.train_loss) != float(curve.initial.train_loss)


def test_a_change_of_variables_is_the_same_before_and_after_a_source():
    """Backpropagation written as a source of its own gives what no source gives."""
    family = digits()
    task = family.task(family.nominal())
    params = task.init(jax.random.key(0))
    batch = task.batch(jax.random.key(1), "train")
    change = {
        "weights": lambda tree: jax.tree.map(lambda p: p + jnp.square(p), tree),
        "objective": jnp.square,
    }
    plain = mapped(task, **change)
    explicit = mapped(dataclasses.replace(task, source=backprop(task.loss)), **change)
    assert explicit.source is not None
    one, two = (
        jax.jit(t.gradients.step)((), params, jax.random.key(2), batch)
        for t in (plain, explicit)
    )
    assert float(one[0]) == pytest.approx(float(two[0]), rel=1e-6)
    np.testing.assert_allclose(vector(one[1]), vector(two[1]), rtol=1e-4, atol=1e-6)


def test_configs_augment():
    family = build_family(
        {
            "family": "quadratic",
            "dim": 4,
            "augment": [
                {"kind": "reparametrise", "level": "global", "scale": [0.1, 10.0]},
                {"kind": "delay_gradient", "longest": 2},
                {"kind": "low_precision"},
            ],
        }
    )
    assert isinstance(family, LowPrecision)
    assert isinstance(family.inner, DelayGradient)
    assert family.inner.longest == 2
    inner = family.inner.inner
    assert isinstance(inner, Reparametrise)
    assert (inner.level, inner.scale) == ("global", (0.1, 10.0))


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        ({"kind": "blur"}, r"^task\.augment\[0\]\.kind must be one of .*, got 'blur'"),
        (
            {"kind": "scale_loss", "size": 2},
            r"^task\.augment\[0\]: size is not a field",
        ),
        (
            {"kind": "reparametrise", "level": "layer"},
            r"^task\.augment\[0\]: level must be one of .*, got 'layer'",
        ),
        ({"kind": "reduce_batch"}, r"^reduce_batch\.inner must .*, got Quadratic"),
    ],
)
def test_configs_that_cannot_augment_are_refused(augmentation, message):
    with pytest.raises(ValueError, match=message):
        build_family({"family": "quadratic", "augment": [augmentation]})
