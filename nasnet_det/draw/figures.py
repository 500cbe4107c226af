"""What every picture shares: its font, and how it is written to a file."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from nasnet_det.files import replacing

#: matplotlib brings this font along, so a picture's labels have the same width on every machine.
FONT = "DejaVu Sans"
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
