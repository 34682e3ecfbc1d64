"""Cached arrays: whole or not there, whatever becomes of the file."""

import numpy as np
import pytest

from tasks.data import cache


ARRAYS = {
    "images": np.arange(60, dtype=np.uint8).reshape(3, 4, 5),
    "labels": np.arange(3, dtype=np.int32),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "deep" / "a.npz"
    cache.write(path, ARRAYS, "stamp 1")
    return path


def same(found):
    return (
        found is not None
        and found.keys() == ARRAYS.keys()
        and all(
            found[n].dtype == a.dtype and np.array_equal(found[n], a)
            for n, a in ARRAYS.items()
        )
    )


def test_what_was_written_is_read(path):
    assert same(cache.read(path, "stamp 1"))
    assert same(cache.read(path, None))
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_another_stamp_or_no_file(path):
    assert cache.read(path, "stamp 2") is None
    assert cache.read(path.with_name("b.npz"), None) is None


def test_no_damaged_byte_is_taken_for_data(path):
    """Every byte in turn is changed; none may change what is read."""
    whole = path.read_bytes()
    lost = 0
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :]
        )
        found = cache.read(path, None)
        lost += found is None
        assert found is None or same(found), place
    assert lost > len(whole) / 2
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert cache.read(path, None) is None


def test_a_pickle_is_not_opened(path):
    stamp = np.array('["stamp 1", ["images"]]')
    np.savez(path, stamp=stamp, images=np.array([1], np.uint8))
    assert cache.read(path, "stamp 1") == {"images": [1]}
    np.savez(path, stamp=stamp, images=np.array([{}], object))
    assert cache.read(path, "stamp 1") is None


def test_a_write_that_fails_leaves_what_was_there(path, monkeypatch):
    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        cache.write(path, {}, "stamp 2")
    assert same(cache.read(path, "stamp 1"))
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv("L2O_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / ".cache" / "l2o"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.directory() == tmp_path / "xdg" / "l2o"
    monkeypatch.setenv("L2O_CACHE_DIR", "~/mine")
    assert cache.directory() == tmp_path / "mine"
