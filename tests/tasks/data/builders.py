"""Small data sets in the form of TensorFlow Datasets, written without TensorFlow."""

import io
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image


library: Any = pytest.importorskip("tensorflow_datasets")
features = library.features


def picture(split, place, shape=(4, 5, 3)):
    """The pixels of an example; no two are equal."""
    seed = [len(split), place, Pictures.edition]
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, "png")
    return stream.getvalue()


def line(split, place):
    return f"{split} {place} " + "so it goes " * (place % 4)


with library.core.registered.skip_registration():

    class Small(library.core.GeneratorBasedBuilder):
        """A number of records a split."""

        VERSION = library.core.Version("1.0.0")
        COUNTS: ClassVar = {"train": 60, "test": 20}
        FEATURES: ClassVar = {}
        SUPERVISED = None

        def _info(self):
            return library.core.DatasetInfo(
                builder=self,
                features=features.FeaturesDict(self.FEATURES),
                supervised_keys=self.SUPERVISED,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in self.COUNTS}

        def _generate_examples(self, split):
            for place in range(self.COUNTS[split]):
                yield place, self.record(split, place)


class Pictures(Small):
    """Colour images, 3 classes, with a test split."""

    name = "l2o_pictures"
    edition = 0
    SUPERVISED = ("image", "label")
    FEATURES: ClassVar = {
        "id": features.Text(),
        "image": features.Image(shape=(4, 5, 3)),
        "label": features.ClassLabel(num_classes=3),
    }

    def record(self, split, place):
        image = png(picture(split, place))
        return {"id": f"{split}{place}", "image": image, "label": place % 3}


class Greys(Small):
    """Grey images in configs, of unknown size, with a validation split."""

    name = "l2o_greys"
    COUNTS: ClassVar = {"train": 30, "validation": 10}
    BUILDER_CONFIGS: ClassVar = [
        library.core.BuilderConfig(name="wide", version="1.0.0"),
        library.core.BuilderConfig(name="high", version="1.0.0"),
    ]
    FEATURES: ClassVar = {
        "image": features.Image(shape=(None, None, 1)),
        "label": features.ClassLabel(num_classes=2),
    }

    def record(self, split, place):
        shape = {"wide": (2, 6, 1), "high": (6, 2, 1)}[self.builder_config.name]
        return {"image": png(picture(split, place, shape)), "label": place % 2}


class Alone(Pictures):
    """No split but train."""

    name = "l2o_alone"
    COUNTS: ClassVar = {"train": 40}


class Lines(Small):
    """A text in lines, with a test split."""

    name = "l2o_lines"
    SUPERVISED = ("text", "text")
    FEATURES: ClassVar = {"text": features.Text()}

    def record(self, split, place):
        return {"text": line(split, place)}


class Tale(Lines):
    """A text without a split to test on, and without supervised keys."""

    name = "l2o_tale"
    COUNTS: ClassVar = {"train": 50}
    SUPERVISED = None


class Various(Greys):
    """Images of various sizes."""

    name = "l2o_various"
    BUILDER_CONFIGS: ClassVar = []

    def record(self, split, place):
        return {"image": png(picture(split, place, (2, 3 + place % 2, 1))), "label": 0}


class Vectors(Small):
    """Neither images nor text."""

    name = "l2o_vectors"
    FEATURES: ClassVar = {"x": features.Tensor(shape=(2,), dtype=np.float32)}

    def record(self, split, place):
        return {"x": np.zeros(2, np.float32)}


class Unlabelled(Pictures):
    """A test split without labels."""

    name = "l2o_unlabelled"

    def record(self, split, place):
        label = -1 if split == "test" else 0
        return super().record(split, place) | {"label": label}


class Few(Pictures):
    """Too few for splits."""

    name = "l2o_few"
    COUNTS: ClassVar = {"train": 3}


class Testing(Pictures):
    """No split to train on."""

    name = "l2o_testing"
    COUNTS: ClassVar = {"test": 10}


class Broken(Pictures):
    """Cannot be prepared."""

    name = "l2o_broken"

    def record(self, split, place):
        raise RuntimeError("no such page\nsee elsewhere")


class Tensorflow(Pictures):
    """Cannot be prepared without TensorFlow."""

    name = "l2o_tensorflow"

    def record(self, split, place):
        raise ModuleNotFoundError("No module named 'tensorflow'")
