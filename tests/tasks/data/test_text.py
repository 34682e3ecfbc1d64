import numpy as np
import pytest

from tasks.base import SPLITS
from tasks.data import text
from tasks.data.packaged import read_packaged


LENGTHS = {
    "kjv": (700_000, 100_000, 100_000, 100_000),
    "python_topics": (326_336, 46_620, 46_619, 46_620),
}


def whole(name):
    parts = getattr(text, name)()
    return np.concatenate([parts[s] for s in SPLITS]).tobytes()


@pytest.mark.parametrize("name", LENGTHS)
def test_splits_have_the_published_lengths(name):
    parts = getattr(text, name)()
    assert tuple(len(parts[s]) for s in SPLITS) == LENGTHS[name]
    assert {part.dtype for part in parts.values()} == {np.dtype(np.uint8)}


def test_kjv_begins_at_the_beginning_and_has_no_verse_numbers():
    content = whole("kjv")
    assert content.startswith(
        b"In the beginning God created the heaven and the earth.\n"
    )
    assert not any(digit in content for digit in b"0123456789")


def test_python_topics_are_text_of_several_topics():
    content = whole("python_topics").decode("utf-8")
    assert content.startswith('The "assert" statement\n')
    for topic in ("import", "try", "with", "while"):
        assert f'The "{topic}" statement\n' in content


@pytest.mark.parametrize("name", LENGTHS)
def test_the_splits_in_order_are_the_whole_text(name):
    packaged = read_packaged(f"{name}.npz", text.SHA256[name])["text"]
    assert whole(name) == packaged.tobytes()
