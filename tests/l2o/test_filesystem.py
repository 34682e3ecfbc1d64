"""Checkpoints in a bucket: all of the old or all of the new, and nothing unverified."""

import importlib.util
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

import l2o
from l2o import bucket, filesystem, storage
from l2o.learned import SmallFC
from tests.buckets import BUCKET


def tree(value=1):
    return {"w": np.full((2,), value, np.float32), "n": np.zeros((0, 3), np.int32)}


def value_at(path):
    read, manifest = storage.read_tree(path, {"a": tree()})
    assert read["a"]["w"].tolist() == [manifest["value"]] * 2
    return manifest["value"]


def write(path, value, **how):
    storage.write_tree(path, {"a": tree(value)}, {"value": value}, **how)


@pytest.fixture
def path(folder):
    return f"gs://{BUCKET}/{folder}/ck"


def names_in(store, folder):
    """Objects by what they are: data have names of their own."""
    names = [name.removeprefix(f"{folder}/") for name in store.names(f"{folder}/")]
    return sorted(n.rpartition("/")[0] if "/d/" in n else n for n in names)


def test_an_optimizer_is_the_same_wherever_it_is(path, tmp_path):
    lopt = SmallFC(hidden_size=2)
    theta = lopt.init_theta(jax.random.key(0))
    for place in (path, tmp_path / "ck"):
        l2o.save(place, lopt, theta, seed=3)
    facts, local = storage.read_manifest(path), storage.read_manifest(tmp_path / "ck")
    assert facts["name"] == local["name"] == "ck"
    assert facts["trees"] == local["trees"]
    # pathlib makes one slash of two.
    for place in (path, f"{path}/", Path(path), filesystem.place(path)):
        again, read = l2o.load(place)
        assert again == lopt
        assert jax.tree.all(jax.tree.map(np.array_equal, read, theta))
    with pytest.raises(FileExistsError, match="must not exist, or pass overwrite"):
        l2o.save(path, lopt, theta)
    assert l2o.optimizer(path).init({"w": np.ones(2)}) is not None


def test_a_model_card_stays(store, folder, path):
    write(path, 1)
    store[f"{folder}/ck/{storage.MODEL_CARD}"] = b"by hand"
    write(path, 2, overwrite=True)
    assert store[f"{folder}/ck/{storage.MODEL_CARD}"] == b"by hand"
    assert value_at(path) == 2


# What gcsfs could not write it drops, which Python 3.13 tells of.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.BytesIO:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.slow
def test_a_writer_that_dies_at_any_change_leaves_the_old_or_the_new(store, folder):
    def dead_after(changes):
        counted = itertools.count()

        def before(method, name):
            del method, name
            if next(counted) >= changes:
                raise RuntimeError

        return before

    root = f"{folder}/whole"
    write(f"gs://{BUCKET}/{root}/ck", 1)
    whole = names_in(store, root)
    seen = []
    for changes in itertools.count():
        here = f"{folder}/{changes}"
        store.copy(root, here)
        store.before = dead_after(changes)
        try:
            write(f"gs://{BUCKET}/{here}/ck", 2, overwrite=True)
            died = False
        except OSError:
            died = True
        seen.append(value_at(f"gs://{BUCKET}/{here}/ck"))
        store.mend()
        if changes % 4 == 0 or not died:
            write(f"gs://{BUCKET}/{here}/ck", 3, overwrite=True)
            assert value_at(f"gs://{BUCKET}/{here}/ck") == 3
            assert names_in(store, here) == whole
        if not died:
            break
    assert len(seen) > 15
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


def test_what_a_first_writer_left_is_no_checkpoint(store, folder, path):
    """Also when who removed it was killed before the last object."""
    write(path, 1)
    parts = {name: store[name] for name in store.names(f"{folder}/ck/")}
    del parts[f"{folder}/ck/{storage.MANIFEST}"]
    for left in [list(parts), *([name] for name in parts)]:
        for name in store.names(f"{folder}/ck/"):
            del store[name]
        for name in left:
            store[name] = parts[name]
        assert not storage.exists(path)
        with pytest.raises(storage.CheckpointError, match=r"have a manifest\.json"):
            storage.read_tree(path)
        write(path, 2)
        assert value_at(path) == 2


@pytest.mark.parametrize("name", ["notes.txt", "a/notes.txt"])
def test_what_is_no_checkpoint_is_not_replaced(store, folder, path, name):
    store[f"{folder}/ck/{name}"] = b"of somebody"
    with pytest.raises(FileExistsError, match="must be a checkpoint to be overwritten"):
        write(path, 1, overwrite=True)
    assert store.names(folder) == [f"{folder}/ck/{name}"]


def test_nothing_is_read_that_differs(store, folder, path):
    write(path, 1)
    for name in store.names(f"{folder}/ck/"):
        content = store[name]
        store.flip(name)
        with pytest.raises(storage.CheckpointError):
            storage.read_tree(path)
        store[name] = content
        if not name.endswith(storage.MANIFEST):
            del store[name]
            with pytest.raises(storage.CheckpointError, match="it is missing"):
                storage.read_tree(path)
            store[name] = content
    assert value_at(path) == 1
    store[f"{folder}/ck/more"] = b""
    with pytest.raises(storage.CheckpointError, match="more must not be there"):
        storage.read_tree(path)


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out"])
def test_no_file_is_written_elsewhere(store, folder, path, name):
    write(path, 1)
    store[f"{folder}/ck/{name}"] = b"x"
    with pytest.raises(storage.CheckpointError, match="must hold names of files"):
        storage.read_tree(path)


def test_a_store_that_is_away_is_no_damage(store, path):
    write(path, 1)
    store.is_closed = True
    for work in (storage.read_tree, storage.exists, lambda p: write(p, 2)):
        with pytest.raises(
            ConnectionError, match="must be within reach, got Forbidden"
        ):
            work(path)
    store.is_closed = False
    assert value_at(path) == 1


@pytest.mark.parametrize("name", ["read", "download"])
def test_a_store_that_goes_away_is_no_damage(store, path, monkeypatch, name):
    write(path, 1)
    work = getattr(bucket.Bucket, name)

    def closing(*arguments):
        store.is_closed = True
        return work(*arguments)

    monkeypatch.setattr(bucket.Bucket, name, closing)
    with pytest.raises(ConnectionError, match="must be within reach"):
        storage.read_tree(path)


def test_what_others_write_is_seen_at_once(store, folder):
    """Here, and by orbax, which asks the path itself."""
    file = filesystem.place(f"gs://{BUCKET}/{folder}/file")
    for content in (b"first", b"second"):
        store[f"{folder}/file"] = content
        assert bucket.BUCKET.names(file.parent) == ["file"]
        assert bucket.BUCKET.read(file) == content
        assert file.exists()
        del store[f"{folder}/file"]
        assert not file.exists()
        assert not bucket.BUCKET.exists(file)


def test_other_kinds_of_paths_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"or gs://BUCKET/..., got s3://bucket/run"):
        filesystem.place("s3://bucket/run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="gcsfs, which is not installed: pip install"):
        l2o.load("gs://bucket/run")
    assert filesystem.place("a/b") == Path("a/b")
