"""Two English texts as bytes.

| name | bytes | what |
|---|---|---|
| kjv | 1,000,000 | the King James Bible, from Genesis on, a verse a line |
| python_topics | 466,195 | what `help()` of CPython 3.11.7 says of the language |

kjv: the first million bytes of the translation of 1611, in the public domain (in the
United Kingdom under letters patent of the Crown), from Debian's bible-kjv-text 4.38,
without verse numbers. python_topics: the texts of `pydoc_data.topics`, in its order,
joined by newlines, as UTF-8; PSF-2.0. A copy, because Python's own differs from version
to version.

The splits are contiguous, in the order train, inner_valid, outer_valid, test.
"""

import functools
from collections.abc import Mapping

from tasks.base import Split
from tasks.data.arrays import Passages, deal_text
from tasks.data.packaged import read_packaged


SHA256: Mapping[str, str] = {
    "kjv": "74ce2ad64e8c8ba9a60de91c5fc1ca103ee24bc6ade4e9c4af928ea3e5bfb0db",
    "python_topics": "dd4a707f835dc41b84c83e063a1a45e6f095ccf011bbed03784129141dd35ec7",
}
SOURCES: Mapping[str, str] = {
    "kjv": "King James Bible (1611), first million bytes, from Debian",
    "python_topics": "Python Software Foundation, pydoc_data.topics of CPython 3.11.7",
}
LICENCES: Mapping[str, str] = {
    "kjv": "public domain",
    "python_topics": "PSF-2.0",
}
SHARES: Mapping[Split, float] = {
    "train": 0.7,
    "inner_valid": 0.1,
    "outer_valid": 0.1,
    "test": 0.1,
}


@functools.cache
def kjv() -> Passages:
    """The beginning of the King James Bible."""
    return _load("kjv")


@functools.cache
def python_topics() -> Passages:
    """Python's help on the language."""
    return _load("python_topics")


def _load(name: str) -> Passages:
    text = read_packaged(f"{name}.npz", SHA256[name])["text"]
    return deal_text(text.tobytes(), SHARES)
