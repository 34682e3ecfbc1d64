"""What a person sees of a run while it goes on."""

import io
import re
import sys

import pytest

from meta_train.progress import PlainLines, progress


TABLE = {
    "quadratic": {"meta_loss": 0.123456, "non_finite": 0},
    "image_mlp": {"meta_loss": None, "non_finite": 12},
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_and_a_table(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    with progress("meta-training") as shown:
        shown.line("compiling [2 devices]")
        shown.update(20, 100, {"inner steps/s": "1,000"}, table=TABLE)
    # Without what moves the cursor and sets colours.
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "compiling [2 devices]" in text
    (first, second), (bar, *_) = (
        [line for line in text.splitlines() if any(word in line for word in words)]
        for words in (TABLE, ["20/100"])
    )
    assert any(
        line.split() == ["meta", "loss", "non", "finite"] for line in text.splitlines()
    )
    assert first.split() == ["quadratic", "0.1235", "0"]
    assert second.split() == ["image_mlp", "-", "12"]
    for part in ("meta-training", "20/100", "left", "inner steps/s 1,000"):
        assert part in bar


def test_a_file_gets_lines(capsys):
    with progress("evaluation") as shown:
        assert isinstance(shown, PlainLines)
        shown.update(1, 3, {"a": 1}, table=TABLE)
        shown.update(2, 3, {"a": 2})  # Too soon after the first.
        shown.update(3, 3, {"a": 3})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1/3: a 1"
    assert lines[1].startswith("3/3, 0 s left: a 3")
    assert len(lines) == 2


@pytest.mark.parametrize("table", [None, {}])
def test_a_bar_needs_no_table(monkeypatch, table):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "150")
    with progress("evaluation") as shown:
        shown.update(5, 5, {"cell": "bowl"}, table=table)
    assert "5/5" in screen.getvalue()
    assert "cell bowl" in screen.getvalue()
