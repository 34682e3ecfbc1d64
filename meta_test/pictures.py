"""Pictures in files."""

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: "Figure", path: Path) -> None:
    """Writes a matplotlib figure, in the format that the suffix names.

    The file is whole or not there; an older one is replaced.

    Raises:
        ValueError: matplotlib does not know that format.
    """
    known = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix.removeprefix(".") not in known:
        raise ValueError(f"--out must end in one of {', '.join(known)}, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix comes last, for matplotlib reads it.
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        figure.savefig(partial, dpi=150)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
