"""The table of architectures: sizes that can be counted by hand."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from l2o.learned import (
    LSTM,
    Celo,
    Celo2,
    LearnableAdam,
    RelativeMLP,
    SmallFC,
    VeLO,
)
from l2o.learned.facts import facts, table


def test_sizes_of_adam():
    got = facts(LearnableAdam())
    assert (got.theta, got.per_parameter, got.per_vector_parameter) == (4, 2, 2)
    assert (got.per_row_and_column, got.per_tensor, got.once) == (0, 0, 1)
    assert not got.needs_value
    assert not got.needs_num_steps


def test_sizes_of_the_lstm():
    """Two layers of 20, each with hidden state and cell."""
    got = facts(LSTM())
    cells = (2 + 20) * 80 + 80 + (20 + 20) * 80 + 80
    assert (got.theta, got.per_parameter) == (cells + 21, 80)
    assert (got.per_vector_parameter, got.per_tensor, got.once) == (80, 0, 0)


def test_sizes_of_the_released_velo():
    """Of Metz et al. 2022: three momenta, one second moment, factored moments."""
    got = facts(VeLO(lstm_size=512, mixtures=256))
    assert got.theta == 2_320_385
    assert (got.per_parameter, got.per_vector_parameter) == (4, 7)
    assert (got.per_row_and_column, got.per_tensor) == (3, 2 * 512)
    assert got.needs_value
    assert got.needs_num_steps


def test_a_state_that_grows_otherwise_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Pairs(LearnableAdam):
        def with_theta(self, theta, *, num_steps=None):
            tx: Any = super().with_theta(theta)

            def init(params):
                return jnp.zeros((len(jax.tree.leaves(params)) ** 2,))

            return tx._replace(init=init)

    with pytest.raises(ValueError, match=r"^the state of Pairs must .*, got sizes"):
        facts(Pairs())


def test_a_state_that_is_shared_by_tensors_of_one_shape_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Shared(LearnableAdam):
        def with_theta(self, theta, *, num_steps=None):
            tx: Any = super().with_theta(theta)

            def init(params):
                return {p.shape: jnp.zeros(p.shape) for p in jax.tree.leaves(params)}

            return tx._replace(init=init)

    with pytest.raises(ValueError, match=r"^the state of Shared must .*, got sizes"):
        facts(Shared())


@pytest.mark.parametrize(
    "lopt", [SmallFC(), VeLO(), Celo(), Celo2(orthogonalize=False), RelativeMLP()]
)
def test_sizes_of_what_is_kept_by_shape_are_those_of_each_tensor(lopt):
    """Three momenta and one second moment; three factored ones, full for vectors."""
    got = facts(lopt)
    assert (got.per_parameter, got.per_vector_parameter) == (4, 7)
    assert got.per_row_and_column == 3


def test_table():
    rows = {"a": {"x_y": 1234, "z": True}, "long": {"x_y": 0, "z": False}}
    assert table(rows).splitlines() == [
        "| name | x y   | z   |",
        "| ---- | ----- | --- |",
        "| a    | 1,234 | yes |",
        "| long | 0     | no  |",
    ]
