"""Two reports, paired by cell and seed."""

import copy
import io
import json

import numpy as np
import pytest

from meta_test.compare import (
    RULE,
    Difference,
    as_json,
    compare_reports,
    differences,
    print_pairs,
)
from meta_test.evaluate import evaluate
from meta_test.report import as_json as report_as_json
from meta_test.suites import Cell, Suite
from tests.meta_test.problems import line, sgd


# On curvature 1 the rate 1 is the best there is.
SLOW = sgd("sgd", 0.02), sgd("other", 0.1)
FAST = sgd("sgd", 0.5), sgd("third", 3.0)


def suite_of(count, seeds=5, **fields):
    """So many cells of noisy lines."""
    cells = tuple(
        Cell(
            f"line {i}",
            "",
            line(1.0 + 0.1 * i, noise=0.01),
            horizon=20,
            seeds=tuple(range(seeds)),
            **fields,
        )
        for i in range(count)
    )
    return Suite("lines", 1, "", cells, num_records=10, eval_batches=2)


@pytest.fixture(scope="module")
def reports():
    """A and B, in which sgd is far better, as JSON holds them."""
    suite = suite_of(3)
    return [
        json.loads(json.dumps(report_as_json(evaluate(contenders, suite))))
        for contenders in (SLOW, FAST)
    ]


def test_a_report_is_no_different_from_itself(reports):
    pairs = compare_reports(reports[0], reports[0])
    assert [(pair.a, pair.b) for pair in pairs] == [("sgd", "sgd"), ("other", "other")]
    for pair in pairs:
        for found in pair.overall.values():
            assert found.verdict == "no difference"
            assert found.probability == pytest.approx((0.5, 0.5, 0.5))
            assert found.p_value == 1.0
        for cells in pair.cells.values():
            assert [cell.cell for cell in cells] == ["line 0", "line 1", "line 2"]
            assert all(cell.won == 0.5 and cell.seeds == 5 for cell in cells)
            assert all(cell.median_a == cell.median_b for cell in cells)


def test_one_that_is_better_is_said_to_be(reports):
    a, b = reports
    (pair,) = compare_reports(a, b)
    for split in ("train", "test"):
        assert pair.overall[split].verdict == "better"
        assert pair.overall[split].probability.low > 0.5
        for cell in pair.cells[split]:
            assert cell.won == 1.0
            assert cell.median_b < cell.median_a
    rows = {(row["cell"], row["contender"]): row for row in a["rows"]}
    assert pair.cells["train"][1].median_a == pytest.approx(
        rows["line 1", "sgd"]["train_loss"]["median"]
    )
    (back,) = compare_reports(b, a)
    assert {found.verdict for found in back.overall.values()} == {"worse"}


def test_one_optimizer_against_another(reports):
    a, b = reports
    (pair,) = compare_reports(a, b, optimizer="other", against="third")
    assert (pair.a, pair.b) == ("other", "third")
    # It diverges: as bad as can be, and not left out.
    assert all(cell.median_b == np.inf for cell in pair.cells["test"])
    assert pair.overall["train"].verdict == "worse"
    (alone,) = compare_reports(a, a, optimizer="other")
    assert (alone.a, alone.b) == ("other", "other")
    tree = as_json([pair])
    assert tree["pairs"][0]["splits"]["test"]["cells"][0]["median_b"] == "inf"
    assert tree["rule"].startswith("The rule: B is better where the 95 % interval of")
    json.dumps(tree, allow_nan=False)


def test_the_rule_is_printed_before_the_verdict(reports):
    stream = io.StringIO()
    print_pairs(compare_reports(*reports), stream)
    text = stream.getvalue()
    assert text.startswith("sgd in B against sgd in A\ncell ")
    assert text.index(RULE) < text.index("verdict\n")
    *_, last = text.splitlines()
    assert last.split()[:3] == ["sgd", "sgd", "test"]
    assert last.endswith("better")


def test_cells_that_both_have(reports):
    """Those of a part of a suite are known by their own hashes."""
    a, b = reports
    part = suite_of(3).restricted_to("line 1")
    few = report_as_json(evaluate(FAST, part))
    (pair,) = compare_reports(a, few)
    (cell,) = pair.cells["train"]
    assert cell.cell == "line 1"
    (whole,) = compare_reports(a, b)
    assert cell == whole.cells["train"][1]


def changed(report, change):
    """A copy."""
    tree = copy.deepcopy(report)
    change(tree)
    return tree


def more_tuning(tree):
    tree["protocol"] |= {"rates": 14, "tuning_seeds": [1_000_000]}
    tree["provenance"]["versions"]["jax"] = "0.0.1"
    del tree["provenance"]["device"]["count"]


def test_other_tuning_and_other_versions_are_said_first(reports):
    a, b = reports
    assert differences(a, b) == ()
    found = differences(a, changed(b, more_tuning))
    jax, count = (
        a["provenance"][part][name]
        for part, name in (("versions", "jax"), ("device", "count"))
    )
    assert found == (
        Difference("protocol.tuning_seeds", [1_000_000, 1_000_001, 1_000_002], [10**6]),
        Difference("protocol.rates", 0, 14),
        Difference("versions.jax", jax, "0.0.1"),
        Difference("device.count", count, None),
    )
    stream = io.StringIO()
    print_pairs(compare_reports(a, b), stream, found)
    head, *lines = stream.getvalue().splitlines()
    assert head.startswith("The reports differ in more than")
    assert "  protocol.rates: 0 in A, 14 in B" in lines[:4]
    assert f"  device.count: {count} in A, none in B" in lines[:4]
    assert lines[4:6] == ["", "sgd in B against sgd in A"]
    tree = as_json((), found)
    assert tree["differences"][1] == {"what": "protocol.rates", "a": 0, "b": 14}
    # What an older report does not say is off.
    assert differences(a, changed(a, lambda tree: tree["protocol"].pop("guards"))) == ()
    # Reports of before have no such table.
    assert differences(a, changed(a, lambda tree: tree.pop("provenance")))


def rename(tree):
    for cell in tree["suite"]["cells"]:
        cell["name"] += "!"


def other_condition(tree):
    tree["suite"] |= {"hash": "0123456789abcdef"}
    tree["suite"]["cells"][1]["hash"] = "another"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(schema=1), "must have schema 2, .*, got 1 in B"),
        (lambda t: t.pop("schema"), "must have schema 2, .*, got None in B"),
        (rename, "must have a cell in common, got line 0; line 1; line 2 in A and "),
        (
            lambda t: t["suite"]["cells"][2].update(seeds=[0]),
            r"must have the same seeds .*, got \[0, 1, 2, 3, 4\] in A and \[0\] in B "
            "for 'line 2'",
        ),
        (
            other_condition,
            "must be the same in both reports, 'line 1' differs between suite "
            "lines 1 of hash .* in A and suite lines 1 of hash 0123456789ab in B",
        ),
        (
            lambda t: t["suite"].update(hash="0123", eval_batches=3),
            "must be the same in both reports, 'line 0' differs",
        ),
        (
            lambda t: t.update(contenders=[{"name": "x"}]),
            "must have an optimizer in common, .*, got sgd, other in A and x in B",
        ),
    ],
)
def test_what_cannot_be_compared(reports, change, message):
    with pytest.raises(ValueError, match=message) as raised:
        compare_reports(reports[0], changed(reports[1], change))
    assert "\n" not in str(raised.value)


def test_reports_without_hashes_of_cells_must_be_of_one_suite(reports):
    def forget(tree):
        for cell in tree["suite"]["cells"]:
            del cell["hash"]

    old = changed(reports[0], forget)
    assert compare_reports(old, reports[1])
    old["suite"]["hash"] = "0123"
    with pytest.raises(ValueError, match="must be the same in both reports, 'line 0'"):
        compare_reports(old, reports[1])


def test_what_optimizers_there_are(reports):
    a, b = reports
    with pytest.raises(ValueError, match=r"of A must be one of sgd, other, got 'sg'"):
        compare_reports(a, b, optimizer="sg")
    with pytest.raises(ValueError, match=r"of B must be one of sgd, third, got 'o"):
        compare_reports(a, b, optimizer="other")
    with pytest.raises(ValueError, match="--against must come with --optimizer"):
        compare_reports(a, b, against="third")
