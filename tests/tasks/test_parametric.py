import collections
import math
import random

import jax
import numpy as np
import pytest

from tasks import ImageMLP, Quadratic, load
from tasks.cost import estimate
from tasks.parametric import Budget, Layers, LogInteger, OneOf, ParametricFamily
from tests.helpers import count_compiles


def mlps(**fields):
    choices = {
        "data": load("digits"),
        "hidden": Layers(LogInteger(8, 32), 0, 1),
        "batch_size": OneOf((16, 32)),
    }
    return ParametricFamily(ImageMLP, choices, **fields)


KEY = jax.random.key(0)


def test_the_number_of_programs_is_given_beforehand():
    for programs in (1, 3, 8):
        drawn = mlps().sample(KEY, programs)
        assert len(drawn) == programs
        assert len({jax.tree.structure(d.family) for d in drawn}) == programs


def test_no_more_come_than_there_are():
    drawn = ParametricFamily(Quadratic, {"dim": OneOf((4, 8))}).sample(KEY, 10)
    assert sorted(d.parameters["dim"] for d in drawn) == [4, 8]


@pytest.mark.statistical
def test_weights_are_shares_of_all_draws():
    """False alarms: three deviations of 0.027 each, 0.3 %."""
    dims = OneOf((4, 8, 8, 8))
    drawn = ParametricFamily(Quadratic, {"dim": dims}).sample(KEY, 2)
    weights = {d.parameters["dim"]: d.weight for d in drawn}
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights[8] == pytest.approx(0.75, abs=0.082)


def test_the_same_key_draws_the_same():
    one, two = (mlps().sample(KEY, 4) for _ in range(2))
    assert [d.parameters for d in one] == [d.parameters for d in two]
    other = mlps().sample(jax.random.key(1), 4)
    assert [d.parameters for d in one] != [d.parameters for d in other]


def test_what_is_above_the_budget_is_drawn_again():
    seconds = estimate(ImageMLP(load("digits"), hidden=(16,), batch_size=16)).seconds
    within = mlps(budget=Budget(seconds=seconds)).sample(KEY, 50)
    free = mlps().sample(KEY, 50)
    assert 0 < len(within) < len(free)
    assert all(d.cost.seconds <= seconds for d in within)
    assert {str(d.parameters) for d in within} == {
        str(d.parameters) for d in free if d.cost.seconds <= seconds
    }


def test_memory_has_a_budget_too():
    within = mlps(budget=Budget(memory=30_000)).sample(KEY, 50)
    assert all(d.cost.memory <= 30_000 for d in within)
    assert max(d.cost.memory for d in mlps().sample(KEY, 50)) > 30_000


def test_a_budget_below_everything_is_an_error_in_one_line():
    with pytest.raises(ValueError, match=r"^a parametric family must have .*, got 256"):
        mlps(budget=Budget(seconds=1e-9)).sample(KEY, 4)


def test_no_task_is_compiled_to_be_refused():
    mlps(budget=Budget(seconds=1e-4)).sample(KEY, 4)
    with count_compiles() as names:
        mlps(budget=Budget(seconds=1e-4)).sample(jax.random.key(1), 4)
    assert names == []


def test_what_is_wrapped_around_a_configuration_makes_another_program():
    def wrap(key, family):
        return Quadratic(family.dim, noise=float(jax.random.bernoulli(key)))

    family = ParametricFamily(Quadratic, {"dim": OneOf((4, 8))}, wrap=wrap)
    drawn = family.sample(KEY, 10)
    assert {d.family for d in drawn} == {
        Quadratic(dim, noise=noise) for dim in (4, 8) for noise in (0.0, 1.0)
    }


def test_grids_are_even_in_the_logarithm():
    assert LogInteger(8, 128).grid == (8, 16, 32, 64, 128)
    assert LogInteger(4, 16, per_octave=2).grid == (4, 6, 8, 11, 16)
    assert LogInteger(5, 5).grid == (5,)
    assert LogInteger(1, 3).grid == (1, 2)


def test_layers_have_the_depths_that_were_asked_for():
    rng = random.Random(0)
    drawn = [Layers(LogInteger(8, 32), 1, 3).draw(rng) for _ in range(200)]
    depths = collections.Counter(map(len, drawn))
    assert set(depths) == {1, 2, 3}
    assert {size for layers in drawn for size in layers} == {8, 16, 32}
    assert any(len(set(layers)) > 1 for layers in drawn)
    alike = Layers(LogInteger(8, 32), 2, 3, equal=True)
    equal = [alike.draw(rng) for _ in range(50)]
    assert all(len(set(layers)) == 1 for layers in equal)


@pytest.mark.parametrize("low", [0, 9])
def test_a_range_is_from_low_to_high(low):
    with pytest.raises(ValueError, match=r"^a LogInteger must have 1 <= low <= high"):
        LogInteger(low, 8)


def test_a_budget_of_nothing_allows_all():
    cost = estimate(Quadratic())
    assert Budget().allows(cost)
    assert not Budget(seconds=np.nextafter(cost.seconds, 0.0)).allows(cost)
    assert math.isinf(Budget().memory)
