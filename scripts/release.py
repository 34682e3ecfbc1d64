"""Puts the result of a finished run where released optimizers are.

    python scripts/release.py runs/lopt-base

It copies the optimizer to checkpoints/NAME, and what the run recorded of itself to
docs/reports/NAME/training.jsonl: its first row of metrics whole, which
tests/test_released_runs.py makes again bit for bit, and of every 25th what it says of
all families together. The model card, checkpoints/NAME/README.md, is written by hand.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from l2o.storage import read_manifest, read_tree, write_tree
from meta_train.directory import RunDirectory


ROOT = Path(__file__).parents[1]
EVERY = 25


def thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row, and of every 25th and the last all but its families."""
    kept = [rows[i] for i in range(EVERY - 1, len(rows), EVERY)]
    if rows[-1] not in kept:
        kept.append(rows[-1])
    return [rows[0]] + [
        {key: value for key, value in row.items() if key != "families"} for row in kept
    ]


def main() -> None:
    """Copies, as above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = RunDirectory(parser.parse_args().run)
    name = read_manifest(run.optimizer)["name"]
    trees, manifest = read_tree(run.optimizer)
    own = {"files", "format", "manifest_sha256", "trees"}
    fields = {key: value for key, value in manifest.items() if key not in own}
    write_tree(ROOT / "checkpoints" / name, trees, fields, overwrite=True)
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    target = ROOT / "docs" / "reports" / name / "training.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json.dumps(row) + "\n" for row in thinned(rows)))


if __name__ == "__main__":
    main()
