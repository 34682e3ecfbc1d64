"""What every gradient estimator must do. A new method, credit or span has its rows.

What tells them apart, their theorems, is in tests/meta_train: test_evolution.py,
test_backpropagation.py and test_mixture.py.
"""

import dataclasses
import inspect
import itertools
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.build import build_method
from meta_train.config import EstimatorConfig
from meta_train.estimators.base import GradientEstimator, MetaGradient
from meta_train.estimators.credit import CREDITS, Credit
from meta_train.estimators.method import Method
from meta_train.estimators.span import SPANS, Whole
from meta_train.estimators.windows import WindowEstimator
from tests.helpers import assert_no_recompile
from tests.meta_train.problems import (
    FULL_GRADIENT,
    HORIZON,
    TRUNCATED_GRADIENT,
    WINDOW,
    Follow,
    Influence,
    bits,
    init,
    make_estimator,
    window,
)


pytestmark = pytest.mark.usefixtures("quick_compilation")
# Method, credit, span.
ROWS: dict[str, Any] = {
    "full_es": ("evolution", "fresh", "problem"),
    "truncated_es": ("evolution", "fresh", "window"),
    "pes": ("evolution", "persistent", "window"),
    "pes_whole": ("evolution", "persistent", "problem"),
    "noise_reuse": ("evolution", "reused", "window"),
    "noise_reuse_whole": ("evolution", "reused", "problem"),
    "truncated_backprop": ("backpropagation", None, "window"),
    "full_backprop": ("backpropagation", None, "problem"),
    "mixture": ("mixture", None, "window"),
    "mixture_whole": ("mixture", None, "problem"),
}
THETA = jnp.array([0.75])
KEYS = [jax.random.key(i) for i in range(3)]


def make(row: str) -> WindowEstimator:
    method, credit, span = ROWS[row]
    config = EstimatorConfig(method=method, credit=credit, span=span, sigma=0.5)
    return make_estimator(
        Influence(), Follow(), build_method(config), span=SPANS[config.span]
    )


@dataclasses.dataclass(frozen=True)
class Subject:
    """An estimator, its first state, and its first window."""

    row: str
    estimator: WindowEstimator
    start: Any
    estimate: MetaGradient
    state: Any

    @property
    def whole(self) -> bool:
        return isinstance(self.estimator.span, Whole)


@pytest.fixture(params=ROWS, scope="module")
def subject(request) -> Subject:
    estimator = make(request.param)
    start = init(estimator, THETA, KEYS[0])
    estimate, state = window(estimator, THETA, start, KEYS[1])
    return Subject(request.param, estimator, start, estimate, state)


def shapes_of(tree) -> Any:
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


def choices(field) -> list[Any]:
    """The values that a field of the config may have."""
    flat = []
    for value in get_args(get_type_hints(EstimatorConfig)[field]):
        flat += get_args(value) or [None if value is type(None) else value]
    return flat


def test_every_estimator_that_a_config_allows_has_a_row():
    allowed = set()
    for combination in itertools.product(*map(choices, ("method", "credit", "span"))):
        method, credit, span = combination
        try:
            EstimatorConfig(method=method, credit=credit, span=span)
        except ValueError:
            continue
        # Evolution strategies without a credit have the usual one.
        if method == "evolution" and credit is None:
            credit = "persistent"
        allowed.add((method, credit, span))
    assert set(ROWS.values()) == allowed
    assert {credit for _, credit, _ in allowed} == {None, *CREDITS}
    assert {span for _, _, span in allowed} == set(SPANS)


def test_methods_and_spans_are_values(subject):
    again = make(subject.row)
    for part in ("method", "span"):
        one, two = (getattr(e, part) for e in (subject.estimator, again))
        assert one == two
        assert hash(one) == hash(two)


def test_arguments_have_the_names_of_the_contract(subject):
    pairs: list[tuple[Any, Any]] = [
        (subject.estimator, GradientEstimator),
        (subject.estimator.method, Method),
    ]
    credit = getattr(subject.estimator.method, "credit", None)
    if credit is not None:
        pairs.append((credit, Credit))
    for own, contract in pairs:
        for name in contract.__abstractmethods__:
            got, want = (
                list(inspect.signature(getattr(cls, name)).parameters)
                for cls in (type(own), contract)
            )
            assert got == want, name


def test_estimate_has_the_types_of_the_contract(subject):
    assert isinstance(subject.estimate, MetaGradient)
    assert shapes_of(subject.estimate)._asdict() == {
        "gradient": (THETA.shape, "float32"),
        "meta_loss": ((), "float32"),
        "valid": ((), "int32"),
        "non_finite": ((), "int32"),
        "restarts": ((), "int32"),
        "inner_steps": ((), "int32"),
    }
    assert all(np.isfinite(x).all() for x in subject.estimate)


def test_state_keeps_its_types(subject):
    assert jax.tree.structure(subject.state) == jax.tree.structure(subject.start)
    assert shapes_of(subject.state) == shapes_of(subject.start)


def test_everything_is_counted(subject):
    estimator, estimate = subject.estimator, subject.estimate
    assert int(estimate.valid) == estimator.units
    assert int(estimate.non_finite) == 0
    unrolls = estimator.units * estimator.method.points
    steps = HORIZON if subject.whole else WINDOW
    assert int(estimate.inner_steps) == unrolls * steps


def test_problems_begin_with_the_first_window_and_after_their_horizon(subject):
    state, restarts, steps = subject.start, [], []
    for i in range(HORIZON // WINDOW + 1):
        estimate, state = window(subject.estimator, THETA, state, KEYS[i % 3])
        restarts.append(int(estimate.restarts))
        steps.append(np.unique(state.unrolls.step).tolist())
    units = subject.estimator.units
    if subject.whole:
        assert restarts == [units] * 5
        assert steps == [[HORIZON]] * 5
    else:
        assert restarts == [units, 0, 0, 0, units]
        assert steps == [[2], [4], [6], [8], [2]]


def test_same_arguments_same_bits(subject):
    again = window(subject.estimator, THETA, subject.start, KEYS[1])
    assert bits(again) == bits((subject.estimate, subject.state))


def test_another_key_another_estimate(subject):
    estimate, _ = window(subject.estimator, THETA, subject.start, KEYS[2])
    assert estimate.meta_loss != subject.estimate.meta_loss
    # Derivatives of these problems are the same for all of them.
    random = ROWS[subject.row][0] == "evolution"
    assert (estimate.gradient != subject.estimate.gradient).all() == random


def test_theta_is_where_it_is_estimated(subject):
    """Were it larger by 1, as much more would the loss be as its gradient says."""
    estimate, _ = window(subject.estimator, THETA + 1.0, subject.start, KEYS[1])
    change = float(estimate.meta_loss - subject.estimate.meta_loss)
    # In the first window nothing is truncated yet.
    want = FULL_GRADIENT if subject.whole else TRUNCATED_GRADIENT
    assert change == pytest.approx(want, rel=1e-5)


def test_another_step_is_no_new_program(subject):
    equal, other = make(subject.row), THETA + 1.0
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
