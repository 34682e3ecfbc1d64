"""Pictures of runs: what is read, what is drawn."""

import json
import math

import numpy as np
import pytest

from meta_train import plot
from meta_train.cli import main


def row(step, loss, evaluation=None):
    families = {
        name: {"meta_loss": loss, "gradient_norm": 1.0, "valid": 3, "non_finite": 1}
        for name in ("one", "two")
    }
    found = {
        "step": step,
        "meta_loss": loss,
        "gradient_norm": 2.0,
        "valid": 6,
        "non_finite": 2,
        "families": families,
    }
    return found | ({"evaluation": evaluation} if evaluation else {})


def make_run(path, rows, tail=""):
    path.mkdir()
    (path / "config.json").write_text("{}")
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (path / "metrics.jsonl").write_text(text + tail)
    timing = [{"step": r["step"], "inner_steps_per_second": 5.0} for r in rows]
    (path / "timing.jsonl").write_text("".join(json.dumps(t) + "\n" for t in timing))
    return path


def test_smooth_is_a_bias_corrected_average():
    decay = math.exp(-1 / 2)
    got = plot.smooth([None, 1.0, None, 4.0], 2)
    assert math.isnan(got[0])
    last = (decay**2 * 1.0 + 4.0) / (decay**2 + 1.0)
    assert got[1:] == pytest.approx([1.0, 1.0, last])


def test_a_run_with_its_families(tmp_path):
    """One that is going on: its last line is half written."""
    run = make_run(tmp_path / "run", [row(2, 1.0), row(4, None), row(6, 0.5)], '{"st')
    curves = plot.read_run(run)
    assert [r["step"] for r in curves.rows] == [2, 4, 6]
    loss, _, share, rate = plot.draw([curves]).axes
    labels = loss.get_legend_handles_labels()[1]
    assert labels == [str(run), "one", "two"]
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), [1.0, np.nan, 0.5])
    np.testing.assert_array_equal(share.lines[1].get_ydata(), [0.25, 0.25, 0.25])
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), [5.0, 5.0, 5.0])


def test_runs_side_by_side_with_their_best(tmp_path):
    judged = {"score": 0.3, "best": 0.2, "best_step": 2}
    one = make_run(tmp_path / "a", [row(2, 1.0), row(4, 0.5, judged)])
    two = make_run(tmp_path / "b", [row(2, 1.0)])
    *_, scores = plot.draw([plot.read_run(one), plot.read_run(two)]).axes
    course, best = scores.lines
    np.testing.assert_array_equal(course.get_xydata(), [[4, 0.3]])
    np.testing.assert_array_equal(best.get_xydata(), [[2, 0.2]])


def test_the_command(tmp_path, capsys):
    run = make_run(tmp_path / "run", [row(2, 1.0)])
    assert main(["plot", str(run), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["figure"] == str(run / "curves.png")
    assert printed["last"][str(run)]["step"] == 2
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    out = tmp_path / "picture.svg"
    assert main(["plot", str(run), str(run), "--out", str(out)]) == 0
    assert "<svg" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "plot needs at least one RUN"),
        (["{nothing}"], "plot needs directories that hold a run, got "),
        (["{empty}"], "a run must have metrics to be drawn, "),
        (["{torn}"], "metrics.jsonl must hold a JSON object a line, line 1: "),
        (["{good}", "--out", "x.doc"], "--out must end in one of "),
    ],
)
def test_what_cannot_be_drawn(tmp_path, capsys, arguments, message):
    places = {
        "nothing": tmp_path,
        "empty": make_run(tmp_path / "empty", []),
        "torn": make_run(tmp_path / "torn", [], '{"step"\n'),
        "good": make_run(tmp_path / "good", [row(2, 1.0)]),
    }
    status = main(["plot", *(text.format(**places) for text in arguments)])
    assert status == (1 if arguments else 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
