"""Data sets of TensorFlow Datasets, prepared here without TensorFlow or a network."""

import json
import shutil
import socket
import sys

import numpy as np
import pytest

from tasks.base import SPLITS
from tasks.data import cache, tfds, tfds_prepare
from tasks.data.arrays import Examples
from tests.helpers import run_python


builders = pytest.importorskip("tests.tasks.data.builders")


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    """No test sees another's cache, the user's data sets or a network."""

    def refuse(*arguments):
        raise AssertionError("no data set may need a network to be read")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("L2O_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory in which data sets have been prepared; not to be changed."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in (
        *("l2o_pictures", "l2o_greys/wide", "l2o_greys/high", "l2o_alone"),
        *("l2o_lines", "l2o_tale", "l2o_various", "l2o_vectors", "l2o_unlabelled"),
        *("l2o_few", "l2o_testing"),
    ):
        tfds_prepare.prepare(name, folder)
    return folder


@pytest.fixture
def pictures(prepared, tmp_path):
    """A copy of one of them, in a directory of its own."""
    shutil.copytree(prepared / "l2o_pictures", tmp_path / "data" / "l2o_pictures")
    return tmp_path / "data"


def images(name, data_dir=None):
    found = tfds.load(name, data_dir=data_dir)
    assert isinstance(found, Examples)
    return found


def text(name, data_dir):
    found = tfds.load(name, data_dir=data_dir)
    assert not isinstance(found, Examples)
    return found


def contents(examples, *splits):
    """Every example of some splits, in an order that does not depend on theirs."""
    return sorted(
        (image.tobytes(), int(label))
        for split in splits
        for image, label in zip(
            examples.inputs[split], examples.labels[split], strict=True
        )
    )


def written(split, count, classes, shape=(4, 5, 3)):
    """What was prepared, in the order of `contents`."""
    return sorted(
        (builders.picture(split, place, shape).tobytes(), place % classes)
        for place in range(count)
    )


def assert_same(one, other):
    for split in SPLITS:
        np.testing.assert_array_equal(one.inputs[split], other.inputs[split])
        np.testing.assert_array_equal(one.labels[split], other.labels[split])
    assert one.num_classes == other.num_classes


DEALT = ("train", "inner_valid", "outer_valid")


def test_images_come_exactly_as_they_were_written(prepared):
    found = images("l2o_pictures", prepared)
    assert found.num_classes == 3
    assert {s: x.shape for s, x in found.inputs.items()} == {
        "train": (48, 4, 5, 3),
        "inner_valid": (6, 4, 5, 3),
        "outer_valid": (6, 4, 5, 3),
        "test": (20, 4, 5, 3),
    }
    assert {x.dtype for x in found.inputs.values()} == {np.dtype(np.uint8)}
    assert {x.dtype for x in found.labels.values()} == {np.dtype(np.int32)}
    # All of them and each once, so that the splits are disjoint.
    assert contents(found, *DEALT) == written("train", 60, 3)
    assert contents(found, "test") == written("test", 20, 3)


def test_validation_is_the_test_split_where_there_is_none(prepared):
    for name, shape in (
        ("l2o_greys/high", (6, 2, 1)),
        ("l2o_greys/wide", (2, 6, 1)),
        ("l2o_greys", (2, 6, 1)),  # the first config is the default
        ("l2o_greys/high:1.0.0", (6, 2, 1)),
    ):
        found = images(name, prepared)
        assert contents(found, *DEALT) == written("train", 30, 2, shape)
        assert contents(found, "test") == written("validation", 10, 2, shape)
        assert found.inputs["test"].shape == (10, *shape)


def test_a_test_split_is_dealt_where_there_is_none(prepared):
    found = images("l2o_alone", prepared)
    assert [len(found.labels[s]) for s in SPLITS] == [28, 4, 4, 4]
    assert contents(found, *SPLITS) == written("train", 40, 3)


def test_a_text_is_its_records_joined_by_newlines(prepared):
    found = text("l2o_lines", prepared)
    whole = b"".join(found[s].tobytes() for s in DEALT).decode()
    assert sorted(whole.split("\n")) == sorted(
        builders.line("train", i) for i in range(60)
    )
    assert sorted(found["test"].tobytes().decode().split("\n")) == sorted(
        builders.line("test", i) for i in range(20)
    )
    assert [len(found[s]) for s in DEALT] == [
        round(0.8 * len(whole)),
        *2 * [round(0.1 * len(whole))],
    ]
    assert {x.dtype for x in found.values()} == {np.dtype(np.uint8)}


def test_a_text_without_a_test_split(prepared):
    found = text("l2o_tale", prepared)
    whole = b"".join(found[s].tobytes() for s in SPLITS).decode()
    assert sorted(whole.split("\n")) == sorted(
        builders.line("train", i) for i in range(50)
    )
    assert len(found["test"]) == pytest.approx(0.1 * len(whole), abs=1)


def test_of_a_long_text_the_beginning_is_read(prepared, monkeypatch):
    whole = text("l2o_lines", prepared)
    monkeypatch.setattr(tfds, "TEXT_BYTES", 200)
    part = text("l2o_lines", prepared)
    assert [len(part[s]) for s in SPLITS] == [160, 20, 20, 200]
    beginning = b"".join(part[s].tobytes() for s in DEALT)
    assert beginning == whole["train"].tobytes()[:200]
    assert part["test"].tobytes() == whole["test"].tobytes()[:200]


def test_the_second_time_it_comes_from_the_cache(pictures, cache_dir, monkeypatch):
    first = images("l2o_pictures", pictures)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert_same(images("l2o_pictures", pictures), first)
    shutil.rmtree(pictures)
    assert_same(images("l2o_pictures", pictures), first)
    # What was cached of one directory is not there for another.
    with pytest.raises(ValueError, match="found no 'l2o_pictures' in "):
        tfds.load("l2o_pictures", data_dir=pictures / "other")
    (path,) = cache_dir.rglob("*.npz")
    assert path.name.startswith("l2o_pictures-")


def test_a_cached_text_is_a_text(prepared, monkeypatch):
    first = text("l2o_tale", prepared)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    again = text("l2o_tale", prepared)
    assert again.keys() == first.keys() == set(SPLITS)
    assert all(np.array_equal(again[s], first[s]) for s in SPLITS)


def test_a_damaged_cache_is_built_again(pictures, cache_dir):
    first = images("l2o_pictures", pictures)
    (path,) = cache_dir.rglob("*.npz")
    whole = path.read_bytes()
    place = whole.index(first.inputs["train"].tobytes())
    for damaged in (
        whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        whole[:place],
        b"",
    ):
        path.write_bytes(damaged)
        assert_same(images("l2o_pictures", pictures), first)
        assert len(path.read_bytes()) == len(whole)
        assert cache.read(path, None) is not None
    path.write_bytes(whole[:place])
    shutil.rmtree(pictures)
    with pytest.raises(ValueError, match="found no 'l2o_pictures' in "):
        tfds.load("l2o_pictures", data_dir=pictures)


def test_what_is_prepared_anew_is_read_anew(tmp_path, monkeypatch):
    first = tfds_prepare.prepare("l2o_pictures", tmp_path)
    old = images("l2o_pictures", tmp_path)
    shutil.rmtree(first)
    monkeypatch.setattr(builders.Pictures, "edition", 1)
    assert tfds_prepare.prepare("l2o_pictures", tmp_path) == first
    new = images("l2o_pictures", tmp_path)
    assert contents(new, "test") == written("test", 20, 3)
    assert contents(new, "test") != contents(old, "test")


def test_the_newest_version_is_read(pictures):
    root = pictures / "l2o_pictures"
    for version in ("0.9.0", "1.0.10", "1.0.9"):
        shutil.copytree(root / "1.0.0", root / version)
        info = root / version / "dataset_info.json"
        info.write_text(info.read_text().replace("1.0.0", version))
    for broken in ("0.9.0", "1.0.0", "1.0.9"):
        for shard in (root / broken).glob("*array_record*"):
            shard.unlink()
    (root / "2.0.0").mkdir()  # of a preparation that did not end
    found = images("l2o_pictures", pictures)
    assert contents(found, "test") == written("test", 20, 3)
    with pytest.raises(ValueError, match=r"l2o_pictures:1.0.9 must be readable, got "):
        tfds.load("l2o_pictures:1.0.9", data_dir=pictures)
    with pytest.raises(ValueError, match=r"found no 'l2o_pictures:3.0.0' in "):
        tfds.load("l2o_pictures:3.0.0", data_dir=pictures)


def test_a_cache_that_cannot_be_written_is_a_warning(pictures, cache_dir):
    cache_dir.write_text("mine")
    with pytest.warns(UserWarning, match="could not be written, l2o_pictures will be"):
        found = images("l2o_pictures", pictures)
    assert contents(found, "test") == written("test", 20, 3)
    assert cache_dir.read_text() == "mine"


def test_where_data_sets_are(pictures, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(pictures))
    assert len(images("l2o_pictures").labels["test"]) == 20
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f" in {tmp_path}/tensorflow_datasets; "):
        tfds.load("l2o_pictures")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10", "found no 'cifar10' in DIR; to prepare it: l2o prepare cifar10 "),
        ("cifar1", "in DIR (did you mean 'cifar10'?); to prepare it: "),
        ("imagenet_resized/8x9", "in DIR (did you mean 'imagenet_resized/8x8'?); "),
        ("l2o_picture", "in DIR (did you mean 'l2o_pictures'?); "),
        ("l2o_greys/deep", "in DIR (did you mean 'l2o_greys/"),
        ("zzz", "embedded (l2o list datasets) or prepared, found no 'zzz' in DIR; "),
        ("../x", "must be like NAME, NAME/CONFIG or NAME:VERSION, got '../x'"),
        ("a/..", "must be like NAME, NAME/CONFIG or NAME:VERSION, got 'a/..'"),
        ("l2o_various", "must have images of one shape in uint8, got (2, 3, 1) and "),
        ("l2o_vectors", "must be of text, or of images and a label, got ['x'], in DIR"),
        ("l2o_unlabelled", "must have labels in 0..2 in test, got -1..-1, in DIR"),
        ("l2o_few", "must have an example for every split, got 3 in all, in DIR"),
        ("l2o_testing", "must have a split train, got test, in DIR"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(prepared, cache_dir, name, message):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        tfds.load(name, data_dir=prepared)
    assert message.replace("DIR", str(prepared)) in str(caught.value)
    assert not cache_dir.exists()


def test_the_command_that_prepares_is_quoted(tmp_path):
    with pytest.raises(ValueError, match="prepared, found no") as caught:
        tfds.load("mnist", data_dir=tmp_path / "my data")
    command = f"l2o prepare mnist --data-dir '{tmp_path}/my data'"
    assert str(caught.value).endswith(command)


def rewrite_info(folder, **fields):
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut_in_half(folder):
    (path,) = folder.glob("*train*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(folder):
    (path,) = folder.glob("*train*")
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes(200) + whole[300:])


def add_to_info(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["61"]
    rewrite_info(folder, splits=info["splits"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: rewrite_info(f, fileFormat="parquet"), "array_record, DIR holds pa"),
        (lambda f: rewrite_info(f, fileFormat="tfrecord"), "DIR holds tfrecord; remov"),
        (lambda f: (f / "dataset_info.json").write_text("{"), "must describe a data "),
        (lambda f: (f / "features.json").write_text("{"), "must be readable, got "),
        (cut_in_half, "must be readable, got RuntimeError; remove DIR and prepare it "),
        (overwrite, "must be readable, got RuntimeError: Corrupted"),
        (add_to_info, "must have 61 records in train, found 60, in DIR"),
    ],
)
def test_damaged_files(pictures, damage, message):
    folder = pictures / "l2o_pictures" / "1.0.0"
    damage(folder)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        tfds.load("l2o_pictures", data_dir=pictures)
    assert message.replace("DIR", str(folder)) in str(caught.value)


def test_records_that_parquet_loses_are_not_missed(tmp_path):
    """If this fails, the library writes parquet well, and could be read."""
    library = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("pyarrow")
    library.builder(
        "l2o_lines", data_dir=tmp_path, file_format="parquet"
    ).download_and_prepare()
    with pytest.raises(
        ValueError, match=r"must be prepared as array_record, .* parquet"
    ):
        tfds.load("l2o_lines", data_dir=tmp_path)


def test_without_the_library(pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for use in (tfds.load, tfds_prepare.prepare):
        with pytest.raises(ValueError, match=r"need the extra data: pip install 'l2o"):
            use("l2o_pictures", data_dir=pictures / ("" if use is tfds.load else "x"))


def test_the_library_is_imported_when_it_is_needed():
    run_python(
        "import sys, tasks.data, tasks.data.tfds, tasks.data.tfds_prepare\n"
        "assert 'tensorflow_datasets' not in sys.modules"
    )


def test_what_is_prepared_is_left_as_it_is(pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    found = tfds_prepare.prepare("l2o_pictures", pictures)
    assert found == pictures / "l2o_pictures" / "1.0.0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar1", "of TensorFlow Datasets, got 'cifar1' (did you mean 'cifar10'?); "),
        ("digits", "l2o list datasets shows those that need no preparation"),
        ("imagenet_resized/9x9", "imagenet_resized/9x9 could not be prepared, got "),
        ("mnist", "to prepare mnist TensorFlow must be installed (not to read it): "),
        ("l2o_tensorflow", "to prepare l2o_tensorflow TensorFlow must be installed "),
        ("l2o_broken", "l2o_broken could not be prepared, got RuntimeError: no such "),
        ("a b", "must be like NAME, NAME/CONFIG or NAME:VERSION, got 'a b'"),
    ],
)
def test_what_cannot_be_prepared(tmp_path, monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        tfds_prepare.prepare(name, tmp_path / "data")
    assert message in str(caught.value)
    assert not list((tmp_path / "data").rglob("*.json"))


@pytest.fixture
def calls(monkeypatch):
    """Connections that are asked for; all of them fail."""
    made = []

    def create_connection(address, timeout):
        made.append((address, timeout))
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", create_connection)
    # As if TensorFlow were installed.
    monkeypatch.setattr(tfds_prepare, "_require_tensorflow", lambda name: None)
    for variable in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    return made


def test_without_a_network_it_fails_at_once(tmp_path, calls):
    with pytest.raises(OSError, match="to prepare cifar10 there must be a network, "):
        tfds_prepare.prepare("cifar10", tmp_path)
    ((address, timeout),) = calls
    assert (address[1], timeout) == (443, 3.0)
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_is_asked_in_place_of_the_host(tmp_path, calls, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    with pytest.raises(OSError, match=r"got proxy.test: \[Errno 101\] Network"):
        tfds_prepare.prepare("cifar10", tmp_path)
    assert [address for address, _ in calls] == [("proxy.test", 3128)]
