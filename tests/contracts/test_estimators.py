"""What every gradient estimator must do. A new credit rule is a row of `ROWS`.

What tells them apart, their theorems, is in tests/meta_train/test_estimators.py.
"""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.estimators.base import GradientEstimator, MetaGradient
from meta_train.estimators.credit import CREDITS, Credit, Fresh, Persistent
from meta_train.estimators.evolution import EvolutionStrategies
from tests.helpers import assert_no_recompile
from tests.meta_train.problems import (
    HORIZON,
    WINDOW,
    Follow,
    Influence,
    init,
    strategies,
    window,
)


ROWS: dict[str, Any] = {"fresh": Fresh(), "persistent": Persistent()}
THETA = jnp.array([0.7])
KEYS = [jax.random.key(i) for i in range(3)]


def make(credit: Credit) -> EvolutionStrategies:
    return strategies(Influence(), Follow(), credit=credit)


@dataclasses.dataclass(frozen=True)
class Subject:
    """An estimator, its first state, and its first window."""

    estimator: EvolutionStrategies
    start: Any
    estimate: MetaGradient
    state: Any


@pytest.fixture(params=ROWS, scope="module")
def subject(request) -> Subject:
    estimator = make(ROWS[request.param])
    start = init(estimator, THETA, KEYS[0])
    estimate, state = window(estimator, THETA, start, KEYS[1])
    return Subject(estimator, start, estimate, state)


def shapes_of(tree) -> Any:
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


def bits(tree):
    tree = tree._replace(
        unrolls=tree.unrolls._replace(key=jax.random.key_data(tree.unrolls.key))
    )
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def test_every_credit_rule_has_a_row():
    assert {name: type(credit) for name, credit in ROWS.items()} == CREDITS
    for credit in ROWS.values():
        assert dataclasses.replace(credit) == credit
        assert hash(dataclasses.replace(credit)) == hash(credit)


def test_arguments_have_the_names_of_the_contract(subject):
    for method in ("init", "estimate"):
        own = inspect.signature(getattr(type(subject.estimator), method))
        contract = inspect.signature(getattr(GradientEstimator, method))
        assert list(own.parameters) == list(contract.parameters)
    own = inspect.signature(type(subject.estimator.credit).assign)
    assert list(own.parameters) == list(inspect.signature(Credit.assign).parameters)


def test_estimate_has_the_types_of_the_contract(subject):
    assert isinstance(subject.estimate, MetaGradient)
    assert shapes_of(subject.estimate)._asdict() == {
        "gradient": (THETA.shape, "float32"),
        "meta_loss": ((), "float32"),
        "valid": ((), "int32"),
        "non_finite": ((), "int32"),
        "restarts": ((), "int32"),
    }
    assert all(np.isfinite(x).all() for x in subject.estimate)


def test_state_keeps_its_types(subject):
    assert jax.tree.structure(subject.state) == jax.tree.structure(subject.start)
    assert shapes_of(subject.state) == shapes_of(subject.start)


def test_every_contribution_is_counted(subject):
    assert int(subject.estimate.valid) == subject.estimator.pairs
    assert int(subject.estimate.non_finite) == 0


def test_problems_begin_with_the_first_window_and_after_their_horizon(subject):
    state, restarts, steps = subject.start, [], []
    for i in range(HORIZON // WINDOW + 1):
        estimate, state = window(subject.estimator, THETA, state, KEYS[i % 3])
        restarts.append(int(estimate.restarts))
        steps.append(np.unique(state.unrolls.step).tolist())
    pairs = subject.estimator.pairs
    assert restarts == [pairs, 0, 0, 0, pairs]
    assert steps == [[2], [4], [6], [8], [2]]


def test_same_arguments_same_bits(subject):
    estimate, state = window(subject.estimator, THETA, subject.start, KEYS[1])
    for got, want in zip(estimate, subject.estimate, strict=True):
        np.testing.assert_array_equal(got, want)
    assert bits(state) == bits(subject.state)


def test_another_key_another_estimate(subject):
    estimate, _ = window(subject.estimator, THETA, subject.start, KEYS[2])
    assert (estimate.gradient != subject.estimate.gradient).all()


def test_theta_is_where_it_is_estimated(subject):
    """The loss of `Influence` falls with theta in the first window."""
    estimate, _ = window(subject.estimator, THETA + 1.0, subject.start, KEYS[1])
    change = float(estimate.meta_loss - subject.estimate.meta_loss)
    # Half of the two losses have seen theta, and twice as much of it.
    assert change == pytest.approx(-1.0, rel=1e-5)


def test_another_step_is_no_new_program(subject):
    equal, other = make(subject.estimator.credit), THETA + 1.0
    with assert_no_recompile():
        window(subject.estimator, other, subject.state, KEYS[2])
        # Nor is an equal estimator.
        window(equal, THETA, subject.start, KEYS[0])


def test_estimator_is_a_pytree_of_its_familys_data(subject):
    leaves, structure = jax.tree.flatten(subject.estimator)
    assert leaves == jax.tree.leaves(subject.estimator.family)
    again = jax.tree.unflatten(structure, leaves)
    assert again == subject.estimator
    hash(structure)
