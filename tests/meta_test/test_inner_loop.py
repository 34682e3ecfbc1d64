from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_test.inner_loop import (
    EVALUATION_DOMAIN,
    Curve,
    derive_keys,
    evaluate_params,
    run,
)
from meta_test.optimizers import Scheduled
from meta_test.statistics import diverged
from tests.meta_test.problems import Constant, line


NUM_RECORDS, RECORD_EVERY, EVAL_BATCHES = 4, 3, 2
NUM_STEPS = NUM_RECORDS * RECORD_EVERY
SIZES: dict[str, Any] = {
    "num_records": NUM_RECORDS,
    "eval_batches": EVAL_BATCHES,
    "evaluations": 2,
}


def by_hand(family, spec, tx, keys) -> Curve:
    """The definition of the inner loop, as one would write it in a script."""
    task = family.task(spec)
    params = task.init(keys.init)
    state = tx.init(params)
    initial = evaluate_params(task, params, keys.evaluation, EVAL_BATCHES)
    losses, evaluations = [], []
    for t in range(NUM_STEPS):
        batch_key, loss_key = jax.random.split(jax.random.fold_in(keys.steps, t))
        (loss, _), grads = jax.value_and_grad(task.loss, has_aux=True)(
            params, loss_key, task.batch(batch_key, "train")
        )
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
        if (t + 1) % (NUM_STEPS // 2) == 0:
            evaluations.append(
                evaluate_params(task, params, keys.evaluation, EVAL_BATCHES)
            )
    means = jnp.stack(losses).reshape(NUM_RECORDS, RECORD_EVERY).mean(axis=1)
    found = jax.tree.map(lambda *x: jnp.stack(x), *evaluations)
    return Curve(initial, means, found, jnp.int32(NUM_STEPS))


@pytest.mark.parametrize(
    ("make", "tx"),
    [
        (Constant(), optax.sgd(0.1)),
        (
            Scheduled(optax.adam),
            optax.adam(optax.cosine_decay_schedule(0.1, NUM_STEPS)),
        ),
    ],
    ids=["sgd", "adam-cosine"],
)
def test_equals_a_python_loop(make, tx):
    family, keys = line(0.7, noise=0.3), derive_keys(4)
    spec = family.nominal()
    found = run(
        family, spec, make, jnp.float32(0.1), keys, record_every=RECORD_EVERY, **SIZES
    )
    expected = by_hand(family, spec, tx, keys)
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_sgd_on_a_line_follows_the_closed_form():
    family, keys = line(0.5), derive_keys(0)
    spec = family.nominal()
    curve = run(
        family,
        spec,
        Constant(),
        jnp.float32(0.2),
        keys,
        num_records=6,
        record_every=1,
        eval_batches=1,
    )
    away = family.task(spec).init(keys.init)["x"] - spec.minimiser
    expected = 0.25 * (away * (1 - 0.5 * 0.2) ** np.arange(7)) ** 2
    np.testing.assert_allclose(curve.train_loss, expected[:6], rtol=1e-5)
    np.testing.assert_allclose(curve.final.test_loss, expected[6], rtol=1e-5)


def test_steps_do_not_depend_on_how_they_are_recorded():
    family = line(0.7, noise=0.3)
    coarse, fine = (
        run(
            family,
            family.nominal(),
            Constant(),
            jnp.float32(0.1),
            derive_keys(0),
            num_records=num_records,
            record_every=12 // num_records,
            eval_batches=2,
        )
        for num_records in (3, 12)
    )
    np.testing.assert_allclose(
        coarse.final.train_loss, fine.final.train_loss, rtol=1e-6
    )
    np.testing.assert_allclose(
        coarse.train_loss, fine.train_loss.reshape(3, 4).mean(axis=1), rtol=1e-6
    )


def test_a_task_without_accuracy_has_nan_accuracy():
    task = line().task(line().nominal())
    result = evaluate_params(task, {"x": jnp.float32(1.0)}, jax.random.key(0), 3)
    assert np.isnan(result.train_accuracy)
    assert result.train_loss == pytest.approx(2.0)


def test_a_hopeless_training_is_given_up():
    """Its loss grows by 1.69 a step: above twice the initial one from the third on."""
    settings: dict[str, Any] = {
        "num_records": 8,
        "record_every": 1,
        "eval_batches": 1,
        "evaluations": 4,
    }
    family = line()
    grown = lambda **how: run(
        family,
        family.nominal(),
        Constant(),
        jnp.float32(2.3),
        derive_keys(0),
        **settings,
        **how,
    )
    whole, given_up = grown(), grown(hopeless=1.0)
    assert (int(whole.steps), int(given_up.steps)) == (8, 3)
    np.testing.assert_array_equal(given_up.train_loss[:3], whole.train_loss[:3])
    assert np.isnan(given_up.train_loss[3:]).all()
    # It is found out after the second evaluation would have been made.
    assert np.isfinite(given_up.evaluations.test_loss[0])
    assert np.isnan(given_up.evaluations.test_loss[1:]).all()
    assert diverged(given_up)
    # What grows in the first quarter may come back, and it is above by less than ten.
    assert int(grown(hopeless=1e3).steps) == 8


def test_a_training_that_exploded_is_not_continued():
    family = line()
    curve = run(
        family,
        family.nominal(),
        Constant(),
        jnp.float32(1e20),
        derive_keys(0),
        num_records=8,
        record_every=2,
        eval_batches=1,
    )
    assert int(curve.steps) < 16
    assert np.isnan(curve.final.train_loss)


def test_evaluations_divide_the_records():
    message = "^evaluations must divide the 4 records, got 3$"
    with pytest.raises(ValueError, match=message):
        run(
            line(),
            line().nominal(),
            Constant(),
            jnp.float32(0.1),
            derive_keys(0),
            num_records=4,
            record_every=1,
            eval_batches=1,
            evaluations=3,
        )


def test_keys_are_in_a_domain_of_their_own():
    # Meta-training starts from key(seed) and folds in small counts.
    ours = {
        tuple(np.asarray(jax.random.key_data(key)).tolist())
        for seed in range(20)
        for key in derive_keys(seed)
    }
    theirs = {
        tuple(np.asarray(jax.random.key_data(key)).tolist())
        for seed in range(20)
        for root in [jax.random.key(seed)]
        for key in [root, *jax.random.split(root, 4), jax.random.fold_in(root, 1)]
    }
    assert len(ours) == 80
    assert not ours & theirs
    assert EVALUATION_DOMAIN > 2**20
