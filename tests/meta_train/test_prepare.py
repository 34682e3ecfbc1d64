"""`l2o prepare`: data sets of TensorFlow Datasets from the command line."""

import json
import shlex
import socket

import pytest

from meta_train.cli import main
from meta_train.commands import files
from tasks import DATASETS
from tasks.data import tfds, tfds_prepare
from tasks.data.arrays import Examples


pytest.importorskip("tests.tasks.data.builders")


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("L2O_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    return tmp_path / "data"


def test_images_are_prepared_once(capsys, data_dir):
    command = ["prepare", "l2o_pictures", "--data-dir", str(data_dir)]
    where = f"{data_dir}/l2o_pictures/1.0.0"
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    sizes = {"train": 48, "inner_valid": 6, "outer_valid": 6, "test": 20}
    assert summary == {
        "name": "l2o_pictures",
        "directory": where,
        "kind": "images",
        "examples": sizes,
    }
    assert list(summary["examples"]) == list(sizes)
    assert "Generating train examples" in captured.err

    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == (
        f"{where}: images, train 48, inner_valid 6, outer_valid 6, test 20 examples\n"
    )
    assert captured.err == "l2o_pictures is already prepared\n"


def test_a_name_that_is_embedded_too(capsys, data_dir, monkeypatch):
    monkeypatch.setitem(files.DATASETS, "l2o_alone", DATASETS["digits"])
    assert main(["prepare", "l2o_alone", "--data-dir", str(data_dir)]) == 0
    line = "that of TensorFlow Datasets is l2o_alone:1.0.0\n"
    assert line in capsys.readouterr().err
    assert tfds.load("l2o_alone:1.0.0", data_dir=data_dir)


def test_the_command_of_the_error_prepares(capsys, tmp_path):
    with pytest.raises(ValueError, match="prepared, found no 'l2o_lines'") as caught:
        tfds.load("l2o_lines")
    command = shlex.split(str(caught.value).rpartition("prepare it: l2o ")[2])
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/default/l2o_lines/1.0.0: ")
    found = tfds.load("l2o_lines")
    assert not isinstance(found, Examples)
    assert found["test"].tobytes().count(b"so it goes") == 30


def test_without_a_network(capsys, data_dir, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(tfds_prepare, "_require_tensorflow", lambda name: None)
    assert main(["prepare", "mnist", "--data-dir", str(data_dir)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("l2o: error: to prepare mnist there must be a network, got ")
    assert not data_dir.exists()
