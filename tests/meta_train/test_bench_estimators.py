"""Bias, variance and cost of estimators, where they are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.bench import estimators
from meta_train.bench.estimators import ESTIMATORS, Case, Samples, compare, measure
from meta_train.build import build_method
from meta_train.config import EstimatorConfig
from meta_train.estimators.method import Method
from tests.meta_train.problems import (
    FULL_GRADIENT,
    HORIZON,
    TRUNCATED_GRADIENT,
    WINDOW,
    Follow,
    Influence,
)


def samples(seed, mean, deviation, count):
    rng = np.random.default_rng(seed)
    return mean + deviation * rng.standard_normal((count, len(mean)))


@pytest.mark.statistical
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_bias_and_variance_of_samples(bias):
    """False alarms: below 1e-4; bias within 5 of its errors, variance within 10 %.

    The relative standard error of the variance of 400 samples in 20 entries is 1.6 %.
    """
    truth = np.ones(20)
    reference = samples(0, truth, 1.0, 4000)
    own = Samples(samples(1, (1 + bias) * truth, 2.0, 400), 0.25, 80)
    result = compare(own, reference)
    # Of a gradient of norm sqrt(20) and an error of bias * sqrt(20).
    assert result["bias_error"] == pytest.approx(np.sqrt(4 / 400 + 1 / 4000), rel=0.1)
    assert result["bias"] == pytest.approx(bias, abs=5 * result["bias_error"])
    assert result["variance"] == pytest.approx(4.0, rel=0.1)
    assert result["cost"] == pytest.approx(0.25 * result["variance"])
    assert (result["seconds"], result["inner_steps"]) == (0.25, 80)
    assert 0 < result["cosine"] < 1


def test_every_estimator_can_be_configured():
    for fields in ESTIMATORS.values():
        assert isinstance(build_method(EstimatorConfig(**fields)), Method)


@pytest.fixture(scope="module")
def influence():
    return Case(
        Influence(),
        Follow(),
        {"rate": jnp.array([0.7])},
        horizon=HORIZON,
        window=WINDOW,
        sigma=0.5,
        units=64,
        problems=16,
    )


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("estimator", "want"),
    [
        ("PES", FULL_GRADIENT),
        ("truncated ES", TRUNCATED_GRADIENT),
        ("full mixture", FULL_GRADIENT),
    ],
)
def test_windows_of_a_problem_are_one_estimate(influence, estimator, want):
    """False alarms: below 1e-5; the mean within 4.5 of its standard errors."""
    found = measure(influence, ESTIMATORS[estimator])
    # Eight times as many where nothing is differentiated.
    count = 16 if "mixture" in estimator else 128
    assert found.gradients.shape == (count, 1)
    assert found.inner_steps == 2 * 64 * HORIZON
    error = found.gradients.std() / np.sqrt(count)
    assert error < 0.1
    assert abs(found.gradients.mean() - want) < 4.5 * error + 1e-5


def test_what_is_printed_and_drawn():
    row = compare(Samples(samples(0, np.ones(2), 1.0, 8), 0.5, 80), np.ones((2, 2)))
    rows = dict.fromkeys(ESTIMATORS, row)
    result = {
        "tasks": {"bowl": {"reference_error": 0.25, "estimators": rows}},
        "devices": "1 x cpu",
    }
    lines = estimators.text(result).splitlines()
    assert lines[0] == "bowl (error of the reference 0.250)"
    assert [line.split("  ")[1] for line in lines[2:-1]] == list(ESTIMATORS)
    (axes,) = estimators.draw(result).axes
    assert axes.get_legend_handles_labels()[1] == list(ESTIMATORS)
