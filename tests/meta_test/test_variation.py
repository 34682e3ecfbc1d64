"""Trainings with something changed: noise, seeds, settings, and how sharp they end."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.learned import LearnableSGD, SmallFC
from meta_test.adjustable import FACTORS, adjustable
from meta_test.baselines import BASELINES, find_baseline
from meta_test.inner_loop import derive_keys, last_params
from meta_test.optimizers import baseline, learned, random_baseline
from meta_test.sharpness import end_sharpness
from meta_test.sweep import sweep
from meta_test.variants import with_multiplier
from meta_test.variation import CANDIDATE, NOISE, TOLD, OfVaried, Varied
from tests.meta_test.problems import Constant, line, sgd


pytestmark = pytest.mark.usefixtures("quick_compilation")

GRADS = {"a": np.full((100, 100), 2.0, np.float32), "b": np.full(4, -8.0, np.float32)}


def hyper(noise, told=1.0):
    values = {CANDIDATE: 1.0, NOISE: noise, TOLD: told}
    return {name: np.float32(value) for name, value in values.items()}


def first_updates(noise, count=1):
    """Of SGD at a rate of 1: gradients with another sign."""
    tx = Varied(Constant())(hyper(noise), jnp.int32(10))
    state, found = tx.init(GRADS), []
    for _ in range(count):
        updates, state = tx.update(GRADS, state)
        found.append(updates)
    return found


def test_noise_is_a_share_of_a_tensors_gradient():
    """Deviations of 10,000 draws are within 5 % but for once in 10^11 seeds."""
    first, second = first_updates(0.1, 2)
    added = -first["a"] - GRADS["a"]
    assert np.std(added) == pytest.approx(0.1 * 2.0, rel=0.05)
    assert np.abs(np.mean(added)) < 0.01
    # Four times larger where the gradient is.
    assert 0.1 < np.std(-first["b"] - GRADS["b"]) < 2.0
    assert (first["a"] != second["a"]).mean() > 0.99
    again = first_updates(0.1)[0]
    np.testing.assert_array_equal(first["a"], again["a"])


def trained(make, candidates, evaluated, noise=0.05):
    """A training of 20 steps at each of the candidates."""
    family = line(noise=noise)
    specs = jax.tree.map(lambda x: x[None], family.nominal())
    count = len(jax.tree.leaves(candidates)[0])
    return sweep(
        family,
        specs,
        make,
        candidates,
        [3],
        np.stack([np.arange(count), np.zeros(count, int)], axis=1),
        num_records=10,
        record_every=2,
        eval_batches=2,
        evaluated=evaluated,
    )


def test_no_noise_changes_nothing_and_some_does():
    plain = trained(Constant(), np.ones(1, np.float32) / 3, last_params)
    hypers = {
        CANDIDATE: np.full(2, 1 / 3, np.float32),
        NOISE: np.array([0.0, 0.1], np.float32),
        TOLD: np.ones(2, np.float32),
    }
    varied = trained(Varied(Constant()), hypers, OfVaried(last_params))
    np.testing.assert_array_equal(varied.train_loss[0], plain.train_loss[0])
    np.testing.assert_array_equal(varied.final.test_loss[0], plain.final.test_loss[0])
    assert (varied.train_loss[1] != plain.train_loss[0]).all()


def test_the_number_of_steps_that_is_told():
    told = []

    def make(candidate, num_steps):
        told.append(int(num_steps))
        return optax.sgd(candidate)

    for factor in (1.0, 1 / 3, 10.0, 1e-6):
        Varied(make)(hyper(0.0, factor), jnp.int32(500))
    assert told == [500, 167, 5000, 1]


def test_the_line_search_sees_the_noisy_gradient():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra, updates=updates)
        return updates, state

    spy = optax.GradientTransformationExtraArgs(lambda params: (), update)
    tx = optax.with_extra_args_support(
        Varied(lambda candidate, num_steps: spy)(hyper(0.1), jnp.int32(10))
    )
    tx.update(GRADS, tx.init(GRADS), GRADS, grad=GRADS, value=1.0)
    assert seen["grad"] is seen["updates"]
    assert seen["value"] == 1.0
    assert (seen["grad"]["a"] != GRADS["a"]).all()


def test_keys_of_several_seeds():
    mixed = derive_keys(jnp.array([3, 4, 5, 6]))
    for name, seed in zip(mixed._fields, (3, 4, 5, 6), strict=True):
        assert getattr(mixed, name) == getattr(derive_keys(seed), name)
    same = derive_keys(jnp.full(4, 7))
    assert all(a == b for a, b in zip(same, derive_keys(7), strict=True))


def settings_of(contender):
    names = [name for name, _, _ in adjustable(contender).off(0)]
    return list(dict.fromkeys(names))


def test_what_can_be_set_wrongly():
    found = adjustable(baseline("adam", [0.1, 0.2]))
    values = {
        (name, factor): hyper[TOLD if name == TOLD else CANDIDATE]
        for name, factor, hyper in found.off(1)
    }
    assert len(values) == 4 * len(FACTORS)
    assert values["learning_rate", 10.0]["learning_rate"] == np.float32(2.0)
    assert values["learning_rate", 10.0]["one_minus_b1"] == pytest.approx(0.1)
    assert values["one_minus_b2", 3.0]["one_minus_b2"] == pytest.approx(0.003)
    assert values["one_minus_b1", 10.0]["one_minus_b1"] == pytest.approx(0.99)
    assert values["num_steps", 0.1] == np.float32(0.1)
    # A decay of 0 has no multiples, whole numbers make shapes, a constant no plans.
    assert settings_of(baseline("lamb+constant")) == [
        "learning_rate",
        "one_minus_b1",
        "one_minus_b2",
    ]
    assert settings_of(baseline("lbfgs")) == ["learning_rate"]
    powers = [
        hyper[CANDIDATE]["hessian_power"]
        for name, _, hyper in adjustable(baseline("adahessian")).off(0)
        if name == "hessian_power"
    ]
    assert powers == [0.5, 0.5, 1.0, 1.0]


def test_settings_that_were_chosen_are_where_it_is_off_from():
    contender = random_baseline("adamw", 3)
    found = adjustable(contender)
    for name, values in contender.candidates.items():
        assert found.hyper(2)[CANDIDATE][name] == values[2]


def test_settings_of_learned_optimizers():
    small = learned("a", SmallFC(), SmallFC().init_theta(jax.random.key(0)))
    plain = learned("b", LearnableSGD(), LearnableSGD().init_theta(jax.random.key(0)))
    needs = [LearnableSGD().needs_num_steps, SmallFC().needs_num_steps]
    assert needs == [False, False]
    assert settings_of(small) == settings_of(plain) == []
    assert settings_of(with_multiplier(plain, 3)) == ["multiplier"]
    assert adjustable(plain).known
    assert not adjustable(sgd("mine", 0.1)).known


@pytest.mark.parametrize("name", BASELINES)
def test_one_candidate_alone_keeps_states_in_bfloat16(name):
    found = adjustable(random_baseline(name, 2)).alone(1)
    params = {"w": jnp.ones((3, 2), jnp.bfloat16), "b": jnp.ones(3, jnp.bfloat16)}

    def step(hyper, params, state):
        tx = found.varied(hyper, jnp.int32(10))
        given = {"value": jnp.float32(1.0), "grad": params}
        loss = lambda p: sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in p.values())
        return tx.update(params, state, params, value_fn=loss, obj_fn=loss, **given)

    assert list(found.hyper(0)[CANDIDATE]) == ["learning_rate"]
    init = lambda hyper, params: found.varied(hyper, jnp.int32(10)).init(params)
    state = jax.eval_shape(init, found.hyper(0), params)
    _, after = jax.eval_shape(step, found.hyper(0), params, state)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert types(after) == types(state)


def test_defaults_are_those_of_optax():
    for name, inner in (
        ("adam_l2", "adam"),
        ("schedule_free_adamw", "adamw"),
    ):
        own, other = find_baseline(name).defaults, find_baseline(inner).defaults
        assert {k: own[k] for k in other if k != "weight_decay"} == {
            k: v for k, v in other.items() if k != "weight_decay"
        }
    assert find_baseline("momentum").defaults == pytest.approx(
        {"one_minus_momentum": 0.1}
    )
    assert find_baseline("lbfgs").defaults == {"memory_size": 10}


def test_the_sharpness_of_a_parabola_is_its_curvature():
    family = line(curvature=4.0, noise=0.1)
    specs = jax.tree.map(lambda x: jnp.stack([x, x]), family.nominal())
    found = end_sharpness(
        family,
        specs,
        Varied(Constant()),
        hyper(0.0) | {CANDIDATE: np.float32(0.1)},
        np.arange(2),
        steps=5,
        evaluated=OfVaried(last_params),
    )
    np.testing.assert_allclose(found, 4.0, rtol=1e-6)
