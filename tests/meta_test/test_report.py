import io
import json
import math

import numpy as np
import pytest

from meta_test.baselines import BASELINES
from meta_test.evaluate import Protocol, evaluate
from meta_test.figure import draw, strokes, strokes_by_name
from meta_test.optimizers import baseline
from meta_test.page import page
from meta_test.report import as_json, git_revision, print_report, write
from meta_test.results import environment
from meta_test.table import plain_text, summary
from tests.meta_test.problems import line_suite, sgd


@pytest.fixture(scope="module")
def report():
    """One that learns, one that explodes, one that is good, and the reference."""
    contenders = [
        sgd("mine", 0.5, learned=True),
        sgd("exploding", 1e20, learned=True),
        sgd("plain", 0.01, 3.0),
        baseline("adam"),
    ]
    return evaluate(contenders, line_suite())


def refuse(literal: str) -> None:
    raise AssertionError(f"{literal} is not JSON")


def test_json_is_strict_and_survives_a_round_trip(report, tmp_path):
    paths = write(report, tmp_path / "new" / "folder", {"theta_sha256": {"mine": "ab"}})
    read = json.loads(paths.json.read_text(), parse_constant=refuse)
    assert read == as_json(report, {"theta_sha256": {"mine": "ab"}})
    assert read["provenance"]["theta_sha256"] == {"mine": "ab"}
    assert read["provenance"]["versions"]["jax"]
    assert read["provenance"]["source_sha256"] == environment()["source"]
    assert read["suite"]["cells"][0]["task"]["class"] == "Line"
    assert read["protocol"]["multipliers"] == 0
    assert read["protocol"]["guards"] is False
    assert str(tmp_path) not in paths.json.read_text()
    assert paths.text.read_text().startswith("line (20 steps, 5 seeds)")
    assert paths.figure.read_bytes().startswith(b"\x89PNG")


def test_json_rows(report):
    tree = as_json(report)
    rows = {row["contender"]: row for row in tree["rows"]}
    exploding, plain, adam = rows["exploding"], rows["plain"], rows["adam"]
    assert exploding["fitted"]["diverged"] == exploding["seeds"] == 5
    assert exploding["train_loss"]["median"] == "inf"
    assert exploding["fitted"]["per_seed"]["final"]["train_accuracy"] == [None] * 5
    assert exploding["fitted"]["per_seed"]["mean_train_loss"] == ["inf"] * 5
    assert exploding["tuning"] is None
    assert exploding["steps_to_reference"] == {
        "q25": None,
        "median": None,
        "q75": None,
        "reached": 0,
        "bound": 20,
    }
    took = adam["steps_to_reference"], adam["seconds_to_reference"]
    for name in ("q25", "median", "bound"):
        assert took[1][name] == pytest.approx(took[0][name] * adam["seconds_per_step"])
    assert exploding["seconds_to_reference"]["median"] is None
    assert plain["fitted"]["candidate"] == "0.01"
    assert plain["tuning"]["diverged"] == [0, 3]
    assert plain["tuning"]["median_train_loss"][1] == "inf"
    assert adam["steps_to_reference"]["median"] <= 20
    assert adam["fitted"]["curve"]["steps"] == list(range(2, 21, 2))
    assert len(adam["fitted"]["curve"]["median"]) == 10
    assert adam["fitted"]["evaluations"]["steps"] == list(range(2, 21, 2))
    row = report.row("line", "adam")
    final = adam["fitted"]["per_seed"]["final"]
    np.testing.assert_allclose(final["train_loss"], row.fitted.losses("train"))
    best = adam["fitted"]["per_seed"]["best"]["test_loss"]
    assert all(b <= f for b, f in zip(best, final["test_loss"], strict=True))
    assert tree["protocol"]["tuning_seeds"] == [1_000_000, 1_000_001, 1_000_002]


def test_text_is_plain_where_nobody_looks_on(report):
    stream = io.StringIO()
    print_report(report, stream)
    assert stream.getvalue() == plain_text(report) + "\n"
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_the_same_numbers(report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    print_report(report, stream)
    for text in ("exploding", "5/5", "[inf, inf]"):
        assert text in stream.getvalue()


def test_table_ranks_the_diverged_last(report):
    lines = plain_text(report).splitlines()
    names = [line.split()[0] for line in lines[3:7]]
    assert names[0] == "mine"
    assert names[-1] == "exploding"
    assert "5/5" in lines[6]
    assert ">20" in lines[6]
    # Two rates: the best of them is at an edge.
    assert any("0.01 (edge)" in line for line in lines)


def test_summary_says_where_each_learned_optimizer_wins_and_loses(report):
    mine, exploding = summary(report).split("\n\n")
    assert mine.startswith("mine against the best adam on 1 cells: ")
    assert "train loss: wins 1, even 0, loses 0" in mine
    assert "train loss: wins 0, even 0, loses 1" in exploding
    assert "test loss: wins 0, even 0, loses 1" in exploding
    assert "diverged in 5 of 5 trainings" in exploding
    assert "which chance alone gives to equals on 38% of cells" in mine


def test_summary_without_anything_to_compare():
    alone = evaluate([sgd("sgd", 0.1)], line_suite())
    assert summary(alone) == "No learned optimizer takes part."
    alone = evaluate([sgd("mine", 0.1, learned=True)], line_suite())
    assert "nothing to compare" in summary(alone)


def test_a_figure_of_nothing_but_diverged_trainings(tmp_path):
    report = evaluate([sgd("exploding", 1e20)], line_suite())
    draw(report).savefig(tmp_path / "curves.png")
    panel = draw(report).axes[0]
    assert "diverged\nexploding 5/5" in [text.get_text() for text in panel.texts]
    assert all(map(math.isfinite, panel.get_ylim()))


def test_an_optimizer_keeps_its_colour(report):
    fewer = evaluate([baseline("adam")], line_suite())
    assert strokes(fewer)["adam"] == strokes(report)["adam"]
    assert len(set(strokes(report).values())) == 4


def test_lines_are_told_apart():
    names = [*BASELINES, *(f"learned {i}" for i in range(12))]
    found = strokes_by_name({name: name.startswith("learned") for name in names})
    assert len(set(found.values())) == len(names)


def test_a_picture_says_what_was_tuned(report):
    def heading(of):
        return draw(of).legends[0].get_title().get_text()

    assert heading(report).startswith("heavy lines: learned, nothing tuned; thin ")
    protocol = Protocol(multipliers=3)
    tuned = protocol.with_variants([sgd("mine", 0.1, learned=True)])
    found = evaluate(tuned, line_suite(), protocol=protocol)
    assert "nothing tuned but the factors of x rate; " in heading(found)
    text = page(json.loads(json.dumps(as_json(found))))
    assert text.count("mine with its updates times the best of 3 factors") == 1


def test_git_revision(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert git_revision(tmp_path) is None
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert git_revision(tmp_path) is None
    (git / "packed-refs").write_text(
        f"# pack-refs with: peeled\n{commit} refs/heads/main\n"
    )
    assert git_revision(tmp_path) == commit
    (git / "refs" / "heads" / "main").write_text("f" * 40 + "\n")
    assert git_revision(tmp_path) == "f" * 40
    (git / "HEAD").write_text(commit + "\n")
    assert git_revision(tmp_path) == commit
