"""Metrics on disk: lines that can be cut back, and TensorBoard events."""

import errno
import gc
import json
import re
import struct
import sys
import time
import types
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.metrics import (
    JsonLines,
    TensorBoard,
    WandB,
    _Event,
    flat,
    read_lines,
    summarise,
)
from meta_train.outer import FamilyMetrics, OuterMetrics


def metrics(meta_loss: Any, gradient_norm: Any = (1.0, 3.0)) -> OuterMetrics:
    """Two outer steps on two families, of which the first used one only."""
    used: Any = np.array([[1, 0], [1, 1]])
    nothing: Any = np.where(used == 1, 0.0, np.nan)
    return OuterMetrics(
        meta_loss=jnp.asarray(meta_loss),
        gradient_norm=jnp.asarray(gradient_norm),
        skipped=jnp.array([0, 0]),
        inner_steps=jnp.array([80, 160]),
        families=FamilyMetrics(
            meta_loss=nothing + np.array([[0.25, 0.5], [0.75, 2.0]]),
            gradient_norm=nothing + np.array([[1.0, 1.0], [3.0, 5.0]]),
            valid=4 * used - [[1, 0], [0, 0]],
            non_finite=jnp.array([[1, 0], [0, 0]]),
            restarts=used,
            used=used,
        ),
    )


NAMES = ("one", "two")


def test_a_row_sums_up_a_dispatch():
    assert summarise(8, metrics([0.5, 1.0]), NAMES) == {
        "step": 8,
        "meta_loss": 0.75,
        "gradient_norm": 2.0,
        "skipped": 0,
        "valid": 11,
        "non_finite": 1,
        "restarts": 3,
        "families": {
            "one": {
                "meta_loss": 0.5,
                "gradient_norm": 2.0,
                "valid": 7,
                "non_finite": 1,
                "restarts": 2,
                "updates": 2,
            },
            "two": {
                "meta_loss": 2.0,
                "gradient_norm": 5.0,
                "valid": 4,
                "non_finite": 0,
                "restarts": 1,
                "updates": 1,
            },
        },
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_json_lacks_is_none(value):
    given = metrics([0.5, value], [value, value])
    families = given.families._replace(used=np.zeros((2, 2), int))
    row = summarise(8, given._replace(families=families), NAMES)
    assert (row["meta_loss"], row["gradient_norm"]) == (None, None)
    # Of a family that took no part.
    assert row["families"]["one"]["meta_loss"] is None
    json.dumps(row, allow_nan=False)


def test_means_are_over_the_outer_steps_that_were_made():
    given = metrics([0.5, np.nan], [2.0, 0.0])
    row = summarise(8, given._replace(skipped=np.array([0, 1])), NAMES)
    assert (row["meta_loss"], row["gradient_norm"], row["skipped"]) == (0.5, 2.0, 1)


def test_numbers_by_their_paths():
    row = {"step": 3, "a": {"b": {"c": 1.5, "d": None}}, "e": 2}
    assert flat(row) == {"step": 3, "a/b/c": 1.5, "e": 2}


class FakeWandB(types.ModuleType):
    """Notes what it is told."""

    def __init__(self):
        super().__init__("wandb")
        self.told = []

    def init(self, **options):
        self.told.append(options)
        return self

    def log(self, values, step):
        self.told.append((step, values))

    def finish(self):
        self.told.append("end")


def test_weights_and_biases(monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = {"seed": 1}
    log = WandB("project", "mine", "mine-1", config)
    log.append({"step": 4, "families": {"one": {"meta_loss": 0.5}}, "gone": None})
    log.sync()
    log.close()
    begun, row, end = fake.told
    assert begun == {
        "project": "project",
        "name": "mine",
        "id": "mine-1",
        "resume": "allow",
        "config": config,
    }
    assert row == (4, {"families/one/meta_loss": 0.5})
    assert end == "end"


def test_weights_and_biases_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"^log.wandb needs the package wandb, which "):
        WandB("project", "mine", "mine-1", {})


def write(path, length, rows):
    file = JsonLines(path, length)
    for row in rows:
        file.append(row)
    size = file.sync()
    file.close()
    return size


def test_lines_are_cut_back_to_a_length(tmp_path):
    path = tmp_path / "lines"
    length = write(path, 0, [{"a": 1}, {"a": 2}])
    assert length == path.stat().st_size
    assert write(path, length, [{"a": 3}]) > length
    write(path, length, [{"a": 4}])
    assert [json.loads(line)["a"] for line in path.read_text().splitlines()] == [
        1,
        2,
        4,
    ]
    write(path, 0, [])
    assert path.read_bytes() == b""


def test_lines_that_a_checkpoint_counts_on_must_be_there(tmp_path):
    path = tmp_path / "lines"
    length = write(path, 0, [{"a": 1}])
    with pytest.raises(ValueError, match=r"must hold the 100 bytes .* found 9"):
        JsonLines(path, 100)
    assert path.stat().st_size == length


def test_lines_are_read_back_but_for_a_torn_last_one(tmp_path):
    path = tmp_path / "lines"
    assert read_lines(path, ("a",)) == []
    write(path, 0, [{"a": 1}, {"a": 2, "b": None}])
    with path.open("ab") as file:
        file.write(b'{"a": 3')
    assert read_lines(path, ("a",)) == [{"a": 1}, {"a": 2, "b": None}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', "must hold a JSON object a line, line 2: Expecting"),
        (b"", "must hold a JSON object a line, line 2: Expecting value"),
        (b"\xff", "must hold a JSON object a line, line 2: 'utf-8' codec"),
        (b"3", "must be a JSON object of a, line 2 is 3"),
        (b'{"b": 1}', 'must be a JSON object of a, line 2 is {"b": 1}'),
    ],
)
def test_damaged_lines(tmp_path, line, message):
    path = tmp_path / "lines"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 1}\n')
    with pytest.raises(ValueError, match=re.escape(message)):
        read_lines(path, ("a",))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_no_more(tmp_path, capfd):
    path = tmp_path / "lines"
    path.symlink_to("/dev/full")
    file = JsonLines(path, 0)
    file.append({"a": 1})
    with pytest.raises(OSError, match="No space left") as caught:
        file.sync()
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        file.close()
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_events_on_a_full_disk_are_an_error_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    folder = tmp_path / "tensorboard"
    TensorBoard(folder, 0).close()
    (file,) = folder.iterdir()
    file.unlink()
    file.symlink_to("/dev/full")
    events = TensorBoard(folder, 0)
    with pytest.raises(OSError, match="No space left"):
        events.sync()
    with pytest.raises(OSError, match="No space left"):
        events.close()
    del events  # Nothing is left that would complain when it is collected.
    gc.collect()


def events(path):
    """The events of a file: a length, its checksum, that many bytes, their checksum."""
    content, found = path.read_bytes(), []
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        found.append(_Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return found


def test_events_of_two_lives(tmp_path):
    folder = tmp_path / "tensorboard"
    first = TensorBoard(folder, 0)
    first.append({"step": 2, "meta_loss": 0.5, "gradient_norm": None, "of": {"x": 3}})
    first.sync()
    (file,) = folder.iterdir()
    header, begin, row = events(file)
    assert header.file_version == "brain.Event:2"
    assert (begin.step, begin.session_log.status) == (1, 1)
    assert row.step == 2
    values = {value.tag: value.simple_value for value in row.summary.value}
    assert values == {"meta_loss": 0.5, "of/x": 3.0}
    first.close()
    # Resumed from outer step 2: the event of that step counts, later ones do not.
    second = TensorBoard(folder, 2)
    second.close()
    newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert events(newest)[1].step == 3
