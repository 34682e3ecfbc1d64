"""Which trainings converge, over two hyper-parameters: what `l2o map` computes."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from l2o.config import require_positive_int
from meta_test.fractal import (
    Dimension,
    boundary,
    box_dimension,
    nearest_point,
    richest,
)
from meta_test.inner_loop import (
    MakeOptimizer,
    begin_training,
    derive_keys,
    training_step,
)
from meta_test.trainability_axes import INIT_SCALE, Axis, Subject
from tasks.base import Spec, TaskFamily


LARGEST = 1e6
"""A loss counts as at most so many times the first one, and as at least 1 / it."""

LAST = 20
"""Of so many last losses the mean says whether a training converged."""

# Blocks of trainings that are stepped together: on a CPU they then stay in its cache.
_BLOCK = 32
# So many blocks a device does between two looks at what comes of them.
_BLOCKS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class TrainabilityMap:
    r"""A grid of trainings that differ in two hyper-parameters and nothing else.

    All have the same initial parameters, but for their scale, and the same batches. Let
    $L_t$ be the loss before step t = 0, ..., T - 1, on one batch of training data that
    is the same at every step, and

    $$ r_t = \min\left(\max\left(L_t / L_0, \tfrac1M\right), M\right) $$

    or M where $L_t$ or $L_0$ is not finite, with M = `LARGEST`. A training *converged*
    if all its losses are finite and the mean of the last `LAST` $r_t$ (of all, where
    there are fewer) is below 1. How fast it was is a sum,

    $$ \sum_t r_t \ \text{if it converged}, \qquad
       \sum_t \frac1{r_t} \ \text{if not:} $$

    small for a training that soon fits, and for one that diverges at once. Pixels are
    `[row, column]`: rows go up with y, columns with x.

    Attributes:
        optimizer: name of it.
        task: name of the family.
        x: the axis of the columns.
        y: the axis of the rows.
        steps: T.
        converged: bool; False where nothing was trained yet.
        sums: float32; NaN where nothing was trained yet.
        finite: bool, whether all losses were.
        fixed: numbers by name that all trainings share, and that could be an axis.

    Source: Sohl-Dickstein 2024, "The boundary of neural network trainability is
    fractal", arXiv 2402.06184, and its published code, whose loss is that of all data,
    whose axes are other hyper-parameters, and which bounds ratios from above only.
    """

    optimizer: str
    task: str
    x: Axis
    y: Axis
    steps: int
    converged: np.ndarray
    sums: np.ndarray
    finite: np.ndarray
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def trained(self) -> np.ndarray:
        """Where something was trained: everywhere, on a map that is whole."""
        return ~np.isnan(self.sums)

    @property
    def share_converged(self) -> float:
        """Of the trainings so far; NaN where there are none."""
        done = self.trained.sum()
        return float(self.converged.sum() / done) if done else math.nan

    @property
    def dimension(self) -> Dimension | None:
        """Of the boundary between the trainings that converged and the others.

        None where the map is not whole or has hardly any boundary.
        """
        if not self.trained.all():
            return None
        return box_dimension(boundary(self.converged))


class _Pixels(NamedTuple):
    """What comes of trainings; leading axes are theirs."""

    converged: jax.Array
    sums: jax.Array
    finite: jax.Array
    first: jax.Array  # loss


def explore(
    family: TaskFamily,
    subject: Subject,
    x: Axis,
    y: Axis,
    *,
    size: int = 128,
    steps: int = 100,
    seed: int = 0,
    frames: int = 1,
    factor: float = 2.0,
    at: tuple[float, float] | None = None,
) -> Iterator[tuple[TrainabilityMap, ...]]:
    """Computes a map, or a zoom of several, piece by piece.

    Every frame of a zoom is `factor` times narrower than the one before, in the
    logarithm of both axes, inside of it, and around one of its boundary pixels: that
    nearest to the point `at`, and from the second frame on nearest to the middle; or
    without a point, that of `meta_test.fractal.richest`. A zoom ends early at a frame
    without a boundary.

    One program trains all pixels of all frames, in blocks spread over the devices,
    whose number does not matter to the result.

    Args:
        family: of the task; its nominal task is trained.
        subject: the optimizer.
        x: the horizontal axis; another one than `y`.
        y: the vertical axis.
        size: pixels along each side.
        steps: of each training.
        seed: of the initial parameters and the batches, as in
            `meta_test.inner_loop.derive_keys`.
        frames: number of maps.
        factor: by which each frame is narrower; above 1 and at most `size / 4`.
        at: x and y of what is zoomed to.

    Yields:
        The frames so far, the last of which may not be whole: first with nothing
        trained yet, when the program is compiled, and then after every piece.

    Raises:
        ValueError: a number is out of its range, an axis is not one of the subject's,
            neighbouring values of an axis would be the same in float32 in the last
            frame, or, on the way, a task's first loss is not above 0.
    """
    for name, value in (("size", size), ("steps", steps), ("frames", frames)):
        require_positive_int(name, value)
    if x.name == y.name:
        raise ValueError(f"the axes must differ, got {x.name} twice")
    for axis in (x, y):
        subject.axis(axis.name, "an axis")
        axis.require_distinct(size)
    if frames > 1 and not 1.0 < factor <= size / 4:
        raise ValueError(
            "the factor of a zoom must be above 1 and at most "
            f"size / 4 = {size / 4:g}, got {factor:g}"
        )
    for axis in (x, y):
        axis.require_distinct(size, factor ** (frames - 1))
    if at is not None:
        for axis, value in zip((x, y), at, strict=True):
            if not axis.low <= value <= axis.high:
                raise ValueError(
                    f"a point to zoom to must be on the map, {axis.name} of it in "
                    f"{axis.low:g}..{axis.high:g}, got {value:g}"
                )
    return _frames(family, subject, x, y, size, steps, seed, frames, factor, at)


def _frames(
    family: TaskFamily,
    subject: Subject,
    x: Axis,
    y: Axis,
    size: int,
    steps: int,
    seed: int,
    frames: int,
    factor: float,
    at: tuple[float, float] | None,
) -> Iterator[tuple[TrainabilityMap, ...]]:
    maps: list[TrainabilityMap] = []
    for _ in range(frames):
        before = maps
        for found in _growing(family, subject, x, y, size, steps, seed):
            maps = [*before, found]
            yield tuple(maps)
        edge = boundary(maps[-1].converged)
        if not edge.any():
            return
        if at is None:
            row, column = richest(edge)
        else:
            place = lambda axis, value: size * axis.place(value) - 1.0
            row, column = nearest_point(edge, place(y, at[1]), place(x, at[0]))
        # The corner between pixels on either side.
        x = x.zoomed((column + 1.0) / size, factor)
        y = y.zoomed((row + 1.0) / size, factor)
        at = at and (x.value(0.5), y.value(0.5))


def _growing(
    family: TaskFamily,
    subject: Subject,
    x: Axis,
    y: Axis,
    size: int,
    steps: int,
    seed: int,
) -> Iterator[TrainabilityMap]:
    """One map, first with nothing on it and then after every piece."""
    columns, rows = np.meshgrid(x.values(size), y.values(size))
    points = np.stack([columns.ravel(), rows.ravel()], axis=-1)
    pieces = -(-len(points) // (_BLOCKS * _BLOCK))
    devices = jax.local_devices()[:pieces]
    mesh = jax.make_mesh(
        (len(devices),), ("pixels",), axis_types=(AxisType.Auto,), devices=devices
    )
    together = len(devices) * _BLOCKS * _BLOCK
    # What is too much repeats the last pixel.
    padded = np.pad(points, ((0, -len(points) % together), (0, 0)), mode="edge")
    everywhere = NamedSharding(mesh, P())
    family, fixed = jax.device_put((family, dict(subject.fixed)), everywhere)
    train = functools.partial(
        _train, family, subject.make, fixed, (x.name, y.name), mesh=mesh
    )

    converged, finite = np.zeros(size**2, bool), np.zeros(size**2, bool)
    sums = np.full(size**2, np.nan, np.float32)

    def so_far() -> TrainabilityMap:
        square = lambda pixels: pixels.reshape(size, size).copy()
        return TrainabilityMap(
            optimizer=subject.name,
            task=type(family).__name__,
            x=x,
            y=y,
            steps=steps,
            converged=square(converged),
            sums=square(sums),
            finite=square(finite),
            fixed={
                name: float(subject.fixed[name])
                for name in subject.ranges
                if name in subject.fixed and name not in (x.name, y.name)
            },
        )

    # Of no steps: it compiles.
    jax.block_until_ready(train(padded[:together], seed, 0))
    yield so_far()
    for first in range(0, len(points), together):
        piece = slice(first, min(first + together, len(points)))
        found = jax.device_get(train(padded[first : first + together], seed, steps))
        found = _Pixels(*(leaf[: piece.stop - first] for leaf in found))
        if (found.first <= 0).any():
            worst = int(np.argmin(found.first))
            a, b = points[first + worst]
            raise ValueError(
                "a map needs a task whose first loss is above 0, got "
                f"{found.first[worst]:g} at {x.name} {a:g} and {y.name} {b:g}"
            )
        converged[piece], sums[piece] = found.converged, found.sums
        finite[piece] = found.finite
        yield so_far()


@functools.partial(jax.jit, static_argnames=("make", "names", "mesh"))
def _train(
    family: TaskFamily,
    make: MakeOptimizer,
    fixed: Mapping[str, Any],
    names: tuple[str, str],
    points: jax.Array,
    seed: jax.Array | int,
    steps: jax.Array | int,
    *,
    mesh: Mesh,
) -> _Pixels:
    """Trains at each of the points `[trainings, 2]`, of x and y."""

    def on_device(
        family: TaskFamily,
        fixed: Mapping[str, Any],
        points: jax.Array,
        seed: jax.Array,
        steps: jax.Array,
    ) -> _Pixels:
        spec = family.nominal()

        def one(point: jax.Array) -> _Pixels:
            settings = dict(zip(names, point, strict=True))
            return _pixel(family, spec, make, {**fixed, **settings}, seed, steps)

        return jax.lax.map(one, points, batch_size=_BLOCK)

    here, everywhere = P("pixels"), P()
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(everywhere, everywhere, here, everywhere, everywhere),
        out_specs=here,
        check_vma=False,
    )(family, fixed, points, jnp.asarray(seed), jnp.asarray(steps))


def _pixel(
    family: TaskFamily,
    spec: Spec,
    make: MakeOptimizer,
    hyper: Mapping[str, Any],
    seed: jax.Array,
    steps: jax.Array,
) -> _Pixels:
    """Trains once."""
    settings = dict(hyper)
    scale = settings.pop(INIT_SCALE, jnp.float32(1.0))
    task, keys = family.task(spec), derive_keys(seed)
    init = lambda key: jax.tree.map(
        lambda p: (scale * p).astype(p.dtype), task.init(key)
    )
    tx = optax.with_extra_args_support(make(settings, steps))
    start = begin_training(dataclasses.replace(task, init=init), tx, keys)
    # Losses of different batches differ by more than a slow training changes them.
    batch_key, loss_key = jax.random.split(keys.evaluation)
    batch = task.batch(batch_key, "train")

    def step(count: jax.Array, carry: Any) -> Any:
        training, first, finite, total, inverse, last = carry
        loss, _ = task.loss(training.params, loss_key, batch)
        training, _, _ = training_step(task, tx, keys, count, training)
        first = jnp.where(count == 0, loss, first)
        finite &= jnp.isfinite(loss) & jnp.isfinite(first)
        ratio = jnp.where(
            jnp.isfinite(loss) & jnp.isfinite(first),
            jnp.clip(loss / first, 1.0 / LARGEST, LARGEST),
            LARGEST,
        )
        last += jnp.where(count >= steps - LAST, ratio, 0.0)
        return training, first, finite, total + ratio, inverse + 1.0 / ratio, last

    zero = jnp.zeros(())
    _, first, finite, total, inverse, last = jax.lax.fori_loop(
        0, steps, step, (start, zero, jnp.array(True), zero, zero, zero)
    )
    converged = finite & (last < jnp.minimum(steps, LAST))
    return _Pixels(converged, jnp.where(converged, total, inverse), finite, first)


def as_text(found: TrainabilityMap) -> str:
    """What a map says in numbers, in a line."""
    done = int(found.trained.sum())
    if not done:
        return "nothing was trained"
    text = f"{done:,} trainings, {100 * found.share_converged:.3g} % converged"
    dimension = found.dimension
    if dimension is None:
        return text
    value, error = dimension.value, dimension.standard_error
    return f"{text}, dimension of the boundary {value:.2f} ± {error:.2f}"


def as_json(found: TrainabilityMap) -> dict[str, Any]:
    """What a map says in numbers, as a tree that strict JSON can hold."""
    dimension, whole = found.dimension, bool(found.trained.all())
    done = int(found.trained.sum())
    return {
        "x": dataclasses.asdict(found.x),
        "y": dataclasses.asdict(found.y),
        "fixed": dict(found.fixed),
        "trainings": done,
        "share_converged": found.share_converged if done else None,
        "not_finite": done - int((found.finite & found.trained).sum()),
        "boundary_pixels": int(boundary(found.converged).sum()) if whole else None,
        "dimension": dimension and dimension.value,
        "dimension_error": dimension and dimension.standard_error,
    }
