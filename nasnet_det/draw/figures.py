"""Font, colours, axes style and file output shared by all pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from nasnet_det.safe_io.files import check_writable, replacing

#: Bundled with matplotlib, so labels have the same width on every machine.
FONT = "DejaVu Sans"
#: Distinguishable in print and by colour-blind readers (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
FORMATS = (".svg", ".png")
DOTS_PER_INCH = 144


def check_format(path: Path) -> str:
    """Return the ending of a picture's path.

    Raises:
        ValueError: if it is not one of :data:`FORMATS`.
    """
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ValueError(f"{path}: expected a file name ending in {' or '.join(FORMATS)}, got {kind or 'none'!r}")
    return kind


def save_figure(figure: Figure, path: str | Path | None) -> Figure:
    """Write a figure as SVG or PNG, depending on the path's ending, unless it is None; return the figure.

    Equal figures give equal SVG files.

    Raises:
        ValueError: for another ending.
        OSError: if the file cannot be written; an existing file is then unchanged.
        OverwriteError: if there is a file that matplotlib has not written.
    """
    if path is None:
        return figure
    path = Path(path)
    kind = check_format(path)
    check_writable(path, b"Matplotlib")
    metadata = {"Date": None} if kind == ".svg" else {}
    with replacing(path) as part, matplotlib.rc_context({"svg.hashsalt": "nasnet_det"}):
        figure.savefig(part, format=kind[1:], dpi=DOTS_PER_INCH, metadata=metadata)
    return figure


def style_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Set labels in the project's font, a light grid, and no frame at the top and right."""
    text: dict[str, Any] = {"family": FONT, "parse_math": False}
    axes.set_xlabel(xlabel, size=10, **text)
    axes.set_ylabel(ylabel, size=10, **text)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def text_width(line: str, size: float) -> float:
    """Return the width in inches of a line of text of ``size`` points."""
    font = FontProperties(family=FONT, size=size)
    return float(TextPath((0, 0), line, prop=font).get_extents().width) / 72
