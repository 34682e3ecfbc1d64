import csv
import io
import math

import numpy as np

from meta_test.evaluate import evaluate
from meta_test.optimizers import baseline
from meta_test.spreadsheet import text
from tests.meta_test.problems import line_suite, sgd


def test_every_training_is_a_line():
    contenders = [
        sgd("mine", 0.3, learned=True),
        sgd("no, good", 1e20),
        baseline("sgd"),
    ]
    report = evaluate([*contenders, baseline("adam")], line_suite())
    lines = list(csv.DictReader(io.StringIO(text(report))))
    mine = [line for line in lines if line["optimizer"] == "mine"]
    row = report.row("line", "mine")
    assert row is not None
    assert [line["seed"] for line in mine] == list("01234")
    assert {line["tuned_for"] for line in mine} == {"both"}
    assert {line["learned"] for line in mine} == {"1"}
    found = [float(line["final_test_loss"]) for line in mine]
    np.testing.assert_allclose(found, row.validated.losses("test"), rtol=1e-6)
    assert {line["final_test_accuracy"] for line in mine} == {""}
    assert row.steps_to_reference is not None
    steps = [float(line["steps_to_reference"]) for line in mine]
    np.testing.assert_array_equal(steps, row.steps_to_reference)
    seconds = [float(line["seconds_to_reference"]) for line in mine]
    np.testing.assert_allclose(seconds, np.array(steps) * row.seconds_per_step, 1e-6)
    bad = [line for line in lines if line["optimizer"] == "no, good"]
    assert len(bad) == 5
    assert all(line["diverged"] == "1" for line in bad)
    assert all(math.isinf(float(line["steps_to_reference"])) for line in bad)
    assert len(lines) >= 20


def test_two_choices_are_told_apart():
    """Tuned for train and for test: a line each, the steps in one of them."""
    report = evaluate([baseline("adam")], line_suite(noise=2.0))
    lines = list(csv.DictReader(io.StringIO(text(report))))
    [row] = report.rows
    if row.fitted.label == row.validated.label:
        assert {line["tuned_for"] for line in lines} == {"both"}
    else:
        assert [line["tuned_for"] for line in lines] == ["train"] * 5 + ["test"] * 5
        for name in ("steps_to_reference", "seconds_to_reference"):
            assert {line[name] for line in lines[5:]} == {""}


def test_nothing_to_write():
    assert text(evaluate([], line_suite())) == "\n"
