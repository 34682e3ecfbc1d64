"""Pictures of runs: what is read, what is drawn."""

import json
import math

import numpy as np
import pytest

from meta_train import plot
from meta_train.cli import main


def row(step, loss, evaluation=None, updates=(1, 1)):
    """Of two families; the second has twice the loss, and nothing where not used."""
    families = {
        name: {
            "meta_loss": times * loss if used and loss is not None else None,
            "gradient_norm": 1.0 if used else None,
            "valid": 3 * used,
            "non_finite": used,
            "updates": used,
        }
        for name, times, used in zip(("one", "two"), (1, 2), updates, strict=True)
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


def panels(*runs):
    """The panels of a figure by their titles."""
    figure = plot.draw([plot.read_run(run) for run in runs])
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def test_smooth_is_a_bias_corrected_average():
    decay = math.exp(-1 / 2)
    got = plot.smooth([None, 1.0, None, 4.0], 2)
    last = (decay**2 * 1.0 + 4.0) / (decay**2 + 1.0)
    np.testing.assert_allclose(got, [np.nan, 1.0, np.nan, last])


def test_a_run_with_its_families(tmp_path):
    """One that is going on: its last line is half written."""
    rows = [row(2, 1.0), row(4, None), row(6, 0.5, updates=(1, 0)), row(8, 2.0)]
    seen = panels(make_run(tmp_path / "run", rows, '{"st'))
    assert list(seen) == [
        "meta-loss",
        "norm of the meta-gradient",
        "contributions not finite",
        "inner steps a second",
    ]
    loss, norm, share, rate = seen.values()
    # As measured and smoothed of each.
    assert [len(axes.lines) for axes in seen.values()] == [6, 6, 6, 1]
    assert labels(loss) == labels(norm) == ["all families", "one", "two"]
    whole, smoothed, _, _, two, _ = loss.lines
    np.testing.assert_array_equal(whole.get_xdata(), [2, 4, 6, 8])
    np.testing.assert_array_equal(whole.get_ydata(), [1.0, np.nan, 0.5, 2.0])
    expected = plot.smooth([1.0, None, 0.5, 2.0], 1 + 4 / 50)
    np.testing.assert_array_equal(smoothed.get_ydata(), expected)
    assert smoothed.get_linewidth() > loss.lines[3].get_linewidth()
    # A gap where it was not finite, none where it was not used.
    np.testing.assert_array_equal(two.get_xydata(), [[2, 2.0], [4, np.nan], [8, 4.0]])
    np.testing.assert_array_equal(share.lines[0].get_ydata(), [0.25] * 4)
    np.testing.assert_array_equal(norm.lines[0].get_ydata(), [2.0] * 4)
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), [5.0] * 4)


def test_runs_side_by_side_with_their_best(tmp_path):
    judged = {"score": 0.3, "best": 0.2, "best_step": 2}
    one = make_run(tmp_path / "a", [row(2, 1.0), row(4, 0.5, judged)])
    two = make_run(tmp_path / "b", [row(2, 1.0)])
    seen = panels(one, two)
    assert labels(seen["meta-loss"]) == [str(one), str(two)]
    colours = {line.get_color() for line in seen["meta-loss"].lines}
    assert len(colours) == 2
    assert len(seen["inner steps a second"].lines) == 2
    course, best = seen["validation score, lower is better"].lines
    np.testing.assert_array_equal(course.get_xydata(), [[4, 0.3]])
    np.testing.assert_array_equal(best.get_xydata(), [[2, 0.2]])
    assert best.get_label() == "best 0.200 at step 2"


def test_one_outlier_does_not_flatten_the_others(tmp_path):
    rows = [row(step, 1e6 if step == 99 else 1.0) for step in range(1, 201)]
    one = make_run(tmp_path / "a", rows)
    # Two runs of it: each line of 200 values has one.
    assert panels(one, one)["meta-loss"].get_ylim() == (0.5, 1.5)
    few = panels(make_run(tmp_path / "b", rows[90:110]))["meta-loss"]
    assert few.get_ylim()[1] > 1e6


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a", [row(2, 1.0), row(4, 0.5)])
    # Of a run that got nowhere there is a picture as well.
    nothing = {"gradient_norm": None, "valid": 0, "non_finite": 0}
    make_run(tmp_path / "b", [row(2, None) | nothing])
    assert main(["plot", "a", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    last = json.loads(json.dumps(row(4, 0.5)))
    ends = {"a": {"steps": 4, "last": last}}
    assert printed == {"figure": "a/curves.png", "runs": ends}
    assert (tmp_path / "a/curves.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", "a", "b"]) == 0
    assert (tmp_path / "meta-training.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", "b", "--out", "picture.svg"]) == 0
    assert "<svg" in (tmp_path / "picture.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "plot needs at least one RUN"),
        (["{nothing}"], "plot needs directories that hold a run, got "),
        (["{empty}"], "a run must have metrics to be drawn, "),
        (["{torn}"], "metrics.jsonl must hold a JSON object a line, line 1: "),
        (["{old}"], "metrics.jsonl must be a JSON object of step, meta_loss, "),
        (["{good}", "--out", "x.doc"], "--out must end in one of "),
    ],
)
def test_what_cannot_be_drawn(tmp_path, capsys, arguments, message):
    places = {
        "nothing": tmp_path,
        "empty": make_run(tmp_path / "empty", []),
        "torn": make_run(tmp_path / "torn", [], '{"step"\n'),
        "old": make_run(tmp_path / "old", [{"step": 2, "meta_loss": 1.0}]),
        "good": make_run(tmp_path / "good", [row(2, 1.0)]),
    }
    status = main(["plot", *(text.format(**places) for text in arguments)])
    assert status == (1 if arguments else 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
