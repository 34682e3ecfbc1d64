"""Saving learned optimizers, and loading them by name or path."""

import datetime as dt
import os
import platform
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax

from l2o import __version__, config as configlib, released, storage, trees
from l2o.filesystem import resolved
from l2o.learned import ARCHITECTURES
from l2o.learned.base import LearnedOptimizer, Theta


_WRITTEN_HERE = ("architecture", "created", "sizes", "theta_sha256", "versions")


def save(
    path: str | os.PathLike[str],
    lopt: LearnedOptimizer,
    theta: Theta,
    *,
    overwrite: bool = False,
    **provenance: Any,
) -> None:
    """Writes a learned optimizer to a directory, all of it or nothing.

    Args:
        path: the directory to make, or an empty one; `gs://` as well.
        lopt: one of `ARCHITECTURES`.
        theta: meta-parameters of `lopt`.
        overwrite: replace the checkpoint that is at `path`, keeping its model card.
        **provenance: JSON-able facts for the manifest. Known ones: `name` (default: of
            the directory), `config` (a dataclass or mapping; `config_hash` is derived
            from it), `seed`, `compute` (a dict: hardware, hours, steps), `licence`
            (default: Apache-2.0). Any other is recorded as it is.

    Raises:
        FileExistsError: what is at `path` is not to be replaced.
        OSError: the disk is full or failing. What was at `path` is still there.
        TypeError: a fact cannot be written as JSON.
        ValueError: `theta` is not of `lopt`, or `lopt` of no known architecture, or a
            fact is one that the manifest states itself, or `path` is of a kind that
            cannot be written.
    """
    path = resolved(path)
    architecture = architecture_of(lopt)
    written_here = sorted(set(_WRITTEN_HERE) & set(provenance))
    if written_here:
        raise ValueError(f"provenance {written_here} is recorded by save itself")
    require_theta(lopt, theta)
    sizes = configlib.to_dict(lopt)
    # As `load` will: what it refuses is not worth writing.
    configlib.build(type(lopt), sizes, where=architecture)
    defaults = {
        "name": path.name,
        "config": None,
        "config_hash": None,
        "seed": None,
        "compute": {},
        "licence": "Apache-2.0",
    }
    facts = configlib.to_plain("provenance", defaults | provenance)
    if facts["config"] is not None:
        config_hash = configlib.config_hash(facts["config"])
        if facts["config_hash"] not in (None, config_hash):
            raise ValueError(
                f"config_hash must be that of config, {config_hash}, "
                f"got {facts['config_hash']!r}"
            )
        facts["config_hash"] = config_hash
    manifest = facts | {
        "architecture": architecture,
        "sizes": sizes,
        "num_meta_parameters": sum(x.size for x in jax.tree.leaves(theta)),
        "theta_sha256": theta_sha256(theta),
        "versions": _versions(),
        "created": dt.datetime.now(dt.UTC).date().isoformat(),
    }
    storage.write_tree(path, {"theta": theta}, manifest, overwrite=overwrite)


def load(name_or_path: str | os.PathLike[str]) -> tuple[LearnedOptimizer, Theta]:
    """Reads a released optimizer, or one that `save` wrote.

    Args:
        name_or_path: a released name, or the directory of a checkpoint, which may be
            in a bucket, `gs://`.

    Returns:
        `(lopt, theta)`; theta is on the default device, wherever it was trained.

    Raises:
        CheckpointError: there is no such optimizer, or it is damaged, or of an
            architecture that this version does not have.
        ConnectionError: a bucket cannot be reached.
        ValueError: a path is of a kind that cannot be read.
    """
    path = released.find(name_or_path)
    manifest = storage.read_manifest(path)
    for field in ("architecture", "sizes", "theta_sha256"):
        if field not in manifest:
            raise storage.CheckpointError(
                f"{path}: {storage.MANIFEST} must have the field {field} to be that of "
                "an optimizer, it has none"
            )
    architecture = str(manifest["architecture"])
    if architecture not in ARCHITECTURES:
        raise storage.CheckpointError(
            f"{path}: architecture must be one of {sorted(ARCHITECTURES)}, "
            f"got {architecture!r}"
        )
    try:
        lopt = configlib.build(
            ARCHITECTURES[architecture], manifest["sizes"], f"{path}: {architecture}"
        )
    except ValueError as error:
        raise storage.CheckpointError(str(error)) from error
    read, _ = storage.read_tree(path, {"theta": _abstract_theta(lopt)})
    if theta_sha256(read["theta"]) != manifest["theta_sha256"]:
        raise storage.CheckpointError(f"{path}: theta must have the recorded sha256")
    return lopt, jax.tree.map(jnp.asarray, read["theta"])


def optimizer(
    name_or_path: str | os.PathLike[str], num_steps: int | jax.Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """Returns a trained optimizer, ready to use as any other of optax.

    Args:
        name_or_path: a released name, or the directory of a checkpoint.
        num_steps: how many updates the training will make. Optimizers that schedule
            their steps by it must be given it.

    Raises:
        CheckpointError: as `load`.
        ValueError: `num_steps` is needed and missing.
    """
    lopt, theta = load(name_or_path)
    return lopt.with_theta(theta, num_steps=num_steps)


def theta_sha256(theta: Theta) -> str:
    """Hashes the paths, dtypes, shapes and bytes of theta's leaves, in path order."""
    return trees.sha256(trees.to_host(theta))


def architecture_of(lopt: LearnedOptimizer) -> str:
    """Returns the name of an architecture; raises ValueError where it has none."""
    for name, architecture in ARCHITECTURES.items():
        if type(lopt) is architecture:
            return name
    raise ValueError(
        f"a saved optimizer must be one of {sorted(ARCHITECTURES)}, "
        f"got {type(lopt).__name__}"
    )


def require_theta(lopt: LearnedOptimizer, theta: Theta) -> None:
    """Raises ValueError unless theta has the structure, shapes and dtypes of lopt's."""
    try:
        trees.require_same(list(trees.to_host(theta)), _abstract_theta(lopt))
    except ValueError as error:
        raise ValueError(f"theta is not {architecture_of(lopt)}'s: {error}") from error


def _abstract_theta(lopt: LearnedOptimizer) -> Theta:
    return jax.eval_shape(lopt.init_theta, jax.random.key(0))


def _versions() -> dict[str, str]:
    modules = (jax, jaxlib, np, optax)
    return {
        "l2o": __version__,
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in modules},
    }
