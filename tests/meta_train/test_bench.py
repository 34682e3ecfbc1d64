"""What benchmarks print, but for the time it takes, can be counted."""

import pytest

from l2o.learned import ARCHITECTURES, LearnableSGD
from meta_train.bench import meta_training
from meta_train.bench.breakdown import breakdown, parts
from meta_train.bench.meta_training import OuterStep
from meta_train.bench.step import OPTIMIZERS, _baseline, _Step, step
from tasks import ImageMLP, load


def test_every_published_architecture_can_be_measured():
    assert {type(lopt) for lopt in OPTIMIZERS.values()} == set(ARCHITECTURES.values())


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


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("adam", 2 * 40 + 2),
        # It keeps the parameters, which are donated beside it.
        ("prodigy", 4 * 40 + 3),
        ("adahessian", 2 * 40 + 4),
        # Ten differences of parameters and of gradients, and the last ones; their
        # weights, the line search's gradient and numbers.
        ("lbfgs", 2 * 11 * 40 + 40 + 10 + 6),
    ],
)
def test_cost_of_a_baseline(name, state):
    result = step(name.replace("_", "-"), width=4, layers=2)
    assert result["optimizer"] == name
    assert result["state_floats_per_parameter"] == state / 40
    quotient = result["ns_per_parameter"] / result["adamw_ns_per_parameter"]
    assert result["times_adamw"] == pytest.approx(quotient)
    assert result["temporary_floats_per_parameter"] >= 0
    assert result["compile_seconds"] > 0


def test_the_loss_of_a_step_is_least_one_step_ahead():
    """The line search takes that step at once: its cost is the optimizer's own."""
    made = _Step(_baseline("lbfgs"), 4, 1)
    for _ in range(2):
        made()
        search = made._moving[1][2]
        assert (int(search.info.num_linesearch_steps), search.learning_rate) == (1, 1.0)


def test_newton_schulz_is_set_beside_its_products():
    result = step("celo2", width=4, layers=1)
    own = result["ns_per_parameter"] - result["base_ns_per_parameter"]
    products = result["products_ns_per_parameter"]
    assert products > 0
    assert result["times_products"] == pytest.approx(own / products)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("adamm", 4, 1),
            "optimizer must be one of sgd, .*, lbfgs, .*, rnnprop, got 'adamm'",
        ),
        (("lstm", 0, 1), "width must be an integer of at least 1, got 0"),
        (("lstm", 4, -1), "layers must be an integer of at least 1, got -1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        step(*arguments)


@pytest.fixture(scope="module")
def family():
    return ImageMLP(load("digits"), hidden=(4,), batch_size=4)


def test_memory_of_a_particle_does_not_grow_with_their_number(family):
    """Blocks are computed one after another, so that temporaries hardly grow at all."""
    few, many = (OuterStep(LearnableSGD(), pairs, family, 2) for pairs in (8, 32))
    assert many.state_bytes == 4 * few.state_bytes
    assert few.temporary_bytes <= many.temporary_bytes < 4 * few.temporary_bytes


def test_an_outer_step_is_one_dispatch(family):
    outer_step = OuterStep(LearnableSGD(), 2, family, 2)
    outer_step.start()
    for _ in range(3):
        outer_step()
    assert (outer_step.steps, outer_step.dispatches) == (3, 3)


def test_rate_of_meta_training(monkeypatch):
    monkeypatch.setattr(meta_training, "WINDOW", 2)
    result = meta_training.meta_training("learnable-sgd", 1, "quadratic")
    assert result["dispatches_per_outer_step"] == 1.0
    rate = result["outer_steps_per_second"]
    assert result["inner_steps_per_second"] == pytest.approx(2 * 2 * rate)
    quotient = result["inner_steps_per_second"] / result["sgd_inner_steps_per_second"]
    assert result["fraction_of_sgd"] == pytest.approx(quotient)
    for name in ("compile_seconds", "state_bytes_per_particle", "peak_memory_bytes"):
        assert result[name] > 0


def test_parts_of_an_outer_step_add_up():
    # An inner step of SGD takes 1, and 3 come around the 50 of them.
    result = parts(13.0, 53.0, 60.0, 90.0, 100.0, 1.0, short=10)
    assert result["shares"] == pytest.approx(
        {
            "task": 0.50,
            "accumulators": 0.07,
            "features": 0.30,
            "mlp": 0.10,
            "around": 0.02,
            "dispatch": 0.01,
        }
    )
    assert result["outer_step_milliseconds"] == 100_000.0


def test_a_breakdown_is_of_per_parameter_mlps():
    message = "^optimizer must be one of small_fc, velo, celo, .*, got 'lstm'$"
    with pytest.raises(ValueError, match=message):
        breakdown("lstm", 8)
