"""Every family is meta-trained on: 20 outer steps of a learned optimizer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import LearnableAdam
from meta_test.families import FAMILIES, TYPICAL, build_family
from tests.contracts.task_rows import AUGMENTED, ROWS
from tests.helpers import nightly
from tests.meta_train.problems import make_estimator, make_trainer, strategies


pytestmark = pytest.mark.usefixtures("quick_compilation")
OUTER_STEPS = 20
# Small configurations, from the table of contracts; of families above it, typical ones.
FOUND = {name: row.make for name, row in ROWS.items() if name in FAMILIES}
FOUND |= {name: row.make for name, row in AUGMENTED.items()}
FOUND |= {
    name: functools.partial(build_family, {"family": name, **TYPICAL[name]})
    for name in sorted(set(FAMILIES) - set(FOUND))
}


@jax.jit
def train(trainer):
    start = trainer.init(jax.random.key(0))
    return start.theta, *trainer.dispatch(start)


# Of each kind of model one.
OFTEN = ["image_mlp", "image_conv", "lm_rnn", "quadratic", "policy_gradient"]


@pytest.mark.parametrize("name", nightly(FOUND, but=OFTEN))
def test_meta_gradients_are_finite(name):
    estimator = make_estimator(
        FOUND[name](), LearnableAdam(), strategies(sigma=0.1), horizon=4, pairs=2
    )
    trainer = make_trainer(estimator, steps=OUTER_STEPS, steps_per_dispatch=OUTER_STEPS)
    start, state, metrics = train(trainer)
    assert metrics.gradient_norm.shape == (OUTER_STEPS,)
    assert jnp.isfinite(metrics.gradient_norm).all()
    # A window may say nothing: bfloat16 rounds, stale losses are of the start.
    assert (metrics.gradient_norm > 0).sum() >= 5
    assert jnp.isfinite(metrics.meta_loss).all()
    np.testing.assert_array_equal(metrics.families.non_finite, 0)
    assert jnp.isfinite(state.theta).all()
    assert not jnp.array_equal(state.theta, start)
