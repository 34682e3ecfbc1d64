"""What benchmarks print, but for the time it takes, can be counted."""

import pytest

from l2o.learned import ARCHITECTURES, LearnableSGD
from meta_test.optimizer_step import CompiledStep
from meta_train.bench import evaluation, meta_training, sources
from meta_train.bench.breakdown import breakdown, parts
from meta_train.bench.meta_training import OuterStep
from meta_train.bench.step import OPTIMIZERS, _baseline, step
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
    made = CompiledStep(_baseline("lbfgs"), 4, 1)
    for _ in range(2):
        made()
        search = made.state[2]
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


def test_cost_of_sources():
    said = []
    result = sources.sources(
        said.append,
        networks=["mlp", "transformer"],
        depths=[1],
        names=["feedback_alignment", "forward_gradient"],
    )
    assert said == ["mlp of depth 1", "transformer of depth 1"]
    rows = {(row["network"], row["source"]): row for row in result["rows"]}
    assert len(rows) == 6
    reference = rows["mlp", "backprop"]
    # 64 pixels, 64 hidden units, 10 classes; the gradient is among what is returned.
    assert reference["parameters"] == 64 * 64 + 64 + 64 * 10 + 10
    assert reference["memory_bytes"] > 4 * reference["parameters"]
    assert reference["times_backprop"] == reference["memory_times_backprop"] == 1.0
    assert reference["degrees_from_backprop"] < 0.1
    forward = rows["mlp", "forward_gradient"]
    quotient = forward["seconds"] / reference["seconds"]
    assert forward["times_backprop"] == pytest.approx(quotient)
    assert forward["degrees_from_backprop"] > 60
    refused = rows["transformer", "feedback_alignment"]
    assert "must be Dense, Conv or linear like them" in refused["unsupported"]
    shown = sources.text(result)
    assert "transformer of depth 1, 17,600 parameters:" in shown
    assert "not feedback_alignment: layers with parameters" in shown


def test_a_sweep_beside_the_trainings_one_by_one(monkeypatch):
    monkeypatch.setattr(evaluation, "REPEATS", 1)
    monkeypatch.setattr(evaluation, "RATES", 3)
    result = evaluation.evaluation(lambda text: None, horizon=100)
    assert (result["trainings"], result["horizon"]) == (15, 100)
    quotient = result["sweep_seconds"] / result["one_by_one_seconds"]
    assert result["times_one_by_one"] == pytest.approx(quotient)
    rate = 15 * 100 / result["sweep_run_seconds"]
    assert result["inner_steps_per_second"] == pytest.approx(rate)
    assert result["largest_difference"] < 1e-4
