"""Many trainings as one compiled program, spread over all devices."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P

from meta_test.compilation import compiler_options
from meta_test.inner_loop import (
    Curve,
    Evaluated,
    Hyper,
    MakeOptimizer,
    Summarised,
    derive_keys,
    last_params,
    no_summary,
    run,
)
from tasks.base import Spec, TaskFamily


SIDE_BY_SIDE = 256
"""At most as many trainings are vmapped on an accelerator."""


def sweep(
    family: TaskFamily,
    specs: Spec,
    make_optimizer: MakeOptimizer,
    candidates: Hyper,
    seeds: Sequence[int] | np.ndarray,
    trials: np.ndarray,
    *,
    num_records: int,
    record_every: int,
    eval_batches: int,
    evaluations: int = 1,
    evaluated: Evaluated = last_params,
    summarised: Summarised = no_summary,
    hopeless: float = float("inf"),
    capacity: int = 0,
) -> Curve:
    """Trains chosen candidates at chosen seeds.

    Trials are dealt to the devices in turn. On CPUs, where a training alone runs at
    about the rate of many, each is a loop of its own, which ends when it is given up;
    its bits depend on nothing else in the sweep. On accelerators they are vmapped.

    It compiles once for the shapes of the family, the optimizer, `capacity`, and the
    numbers of candidates, seeds, records, evaluations and batches; data, candidates,
    trials and the length of the training are traced.

    Args:
        family: of the task; a traced pytree, so that its data are not constants.
        specs: the task of each seed, stacked on a leading axis.
        make_optimizer: gives the optax optimizer; static.
        candidates: stacked on a leading axis.
        seeds: `[seeds]` integers, or `[seeds, 4]`, as
            `meta_test.inner_loop.derive_keys` takes one.
        trials: `[trials, 2]` integers, which candidate at which of the seeds.
        num_records: as `meta_test.inner_loop.run`, and all below but the last.
        record_every: the same.
        eval_batches: the same.
        evaluations: the same.
        evaluated: the same.
        summarised: the same.
        hopeless: the same.
        capacity: of the program, for as many trials; at least their number.

    Returns:
        Curves with a leading axis `[trials]`, on the host.
    """
    devices = jax.local_devices()
    count = len(trials)
    places = max(count, capacity, 1)
    places += -places % len(devices)
    padded = np.concatenate([trials, np.zeros((places - count, 2), np.int32)])
    active = np.arange(places) < count
    # Shards are runs of neighbours: so that trial i goes to device i modulo their
    # number, those of one device are put beside each other.
    order = np.arange(places).reshape(-1, len(devices)).T.ravel()
    given = (
        family,
        specs,
        candidates,
        np.asarray(seeds, np.int32),
        padded[order].astype(np.int32),
        active[order],
        record_every,
        hopeless,
    )
    leaves, structure = jax.tree.flatten(given)
    shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    settings = (
        ("make_optimizer", make_optimizer),
        ("num_records", num_records),
        ("eval_batches", eval_batches),
        ("evaluations", evaluations),
        ("evaluated", evaluated),
        ("summarised", summarised),
    )
    curves = jax.device_get(_program(settings, structure, shapes)(*given))
    back = np.argsort(order)[:count]
    return jax.tree.map(lambda x: x[back], curves.unpack())


def run_grid(
    family: TaskFamily,
    specs: Spec,
    make_optimizer: MakeOptimizer,
    candidates: Hyper,
    seeds: Sequence[int],
    **settings: Any,
) -> Curve:
    """Trains every candidate at every seed.

    Args:
        family: as `sweep`, and the following.
        specs: the same.
        make_optimizer: the same.
        candidates: the same.
        seeds: the same.
        **settings: the same.

    Returns:
        Curves with leading axes `[candidates, seeds]`.
    """
    shape = len(jax.tree.leaves(candidates)[0]), len(seeds)
    trials = np.stack(np.unravel_index(np.arange(shape[0] * shape[1]), shape), axis=1)
    curves = sweep(family, specs, make_optimizer, candidates, seeds, trials, **settings)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), curves)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays"],
    meta_fields=["structure", "shapes"],
)
@dataclasses.dataclass(frozen=True)
class _Packed:
    """A tree with all numbers of one type in one array.

    A program is compiled sooner the fewer arrays it hands on.

    Attributes:
        arrays: `[..., n]` by the name of the type; trees side by side have axes in
            front.
        structure: of the tree.
        shapes: of its leaves, and the names of their types.
    """

    arrays: dict[str, jax.Array]
    structure: Any
    shapes: tuple[tuple[tuple[int, ...], str], ...]

    @classmethod
    def pack(cls, tree: Any) -> "_Packed":
        leaves, structure = jax.tree.flatten(tree)
        by_type: dict[str, list[jax.Array]] = {}
        for leaf in leaves:
            by_type.setdefault(leaf.dtype.name, []).append(leaf.reshape(-1))
        arrays = {name: jnp.concatenate(parts) for name, parts in by_type.items()}
        return cls(arrays, structure, tuple((x.shape, x.dtype.name) for x in leaves))

    def unpack(self) -> Any:
        begin = dict.fromkeys(self.arrays, 0)
        leaves = []
        for shape, name in self.shapes:
            end = begin[name] + math.prod(shape)
            part = self.arrays[name][..., begin[name] : end]
            leaves.append(part.reshape(*part.shape[:-1], *shape))
            begin[name] = end
        return jax.tree.unflatten(self.structure, leaves)


PROGRAMS = 32
"""So many compiled programs are kept. A suite may have hundreds, and on CPUs each takes
500 to 2,000 of the 65,530 pieces of memory that Linux lets a process map."""


# Its keys are shapes and settings, no arrays.
@functools.lru_cache(maxsize=PROGRAMS)  # noqa: TID251
def _program(
    settings: tuple[tuple[str, Any], ...], structure: Any, shapes: tuple[Any, ...]
) -> Callable[..., _Packed]:
    """A program of its own for every shape, so that it can be forgotten alone."""
    del structure, shapes
    return jax.jit(
        functools.partial(_sweep, **dict(settings)),
        compiler_options=compiler_options(),
    )


def _sweep(
    family: TaskFamily,
    specs: Spec,
    candidates: Hyper,
    seeds: jax.Array,
    trials: jax.Array,
    active: jax.Array,
    record_every: jax.Array,
    hopeless: jax.Array,
    **settings: Any,
) -> _Packed:
    make_optimizer = settings.pop("make_optimizer")

    # Traced once, for its shapes and for its code.
    @jax.jit
    def one(trial: jax.Array, given: tuple[Any, ...]) -> _Packed:
        family, specs, candidates, seeds, record_every, hopeless = given
        candidate, seed = trial
        curve = run(
            family,
            jax.tree.map(lambda x: x[seed], specs),
            make_optimizer,
            jax.tree.map(lambda x: x[candidate], candidates),
            derive_keys(seeds[seed]),
            record_every=record_every,
            hopeless=hopeless,
            **settings,
        )
        return _Packed.pack(curve)

    def on_device(trials: jax.Array, active: jax.Array, *given: Any) -> _Packed:
        like = jax.eval_shape(one, trials[0], given)

        def if_active(each: tuple[jax.Array, jax.Array]) -> _Packed:
            trial, needed = each
            blank = lambda trial: jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), like
            )
            return jax.lax.cond(needed, lambda trial: one(trial, given), blank, trial)

        together = 1 if jax.default_backend() == "cpu" else SIDE_BY_SIDE
        if together == 1:
            return jax.lax.map(if_active, (trials, active))
        return jax.lax.map(if_active, (trials, active), batch_size=together)

    spread = jax.shard_map(
        on_device,
        mesh=Mesh(np.asarray(jax.local_devices()), "trials"),
        in_specs=(P("trials"), P("trials"), P(), P(), P(), P(), P(), P()),
        out_specs=P("trials"),
        check_vma=False,
    )
    return spread(
        trials, active, family, specs, candidates, seeds, record_every, hopeless
    )
