from importlib import resources

import numpy as np
import pytest

from tasks.base import SPLITS, Split
from tasks.data import digits, text
from tasks.data.packaged import in_order, read_packaged
from tests.helpers import ROOT


FILES = ROOT / "tasks/data/files"
NAMES = sorted(file.name for file in FILES.iterdir())


@pytest.mark.parametrize("load", [digits.load, text.kjv])
def test_a_damaged_file_is_refused_in_one_line(load, tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    for name in ("digits.npz", "kjv.npz"):
        content = (FILES / name).read_bytes()
        (tmp_path / "files" / name).write_bytes(content + b"\0")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    rule = r"^(digits|kjv)\.npz must have sha256 [0-9a-f]{64}, found .*reinstall l2o$"
    with pytest.raises(ValueError, match=rule) as error:
        load.__wrapped__()
    assert "\n" not in str(error.value)


def test_the_files_are_no_more_than_6_megabytes():
    assert sum((FILES / name).stat().st_size for name in NAMES) < 6e6


@pytest.mark.parametrize("name", NAMES)
def test_every_file_has_its_licence_in_notice(name):
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert f"tasks/data/files/{name}\n" in notice


def test_arrays_come_by_name():
    arrays = read_packaged("digits.npz", digits.SHA256)
    assert {name: a.shape for name, a in arrays.items()} == {
        "images": (1797, 8, 8),
        "labels": (1797,),
    }


SIZES: dict[Split, int] = {"train": 3, "inner_valid": 1, "outer_valid": 2, "test": 1}


def test_examples_in_order_keep_their_order():
    data = in_order(np.arange(7) * 10, np.arange(7), 7, SIZES)
    labels = [data.labels[s].tolist() for s in SPLITS]
    assert labels == [[0, 1, 2], [3], [4, 5], [6]]
    assert data.inputs["outer_valid"].tolist() == [40, 50]


def test_sizes_must_be_of_all_examples():
    with pytest.raises(ValueError, match=r"^the splits must hold all 8 examples, got"):
        in_order(np.zeros(8), np.zeros(8), 1, SIZES)
