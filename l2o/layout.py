"""Names in a checkpoint, and beside one."""

from pathlib import Path


MANIFEST = "manifest.json"
"""The file of a checkpoint that lists the others."""

MODEL_CARD = "README.md"
"""The one file that a manifest does not cover: text for people, edited by people."""


def old_of(path: Path) -> Path:
    """Where the checkpoint of that path is while it is replaced."""
    return path.with_name(f".{path.name}.old")
