"""Patches of ten photographs, 16x16 in colour: which photograph is it from?

About 6,400 patches of 10 classes, one a photograph. The photographs are free (CC0,
public domain, no known restrictions, or CC BY 2.0; NOTICE has each) and come with
scikit-image 0.26.0 and scikit-learn; the one of gravel is grey. They are cut to 4:3
about their middle and reduced to 256 x 192 by area averaging. Patches begin at every
eighth pixel.

Each photograph is divided by place, from left to right, into `train`, `inner_valid`,
`outer_valid` and `test`: no pixel is in two splits, and the test patches show parts of
the photographs that were never trained on. So there is a real gap between train and
test. Within a split, neighbours overlap by half. Patches of one colour (black space,
the surround of the retina) are left out: they are the same in several photographs.
"""

import functools
from collections.abc import Mapping

import numpy as np

from tasks.base import SPLITS, Split
from tasks.data.arrays import Examples
from tasks.data.packaged import read_packaged


SHA256 = "5b26e32ddbeea9141a9953331835d92432995b86c701e906545c5e1c2d3a3233"
SOURCE = "ten photographs of several people, from scikit-image 0.26.0 and scikit-learn"
LICENCE = "CC0, public domain or no known restrictions; two of them CC BY 2.0"
PHOTOS = (
    "astronaut",
    "chelsea",
    "china",
    "coffee",
    "flower",
    "gravel",
    "hubble",
    "immunohistochemistry",
    "retina",
    "rocket",
)
"""By class."""

SIZE = 16
STRIDE = 8
BANDS: Mapping[Split, tuple[int, int]] = {
    "train": (0, 152),
    "inner_valid": (152, 176),
    "outer_valid": (176, 200),
    "test": (200, 256),
}
"""The columns of each photograph that a split is cut from: first, and one past."""

LEAST_RANGE = 8
"""Grey levels between the least and the greatest value of some channel of a patch."""


@functools.cache
def load() -> Examples:
    """Cuts the patches, once per process.

    Returns:
        Inputs `[examples, 16, 16, 3]` uint8; labels are places in `PHOTOS`.

    Raises:
        ValueError: the packaged file is damaged.
    """
    photos = read_packaged("photo_patches.npz", SHA256)["photos"]
    cut = {s: _patches(photos[:, :, slice(*BANDS[s])]) for s in SPLITS}
    return Examples(
        inputs={s: cut[s][0] for s in SPLITS},
        labels={s: cut[s][1] for s in SPLITS},
        num_classes=len(PHOTOS),
    )


def _patches(bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The patches of `[photos, height, width, 3]` that have structure, and labels."""
    windows = np.lib.stride_tricks.sliding_window_view(bands, (SIZE, SIZE), (1, 2))
    grid = np.moveaxis(windows[:, ::STRIDE, ::STRIDE], 3, -1)
    patches = grid.reshape(-1, SIZE, SIZE, 3)
    labels = np.repeat(
        np.arange(len(bands), dtype=np.int32), len(patches) // len(bands)
    )
    kept = np.ptp(patches, axis=(1, 2)).max(axis=-1) >= LEAST_RANGE
    return patches[kept], labels[kept]
