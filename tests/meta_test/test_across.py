"""Statistics over cells, on reports whose numbers are known."""

import dataclasses
import io
import math
from typing import Any

import jax
import numpy as np
import pytest

from meta_test import across_figure
from meta_test.across import FACTORS, across, without_level, without_scale
from meta_test.across_figure import draw_speedup
from meta_test.evaluate import PROTOCOL, Chosen, Report, Row
from meta_test.figure import strokes
from meta_test.inner_loop import Curve, Evaluation
from meta_test.page import page
from meta_test.report import as_json
from meta_test.statistics import diverged
from meta_test.table import cell_rows, overall, plain_text
from meta_test.variants import FALLBACK
from meta_test.wishes import converges, fast
from tests.meta_test.problems import line_suite, sgd


INF, NAN = math.inf, math.nan
SEEDS = 5


def chosen(train: Any, test: Any, initial: float = 10.0) -> Chosen:
    """Trainings that ended so, from one initial loss."""
    train, test = np.asarray(train, float), np.asarray(test, float)
    nothing: Any = np.full(SEEDS, NAN)
    start: Any = np.full(SEEDS, initial)
    end = Evaluation(train, test, test, nothing, nothing, nothing)
    curve = Curve(
        initial=Evaluation(start, start, start, nothing, nothing, nothing),
        train_loss=np.stack([train] * 10, axis=1),  # type: ignore
        evaluations=jax.tree.map(lambda x: x[:, None], end),
        steps=np.full(SEEDS, 20),  # type: ignore
    )
    return Chosen("0.1", False, curve, diverged(curve))


def report(*rows: tuple[str, str, Any, Any, Any, float]) -> Report:
    """Rows of (cell, contender, train, test, steps, seconds); "mine" is learned.

    Steps are None where Adam has no level.
    """
    suite = line_suite()
    cells = dict.fromkeys(row[0] for row in rows)
    names = dict.fromkeys(row[1] for row in rows)
    suite = dataclasses.replace(
        suite,
        cells=tuple(dataclasses.replace(suite.cells[0], name=name) for name in cells),
    )
    made = []
    for cell, name, train, test, steps, seconds in rows:
        best = chosen(np.broadcast_to(train, SEEDS), np.broadcast_to(test, SEEDS))
        reached = None
        if steps is not None:
            reached = np.broadcast_to(np.asarray(steps, float), SEEDS)
        made.append(Row(cell, name, None, best, best, seconds, reached))
    contenders = tuple(sgd(name, 0.1, learned=name == "mine") for name in names)
    return Report(suite, PROTOCOL, contenders, tuple(made))


TWO_CELLS = report(
    ("a", "mine", 1.0, 6.0, 5, 2.0),
    ("a", "adam", 2.0, 4.0, 20, 1.0),
    ("a", "sgd", 6.0, 2.0, INF, 1.0),
    ("b", "mine", [3, 3, 3, 3, INF], 4.0, [10, 10, 10, 10, INF], 2.0),
    ("b", "adam", 2.0, 4.0, 20, 1.0),
    ("b", "sgd", 12.0, 12.0, INF, 1.0),
)


def test_two_cells_worked_out_by_hand():
    mine, adam, sgd_ = across(TWO_CELLS)
    assert [one.contender for one in (mine, adam, sgd_)] == ["mine", "adam", "sgd"]
    # (1 - 2) / (10 - 2) five times; (3 - 2) / 8 four times and a diverged one.
    assert mine.train is not None
    assert mine.train.median == pytest.approx(0.0)
    assert mine.train.left_out == 0
    values = sorted([-1 / 8] * 5 + [1 / 8] * 4 + [1.0])[2:-2]
    interval = mine.train.interquartile_mean
    assert interval.estimate == pytest.approx(np.mean(values))
    assert interval.low <= interval.estimate <= interval.high
    # By sgd's 2 on the one and by adam's 4 on the other, where one diverged in train.
    assert mine.test is not None
    assert mine.test.interquartile_mean.estimate == pytest.approx(
        np.mean(sorted([0.5] * 5 + [0.0] * 4 + [1.0])[2:-2])
    )
    assert sgd_.train is not None
    assert sgd_.train.interquartile_mean.estimate == pytest.approx(0.75)
    assert (mine.diverged, sgd_.diverged, mine.trainings) == (1, 5, 10)
    assert (mine.better_train, mine.not_worse_test) == (1, 1)
    assert (adam.better_train, adam.not_worse_test) == (0, 2)


def test_speedups_and_profiles():
    mine, adam, sgd_ = across(TWO_CELLS)
    assert mine.speedup is not None
    assert mine.wall_clock_speedup is not None
    # 20/5 five times, 20/10 four times, and 20/20 as a bound.
    expected = np.mean(sorted([4.0] * 5 + [2.0] * 4 + [1.0])[2:-2])
    assert mine.speedup.interquartile_mean.estimate == pytest.approx(expected)
    assert mine.speedup.bounded == 0.1
    found = mine.wall_clock_speedup.interquartile_mean.estimate
    assert found == pytest.approx(expected / 2)
    assert adam.speedup is not None
    assert adam.speedup.interquartile_mean == (1.0, 1.0, 1.0)
    assert sgd_.speedup is not None
    assert sgd_.speedup.bounded == 1.0
    # Adam takes 4 times the fewest steps on the one cell and twice on the other.
    assert mine.profile == (1.0,) * len(FACTORS)
    assert sgd_.profile == (0.0,) * len(FACTORS)
    assert adam.profile is not None
    for factor, share in zip(FACTORS, adam.profile, strict=True):
        assert share == 0.5 * (factor >= 2) + 0.5 * (factor >= 4)


def test_what_diverges_is_no_faster_than_nothing():
    """On "b" sgd diverges, and its bound of 1 would flatter it; on "a" it is late."""
    *_, sgd_ = across(TWO_CELLS)
    assert sgd_.speedup is not None
    assert sgd_.speedup.interquartile_mean.estimate == pytest.approx(0.5)
    # Nor is what is late: on a card it has nothing, where Adam has one half.
    assert sgd_.speedup.least == 0.0
    assert (fast(sgd_).score, fast(sgd_).shown) == (0.0, "<0.5x")
    adam, mine = (across(TWO_CELLS)[i] for i in (1, 0))
    assert (fast(adam).score, fast(adam).shown) == (0.5, "1x")
    # One in ten is among those that are cut off.
    assert (fast(mine).score, fast(mine).shown) == (0.75, "3x")
    alone = report(
        ("a", "mine", 12.0, 12.0, INF, 1.0), ("a", "adam", 1.0, 1.0, 20, 1.0)
    )
    found = across(alone)
    mine, _ = found
    assert mine.wall_clock_speedup is not None
    assert mine.wall_clock_speedup.interquartile_mean == (0.0, 0.0, 0.0)
    # An axis in logarithms has a place for it.
    draw_speedup(found, strokes(alone)).savefig(io.BytesIO())


DIVERGED_ADAM = (
    ("c", "mine", 1.0, 1.0, None, 2.0),
    ("c", "adam", 12.0, 12.0, None, 1.0),
    ("c", "sgd", 12.0, 12.0, None, 1.0),
)
"""A cell on which the first converges, and nothing else does."""


def test_a_cell_where_the_reference_diverges_is_no_race():
    """It has no level: whoever converges has neither reached nor missed one."""
    two = [
        (row.cell, row.contender, 1.0, 1.0, steps, 1.0)
        for row, steps in zip(TWO_CELLS.rows, (5, 20, INF, 10, 20, INF), strict=True)
    ]
    found = report(*two, *DIVERGED_ADAM)
    assert without_level(TWO_CELLS) == ()
    assert without_level(found) == ("c",)
    mine, adam, sgd_ = across(found)
    assert mine.speedup is not None
    assert mine.wall_clock_speedup is not None
    # 20/5 and 20/10, five times each, of which the middle six are left; the ratio of
    # the costs on "c" is not among those in seconds.
    assert mine.speedup.interquartile_mean.estimate == pytest.approx(3.0)
    assert mine.wall_clock_speedup.interquartile_mean.estimate == pytest.approx(3.0)
    assert mine.speedup.bounded == 0.0
    assert mine.profile == (1.0,) * len(FACTORS)
    assert adam.profile is not None
    assert adam.profile[-1] == 1.0
    assert sgd_.speedup is not None
    assert sgd_.speedup.bounded == 1.0
    wish = converges(found, "mine")
    assert (wish.score, wish.values["trainings"]) == (1.0, 10)
    assert converges(found, "sgd").score == 0.0
    # Losses are compared there all the same; two infinite ones are no success.
    assert (mine.better_train, mine.not_worse_test) == (1, 3)
    assert (adam.not_worse_test, sgd_.not_worse_test) == (2, 2)
    tree = as_json(found)
    assert tree["across"]["without_level"] == ["c"]
    assert tree["rows"][-1]["steps_to_reference"] is None
    assert "has no level: 1 of 3 cells\n(c)." in plain_text(found)
    assert "has no level: 1 of 3 cells (c)." in page(tree)


def test_a_reference_that_diverges_everywhere_races_nobody(tmp_path):
    found = report(*DIVERGED_ADAM)
    for one in across(found):
        assert (one.speedup, one.wall_clock_speedup, one.profile) == (None,) * 3
        wishes = converges(found, one.contender), fast(one)
        assert [wish.score for wish in wishes] == [None, None]
    assert across(found)[0].better_train == 1
    assert "and has no level to reach" in page(as_json(found))
    assert across_figure.write(found, tmp_path) == ()


def test_against_the_reference():
    cells = [f"cell {i}" for i in range(8)]
    rows = [(c, "mine", 1.0, 5.0, 10, 1.0) for c in cells]
    rows += [(c, "adam", 2.0, 4.0, 20, 1.0) for c in cells]
    mine, adam = across(report(*rows))
    assert mine.train_against_reference is not None
    assert mine.test_against_reference is not None
    assert adam.train_against_reference is not None
    assert mine.train_against_reference.verdict == "better"
    assert mine.test_against_reference.verdict == "worse"
    assert mine.train_against_reference.probability.estimate == 1.0
    assert adam.train_against_reference.verdict == "no difference"


def test_a_cell_that_no_baseline_learns_is_left_out():
    found = report(
        ("a", "mine", 1.0, 1.0, 5, 1.0),
        ("a", "sgd", 12.0, 12.0, INF, 1.0),
        ("b", "mine", 1.0, 1.0, 5, 1.0),
        ("b", "sgd", 1.0, 1.0, INF, 1.0),
    )
    mine, _ = across(found)
    assert mine.train is not None
    assert mine.train.left_out == 1
    assert mine.train.interquartile_mean == (0.0, 0.0, 0.0)
    assert without_scale(found, "train") == without_scale(found, "test") == ("a",)
    tree = as_json(found)
    assert tree["across"]["without_scale"] == {"train": ["a"], "test": ["a"]}
    for split in ("train", "test"):
        told = f"Left out of normalised {split} losses, as no tuned baseline ends below"
        assert f"{told} the initial loss: 1 of 2 cells\n(a)." in plain_text(found)
        assert f"{told} the initial loss: 1 of 2 cells (a)." in page(tree)


def test_the_fallback_of_guards_is_not_among_the_tuned():
    rows = ("a", "mine", 1.0, 1.0, 5, 1.0), ("a", "sgd", 2.0, 2.0, INF, 1.0)
    alone = across(report(*rows))[0]
    beside = across(report(*rows, ("a", FALLBACK, 0.5, 0.5, INF, 1.0)))[0]
    assert alone.train is not None
    assert beside.train is not None
    assert dataclasses.asdict(beside.train) == dataclasses.asdict(alone.train)
    assert without_scale(report(("a", FALLBACK, 0.5, 0.5, INF, 1.0)), "train") == ()


def test_so_is_one_that_begins_at_infinity():
    endless = chosen(np.full(SEEDS, 1.0), np.full(SEEDS, 1.0), initial=INF)
    found = report(("a", "sgd", 1.0, 1.0, INF, 1.0))
    rows = tuple(dataclasses.replace(r, fitted=endless) for r in found.rows)
    (one,) = across(dataclasses.replace(found, rows=rows))
    assert one.train is None


def test_without_a_reference_or_a_baseline():
    (mine,) = across(report(("a", "mine", 1.0, 1.0, 5, 1.0)))
    assert (mine.train, mine.test, mine.speedup, mine.profile) == (None,) * 4
    assert (mine.better_train, mine.train_against_reference) == (None, None)


def test_the_other_end_of_a_bounded_speedup_is_printed():
    """Two of five are late; they enter as 1, and as 0 at the other end."""
    late = report(
        ("a", "mine", 1.0, 1.0, [10, 10, 10, INF, INF], 1.0),
        ("a", "adam", 2.0, 2.0, 20, 1.0),
    )
    mine, _ = across(late)
    assert mine.speedup is not None
    # Of five values one is cut at each end: 1, 2, 2 are left, or 0, 2, 2.
    assert mine.speedup.interquartile_mean.estimate == pytest.approx(5 / 3)
    assert mine.speedup.least == pytest.approx(4 / 3)
    (line,) = [x for x in overall(late).splitlines() if x.startswith("mine ")]
    assert line.count(", 40% <, >= 1.33  ") == 2
    shown = page(as_json(late))
    assert shown.count("40 % at most, ≥ 1.33") == 2
    assert "it would be 1.33 times in steps" in shown
    (line,) = [x for x in overall(late).splitlines() if x.startswith("adam ")]
    assert ">=" not in line


def test_divergence_of_what_was_chosen_by_validation_is_told():
    found = report(("a", "mine", 1.0, 1.0, 5, 1.0), ("a", "adam", 1.0, 1.0, 5, 1.0))
    mine, adam = found.rows
    bad = chosen(np.array([1, 1, 1, 12, INF]), np.ones(SEEDS))
    worse = dataclasses.replace(bad, label="0.2")
    found = dataclasses.replace(
        found, rows=(dataclasses.replace(mine, validated=worse), adam)
    )
    first, second = cell_rows(found, found.suite.cells[0])
    assert (first[0], first[4]) == ("mine *", "0/5, test 2/5")
    assert second[4] == "0/5"
    assert page(as_json(found)).count("test 2/5") == 1


def test_json():
    tree = as_json(TWO_CELLS)["across"]
    assert tree["factors"] == list(FACTORS)
    mine = tree["contenders"][0]
    assert mine["contender"] == "mine"
    assert set(mine["speedup"]["interquartile_mean"]) == {"low", "estimate", "high"}
    assert mine["train_against_reference"]["verdict"] == "no difference"
