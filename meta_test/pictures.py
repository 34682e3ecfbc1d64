"""Pictures in files."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_format(path: Path) -> None:
    """Raises ValueError unless matplotlib knows the format that the suffix names."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.removeprefix(".") not in known:
        raise ValueError(f"--out must end in one of {', '.join(known)}, got {path}")


def save(figure: "Figure", path: Path) -> None:
    """Writes a matplotlib figure, in the format that the suffix names.

    The file is whole or not there; an older one is replaced.

    Raises:
        ValueError: matplotlib does not know that format.
    """
    require_format(path)
    with _whole(path) as partial:
        figure.savefig(partial, dpi=150)


def save_animation(
    figure: "Figure",
    paint: Callable[[int], None],
    frames: int,
    path: Path,
    seconds: float,
) -> None:
    """Writes what a figure shows one after another as an animated GIF, for ever.

    The file is whole or not there; an older one is replaced.

    Args:
        figure: has its size.
        paint: `(index)`, draws a frame into it.
        frames: how many.
        path: of the file; ends in `.gif`.
        seconds: a frame is shown.
    """
    from matplotlib.animation import PillowWriter

    writer = PillowWriter(fps=1.0 / seconds)  # pyright: ignore[reportArgumentType]
    with _whole(path) as partial, writer.saving(figure, partial, dpi=100):
        for index in range(frames):
            paint(index)
            writer.grab_frame()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write that then takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix comes last, for matplotlib reads it.
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
