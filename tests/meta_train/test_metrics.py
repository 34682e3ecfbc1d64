"""Metrics on disk: lines that can be cut back, and TensorBoard events."""

import errno
import gc
import json
import struct
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.metrics import JsonLines, TensorBoard, _Event, summarise
from meta_train.outer import OuterMetrics


def metrics(meta_loss, gradient_norm=(1.0, 3.0)):
    counts = jnp.array([4, 3])
    return OuterMetrics(
        meta_loss=jnp.asarray(meta_loss),
        gradient_norm=jnp.asarray(gradient_norm),
        valid=counts,
        non_finite=4 - counts,
        restarts=counts,
        skipped=jnp.array([2, 0]),
    )


def test_a_row_sums_up_a_dispatch():
    assert summarise(8, metrics([0.5, 1.0])) == {
        "step": 8,
        "meta_loss": 0.75,
        "gradient_norm": 2.0,
        "valid": 7,
        "non_finite": 1,
        "restarts": 7,
        "skipped": 0,
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_json_lacks_is_none(value):
    row = summarise(8, metrics([0.5, value], [value, value]))
    assert (row["meta_loss"], row["gradient_norm"]) == (None, None)
    json.dumps(row, allow_nan=False)


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
    first.append({"step": 2, "meta_loss": 0.5, "gradient_norm": None, "valid": 3})
    first.sync()
    (file,) = folder.iterdir()
    header, begin, row = events(file)
    assert header.file_version == "brain.Event:2"
    assert (begin.step, begin.session_log.status) == (1, 1)
    assert row.step == 2
    values = {value.tag: value.simple_value for value in row.summary.value}
    assert values == {"meta_loss": 0.5, "valid": 3.0}
    first.close()
    # Resumed from outer step 2: the event of that step counts, later ones do not.
    second = TensorBoard(folder, 2)
    second.close()
    newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert events(newest)[1].step == 3
