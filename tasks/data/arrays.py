"""Data sets on the host, and as device arrays that batches are gathered from."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tasks.base import SPLITS, Split, number_of


class Examples(NamedTuple):
    """A labelled data set on the host, in disjoint splits."""

    inputs: Mapping[Split, np.ndarray]  # [examples, ...] float32, or uint8 for 0..1
    labels: Mapping[Split, np.ndarray]  # [examples] integers in range(num_classes)
    num_classes: int


Passages = Mapping[Split, np.ndarray]
"""A text on the host, in disjoint splits: per split its bytes, `[length]` uint8."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labelled examples of one or more data sets of one shape; a pytree.

    The data sets lie one after another, so that which of them a batch is drawn from may
    be traced: tasks on different data share one program.

    Attributes:
        inputs: per split, `[examples, ...]` float32, or uint8 that stand for 0..1.
        labels: per split, `[examples]` int32 in `range(num_classes)`.
        num_classes: number of classes; static.
        names: of the data sets; static.
        counts: per split, in the order of `SPLITS`, the examples of each data set.
    """

    inputs: dict[Split, jax.Array]
    labels: dict[Split, jax.Array]
    num_classes: int = dataclasses.field(metadata={"static": True})
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    counts: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return self.inputs["train"].shape[1:]

    def flat(self) -> "Labelled":
        """The same examples as vectors `[features]`."""
        return dataclasses.replace(
            self, inputs={s: x.reshape(len(x), -1) for s, x in self.inputs.items()}
        )

    def draw(
        self, key: jax.Array, split: Split, size: int, source: jax.Array | int = 0
    ) -> jax.Array:
        """Draws the places of `size` examples of `split` with replacement.

        Args:
            key: the same key draws the same examples.
            split: which part of the data.
            size: number of examples.
            source: which of the data sets; may be traced.

        Returns:
            `[size]` int32, places in the arrays of that split.
        """
        return draw_places(key, size, self.counts[number_of(split)], source)

    def take(self, split: Split, places: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The examples at `places` `[size]`: float32 inputs `[size, ...]`, labels."""
        inputs = self.inputs[split][places]
        if inputs.dtype == jnp.uint8:
            inputs = inputs.astype(jnp.float32) / 255.0
        return inputs, self.labels[split][places]

    def batch(
        self, key: jax.Array, split: Split, size: int, source: jax.Array | int = 0
    ) -> tuple[jax.Array, jax.Array]:
        """Draws `size` examples: float32 inputs `[size, ...]` and labels `[size]`."""
        return self.take(split, self.draw(key, split, size, source))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Text:
    """One or more texts as bytes; a pytree.

    Attributes:
        tokens: per split, `[length]` uint8, the texts one after another.
        names: of the texts; static.
        counts: per split, in the order of `SPLITS`, the bytes of each text.
    """

    tokens: dict[Split, jax.Array]
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    counts: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})

    def batch(
        self,
        key: jax.Array,
        split: Split,
        size: int,
        length: int,
        source: jax.Array | int = 0,
    ) -> jax.Array:
        """Draws `size` passages of `length` bytes with replacement.

        Args:
            key: the same key draws the same passages.
            split: which part of the texts.
            size: number of passages.
            length: of a passage, in bytes; no longer than any text's part.
            source: which of the texts; may be traced.

        Returns:
            `[size, length]` int32 in 0..255.
        """
        counts = self.counts[number_of(split)]
        starts = tuple(count - length + 1 for count in counts)
        if min(starts) < 1:
            raise ValueError(
                f"a passage must fit into the {split} part of every text, "
                f"got {length} bytes of {min(counts)}"
            )
        start = draw_places(key, size, starts, source, counts)
        places = start[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
        return self.tokens[split][places].astype(jnp.int32)


def draw_places(
    key: jax.Array,
    size: int,
    counts: tuple[int, ...],
    source: jax.Array | int = 0,
    strides: tuple[int, ...] | None = None,
) -> jax.Array:
    """Random places in one of several data sets that lie one after another.

    Args:
        key: the same key draws the same places.
        size: how many; drawn with replacement.
        counts: places to draw from in each data set.
        source: which of the data sets; may be traced.
        strides: lengths of the data sets; by default `counts`.

    Returns:
        `[size]` int32.
    """
    # Half the work of randint, whose second draw evens out what the remainder favours:
    # here by less than one in a thousand for up to 4 million examples.
    bits = jax.random.bits(key, (size,), jnp.uint32)
    if len(counts) == 1:
        return (bits % jnp.uint32(counts[0])).astype(jnp.int32)
    offsets = jnp.asarray([0, *np.cumsum(strides or counts)[:-1].tolist()], jnp.int32)
    count = jnp.asarray(counts, jnp.uint32)[source]
    return offsets[source] + (bits % count).astype(jnp.int32)


def on_device(sources: Mapping[str, Examples]) -> Labelled:
    """Brings data sets of one shape to the device.

    Args:
        sources: by name.

    Raises:
        ValueError: they differ in the shape of an example or the number of classes.
    """
    first, *others = sources.values()
    for name, other in sources.items():
        if _form(other) != _form(first):
            raise ValueError(
                "data sets of one family must agree in shape and number of classes, "
                f"got {_form(first)} for {next(iter(sources))} and {_form(other)} "
                f"for {name}"
            )
    everything = [first, *others]

    def joined(arrays: Sequence[np.ndarray], dtype: Any) -> jax.Array:
        return jnp.asarray(np.concatenate(arrays), dtype)

    kind = np.result_type(*(e.inputs["train"].dtype for e in everything))
    if kind != np.uint8:
        kind = np.dtype(np.float32)
    return Labelled(
        inputs={
            s: joined([_as(kind, e.inputs[s]) for e in everything], kind)
            for s in SPLITS
        },
        labels={
            s: joined([np.asarray(e.labels[s]) for e in everything], jnp.int32)
            for s in SPLITS
        },
        num_classes=first.num_classes,
        names=tuple(sources),
        counts=tuple(tuple(len(e.labels[s]) for e in everything) for s in SPLITS),
    )


def texts_on_device(sources: Mapping[str, Passages]) -> Text:
    """Brings texts to the device.

    Args:
        sources: by name.
    """
    return Text(
        tokens={
            s: jnp.asarray(np.concatenate([t[s] for t in sources.values()]), jnp.uint8)
            for s in SPLITS
        },
        names=tuple(sources),
        counts=tuple(tuple(len(t[s]) for t in sources.values()) for s in SPLITS),
    )


def _form(examples: Examples) -> tuple[tuple[int, ...], int]:
    return examples.inputs["train"].shape[1:], examples.num_classes


def _as(kind: np.dtype, inputs: np.ndarray) -> np.ndarray:
    """Inputs as `kind`: bytes beside floats become 0..1."""
    if inputs.dtype == np.uint8 and kind != np.uint8:
        return inputs.astype(np.float32) / np.float32(255.0)
    return inputs


def deal(
    inputs: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    fractions: Mapping[Split, float],
    seed: int,
) -> Examples:
    """Deals examples to splits by one fixed permutation.

    Args:
        inputs: `[examples, ...]`.
        labels: `[examples]`.
        num_classes: number of classes.
        fractions: share of each split; they sum to 1.
        seed: of the permutation; the splits are part of what a result means.

    Returns:
        The examples of every split.
    """
    parts = deal_places(len(inputs), fractions, seed)
    return Examples(
        inputs={s: inputs[i] for s, i in parts.items()},
        labels={s: labels[i] for s, i in parts.items()},
        num_classes=num_classes,
    )


def deal_places(
    count: int, fractions: Mapping[Split, float], seed: int
) -> dict[Split, np.ndarray]:
    """Deals the numbers below `count` to splits by one fixed permutation."""
    return _cut(np.random.default_rng(seed).permutation(count), fractions)


def deal_text(text: bytes, fractions: Mapping[Split, float]) -> Passages:
    """Cuts a text into one contiguous part a split, in the order of `SPLITS`."""
    return _cut(np.frombuffer(text, np.uint8), fractions)


def _cut(
    things: np.ndarray, fractions: Mapping[Split, float]
) -> dict[Split, np.ndarray]:
    shares = [fractions[s] for s in SPLITS]
    if not math.isclose(sum(shares), 1.0) or min(shares) <= 0:
        raise ValueError(f"the shares of splits must sum to 1, got {dict(fractions)}")
    cuts = np.round(np.cumsum(shares) * len(things)).astype(int)[:-1]
    return dict(zip(SPLITS, np.split(things, cuts), strict=True))
