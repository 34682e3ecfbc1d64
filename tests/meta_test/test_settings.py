"""Baselines with other settings than their defaults."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_test.baselines import (
    BASELINES,
    Range,
    find_baseline,
    settings_label,
    with_settings,
)
from meta_test.evaluate import Protocol, evaluate
from meta_test.optimizers import Tuned, random_baseline
from meta_test.report import as_json
from tests.meta_test.problems import line_suite


pytestmark = pytest.mark.usefixtures("quick_compilation")

# A matrix: muon leaves others to Adam.
PARAMS = {"w": jnp.array([[1.0, -2.0, 0.5], [0.3, 0.1, -1.0]])}
SCALES = jnp.array([[1.0, 3.0, 0.3], [2.0, 0.5, 1.0]])
LOSS = lambda params: jnp.sum(SCALES * jnp.square(params["w"]))


def trained(tx):
    """The parameters after a few steps."""
    tx = optax.with_extra_args_support(tx)

    def step(_, carry):
        params, state = carry
        value, grads = jax.value_and_grad(LOSS)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=LOSS, obj_fn=LOSS
        )
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, 20, step, (PARAMS, tx.init(PARAMS)))[0]["w"]


@pytest.mark.parametrize("name", [n for n in BASELINES if n != "lbfgs"])
def test_traced_settings_are_those_of_optax(name):
    """Each is taken, matters, and is the keyword of its name."""
    row = BASELINES[name]
    # A setting that is only seen where it is far from the default.
    settings = {key: r.low + 0.9 * (r.high - r.low) for key, r in row.space.items()}
    keywords = {
        key.removeprefix("one_minus_"): 1 - v if key.startswith("one_minus_") else v
        for key, v in settings.items()
    }
    rate = 0.05 if row.schedule is None else lambda count: 0.05

    @jax.jit
    def both(settings):
        tuned = {**settings, "learning_rate": jnp.float32(0.05)}
        make = Tuned(name if row.schedule is None else f"{name}+constant")
        return trained(make(tuned, jnp.int32(3))), trained(row.optimizer(rate))

    ours, default = both(jax.tree.map(jnp.float32, settings))
    theirs = jax.jit(lambda: trained(row.optimizer(rate, **keywords)))()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert np.array_equal(ours, default) == (not settings)


def test_a_whole_number_is_a_size():
    row = BASELINES["lbfgs"]
    assert row.space["memory_size"].is_whole
    assert not BASELINES["adam"].space["one_minus_b1"].is_whole
    assert not row.rates.is_whole
    state = with_settings(row, {"memory_size": 4})(1.0).init(PARAMS)
    assert any(leaf.shape == (4, 2, 3) for leaf in jax.tree.leaves(state))


def test_what_there_is_not_is_said():
    with pytest.raises(ValueError, match=r"must be one of one_minus_b1, .*, got 'b1'"):
        with_settings(BASELINES["adam"], {"b1": 0.9})
    with pytest.raises(ValueError, match="must be left out, got 'weight_decay'"):
        with_settings(BASELINES["sgd"], {"weight_decay": 0.9})


def test_a_name_chooses_the_schedule():
    assert find_baseline("adam").schedule == "cosine"
    assert find_baseline("adam+warmup").schedule == "warmup"
    assert find_baseline("lbfgs").schedule is None


def test_a_range_has_its_ends_and_what_lies_between():
    shares = [0.0, 0.5, 1.0]
    np.testing.assert_allclose(Range(0.01, 100.0).at(shares), [0.01, 1.0, 100.0])
    np.testing.assert_allclose(Range(0.5, 1.0, log=False).at(shares), [0.5, 0.75, 1.0])
    np.testing.assert_array_equal(Range(3, 30).at(shares), [3, 9, 30])
    for row in BASELINES.values():
        for where in row.settings.values():
            ends = where.at([0.0, 1.0])
            np.testing.assert_allclose(ends, [where.low, where.high])
            assert where.low <= ends.min() <= ends.max() <= where.high


def test_a_label_tells_settings_by_the_names_of_optax():
    settings = {"learning_rate": 0.012345, "one_minus_b2": 0.000123, "gamma": 0.5}
    assert settings_label(settings) == "0.0123 b2=0.99988 gamma=0.5"


@pytest.mark.parametrize("name", [*BASELINES, "adam+constant"])
def test_random_settings_are_in_their_ranges_and_as_labelled(name):
    contender = random_baseline(name, 20)
    row, candidates = find_baseline(name), contender.candidates
    whole = {key for key, where in row.space.items() if where.is_whole}
    assert set(candidates) == set(row.settings) - whole
    for key, values in candidates.items():
        where = row.settings[key]
        assert values.shape == (20,)
        # Rounded to two digits.
        assert (values >= 0.94 * where.low).all()
        assert (values <= 1.06 * where.high).all()
        middle = float(where.at(0.5))
        assert 4 <= (values < middle).sum() <= 16
    assert not contender.ordered
    labels = [
        settings_label({key: float(values[i]) for key, values in candidates.items()})
        for i in range(20)
    ]
    assert contender.labels == tuple(labels)
    assert random_baseline(name, 3).labels == contender.labels[:3]


def test_random_settings_take_the_place_of_a_grid():
    protocol = Protocol(random=2)
    (contender,) = protocol.baselines(["nesterov"])
    report = evaluate([contender], line_suite(), protocol=protocol)
    (row,) = report.rows
    # One of two is first or last; but they have no order.
    assert row.fitted.label in contender.labels
    assert not row.fitted.at_edge
    tree = as_json(report)
    assert tree["protocol"]["random_settings"] == 2
    assert tree["contenders"][0]["candidates"] == list(contender.labels)
    with pytest.raises(ValueError, match=r"rates or random settings, got both, 3 and"):
        Protocol(rates=3, random=2)
    with pytest.raises(ValueError, match="random must be 0, or several, got -1"):
        Protocol(random=-1)
