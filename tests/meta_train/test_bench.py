"""What benchmarks print, but for the time it takes, can be counted."""

import pytest

from l2o.learned import ARCHITECTURES
from meta_train.bench.step import OPTIMIZERS, step


def test_every_published_architecture_can_be_measured():
    learnable = {"learnable_sgd", "learnable_adam"}
    measured = {type(lopt) for lopt in OPTIMIZERS.values()}
    assert measured == {c for n, c in ARCHITECTURES.items() if n not in learnable}


def test_cost_of_a_step():
    result = step("small_fc", width=4, layers=2)
    assert result["parameters"] == 2 * (4 * 4 + 4)
    # Four averages of a matrix' entry, three of a row or column; seven of a vector's.
    state = 2 * (4 * 16 + 3 * 8 + 7 * 4) + 1
    assert result["state_floats_per_parameter"] == state / 40
    quotient = result["ns_per_parameter"] / result["adamw_ns_per_parameter"]
    assert result["times_adamw"] == pytest.approx(quotient)
    assert result["temporary_floats_per_parameter"] > 0
    assert result["compile_seconds"] > 0


def test_newton_schulz_is_set_beside_its_products():
    result = step("celo2", width=4, layers=1)
    own = result["ns_per_parameter"] - result["base_ns_per_parameter"]
    products = result["products_ns_per_parameter"]
    assert products > 0
    assert result["times_products"] == pytest.approx(own / products)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adam", 4, 1), "optimizer must be one of small_fc, .*, got 'adam'"),
        (("lstm", 0, 1), "width must be an integer of at least 1, got 0"),
        (("lstm", 4, -1), "layers must be an integer of at least 1, got -1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        step(*arguments)
