"""What every picture shares: its font and colours, the style of its axes, and how it is written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from nasnet_det.safe_io.files import replacing

#: matplotlib brings this font along, so a picture's labels have the same width on every machine.
FONT = "DejaVu Sans"
#: Told apart in print and by colour-blind readers (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
FORMATS = (".svg", ".png")
DOTS_PER_INCH = 144


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as SVG or PNG, by the path's ending. The same figure gives the same SVG, byte for byte.

    Raises:
        ValueError: for another ending.
        OSError: if it cannot be written; whatever stood at ``path`` is then unchanged.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ValueError(f"{path}: a picture's path ends in {' or '.join(FORMATS)}, not {kind or 'nothing'!r}")
    metadata = {"Date": None} if kind == ".svg" else {}
    with replacing(path) as part, matplotlib.rc_context({"svg.hashsalt": "nasnet_det"}):
        figure.savefig(part, format=kind[1:], dpi=DOTS_PER_INCH, metadata=metadata)


def style_axes(axes: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Labels in the project's font, a light grid, no frame at the top and right."""
    text: dict[str, Any] = {"family": FONT, "parse_math": False}
    axes.set_xlabel(xlabel, size=10, **text)
    axes.set_ylabel(ylabel, size=10, **text)
    axes.set_title(title, size=11, **text)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def text_width(line: str, size: float) -> float:
    """The width in inches of a line of text, ``size`` in points."""
    font = FontProperties(family=FONT, size=size)
    return float(TextPath((0, 0), line, prop=font).get_extents().width) / 72
