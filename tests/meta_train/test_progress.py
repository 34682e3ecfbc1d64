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


def terminal(monkeypatch):
    """Makes stderr a terminal of 80 columns; what it shows so far, when called."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")

    def lines():
        # Without what moves the cursor and sets colours.
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
        return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]

    return lines


def test_a_terminal_shows_a_bar_and_below_it_a_table(monkeypatch):
    seen = terminal(monkeypatch)
    facts = {"meta-loss": "0.4212", "inner steps/s": "1,000", "validation": "-0.312"}
    with progress("meta-training") as shown:
        shown.line("compiling [2 devices]")
        shown.update(20, 100, facts, table=TABLE)
    assert "compiling [2 devices]" in seen()
    bar, numbers, head, first, second = seen()[-5:]
    assert re.fullmatch(r"meta-training \S+ +20/100 \S+ left \S+", bar)
    assert numbers == "meta-loss 0.4212  inner steps/s 1,000  validation -0.312"
    assert head.split() == ["meta", "loss", "non", "finite"]
    assert first.split() == ["quadratic", "0.1235", "0"]
    assert second.split() == ["image_mlp", "-", "12"]


def test_names_are_not_markup(monkeypatch):
    """Contenders are named by their directories, families by anyone."""
    seen = terminal(monkeypatch)
    with progress("[bold]") as shown:
        shown.update(1, 2, {"cell": "[red]"}, table={"[/red]": {"meta_loss": 1.0}})
    bar, numbers, _, row = seen()[-4:]
    assert bar.startswith("[bold] ")
    assert numbers == "cell [red]"
    assert row.split() == ["[/red]", "1"]


def test_a_table_stays_until_the_next(monkeypatch):
    seen = terminal(monkeypatch)
    with progress("meta-training") as shown:
        shown.update(1, 3, {"a": 1}, table=TABLE)
        shown.update(2, 3, {"a": 2})
    assert seen()[-1].split() == ["image_mlp", "-", "12"]


def test_a_file_gets_lines(capsys):
    with progress("evaluation") as shown:
        assert isinstance(shown, PlainLines)
        shown.update(1, 3, {"a": 1}, table=TABLE)
        shown.update(2, 3, {"a": 2})  # Too soon after the first.
        shown.update(3, 3, {"a": 3})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1/3: a 1; meta loss: quadratic 0.1235, image_mlp -"
    assert lines[1].startswith("3/3, 0 s left: a 3")
    assert len(lines) == 2


@pytest.mark.parametrize(("rows", "shown"), [(4, True), (5, False)])
def test_a_line_has_room_for_a_small_table(capsys, rows, shown):
    table = {f"family_{i}": {"meta_loss": float(i)} for i in range(rows)}
    PlainLines().update(1, 2, {}, table=table)
    assert ("family_3 3" in capsys.readouterr().err) == shown


@pytest.mark.parametrize("table", [None, {}])
def test_a_bar_needs_no_table(monkeypatch, table):
    seen = terminal(monkeypatch)
    with progress("evaluation") as shown:
        shown.update(5, 5, {"cell": "bowl"}, table=table)
    bar, numbers = seen()[-2:]
    assert "5/5" in bar
    assert numbers == "cell bowl"
