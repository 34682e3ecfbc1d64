"""Losses that are not finite."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import l2o
from l2o.checkpoint import theta_sha256
from l2o.storage import read_tree
from meta_train.bench.faults.lab import Lab, Layout, Variant, last_line, state_of
from meta_train.bench.faults.tally import Tally
from meta_train.directory import RunDirectory


def some_particles(lab: Lab, trials: int) -> Tally:
    """A particle in some hundred is not finite, again and again, in each family."""
    return _goes_on(lab, trials, "some", _broken(0.01, 0.01))


def a_family(lab: Lab, trials: int) -> Tally:
    """One of two families is never finite."""
    return _goes_on(lab, trials, "family", _broken(0.0, 1.0))


def everything(lab: Lab, trials: int) -> Tally:
    """Nothing ever is: theta stays as it was, and the run ends with an error."""
    tally = Tally()
    variant = _broken(1.0, 1.0)
    for _ in range(trials):
        out = lab.new("everything")
        life = lab.start(out, variant=variant)
        statuses, said = life.end(), last_line(life.said)
        rows = _rows(out)
        thetas = [_theta(out, step) for step in RunDirectory(out).steps()]
        if statuses != [1] or "the meta-loss must be finite" not in said:
            tally.add(f"ended with {statuses}: {said}")
        elif any(row["valid"] for row in rows):
            tally.add("some row of metrics has a valid pair")
        elif len(thetas) < 2 or any(theta != thetas[0] for theta in thetas):
            tally.add(f"{len(set(thetas))} thetas in {len(thetas)} checkpoints")
        else:
            tally.add()
    return tally


def _goes_on(lab: Lab, trials: int, name: str, variant: Variant) -> Tally:
    """Ends in one state on all layouts, of a theta that is finite."""
    tally = Tally()
    layouts = [Layout(), *_others(lab)][: trials + 1]
    states = []
    # At once: much of it is one core's work, the first time, and nothing is timed.
    lives = [(layout, lab.start(lab.new(name), layout, variant)) for layout in layouts]
    for layout, life in lives:
        out, statuses = life.out, life.end()
        if any(statuses):
            tally.add(f"ended with {statuses} on {layout}: {last_line(life.said)}")
            continue
        states.append(state_of(out))
        _, theta = l2o.load(out / "optimizer")
        counted = sum(row["non_finite"] for row in _rows(out))
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(theta)):
            tally.add(f"theta is not finite on {layout}")
        elif not counted:
            tally.add(f"no particle was counted on {layout}")
        elif states[-1] != states[0]:
            tally.add(f"state {states[-1][:12]} on {layout}, not {states[0][:12]}")
        else:
            tally.add()
    return tally


def _others(lab: Lab) -> list[Layout]:
    many = [Layout(n, 1) for n in (2, 4) if n <= lab.processes]
    return many or [Layout(1, 4)]


def _broken(first: float, second: float) -> Variant:
    """Two families, of whose tasks these shares have no finite loss; saved always.

    A run gives up after 10 outer steps without a finite loss. All of them are one
    program, which compiles once.
    """
    families = (
        f'{{family="broken",dim=4,share={share},name="{name}"}}'
        for name, share in (("first", first), ("second", second))
    )
    overrides = (
        f"task=[{','.join(families)}]",
        # What is not finite never gets as far as the optimizer; this compiles faster.
        'optimizer={arch="learnable_sgd"}',
        "outer.max_skipped=10",
        "checkpoint.seconds=0",
    )
    return Variant(overrides=overrides)


def _rows(out: Path) -> list[dict[str, Any]]:
    text = (out / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def _theta(out: Path, step: int) -> str:
    trees, _ = read_tree(out / "checkpoints" / f"step_{step:08d}")
    return theta_sha256(trees["state"]["theta"])
