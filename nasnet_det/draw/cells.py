"""Cells as the paper draws them (figures 4, 7 and 8), for any genotype.

Inputs are white, operations yellow, combiners green, outputs pink; data flows upwards. The small number beside a
combiner is that of the state it creates, as numbered in the genotype's JSON form.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from nasnet_det.draw.figures import FONT, save_figure, text_width
from nasnet_det.draw.layout import BOX_HEIGHT, Box, CellLayout, Edge, lay_out
from nasnet_det.genotypes.genotype import CellGenotype, Genotype

FONT_SIZE = 9.0
LINE = 0.145  # inches from one line of a label to the next
COLORS = {"input": "#ffffff", "operation": "#ffe9a3", "combiner": "#c5e3b7", "concat": "#f7c9cf", "output": "#f7c9cf"}
OUTLINE = "#3c3c3c"
#: Edges are coloured by the input they carry, to be distinguishable where they cross.
INPUT_EDGES = ("#1f5fa8", "#b4541a", "#5b7a1f", "#7a3f8f")
CREATED_EDGE = "#6a6a6a"
MARGIN = 0.25
TITLE_HEIGHT = 0.45
SPACE_BETWEEN = 0.5
WIDEST = 14.0  # inches; wider cells are stacked, unless they are tall too


def operation_label(name: str) -> str:
    """Return the label of an operation or combiner: ``sep`` over ``5x5`` for ``sep_conv_5x5``."""
    words = name.split("_")
    cut = next((index for index, word in enumerate(words) if word[:1].isdigit()), len(words))
    head = [word for word in words[:cut] if word not in ("conv", "pool")] or words[:cut]
    if cut == len(words) and len(head) > 2:
        head, words, cut = head[:1], head, 1
    return "\n".join(" ".join(line) for line in (head, words[cut:]) if line)


def draw_cell(cell: CellGenotype, num_inputs: int = 2, passes_all: bool = False, title: str = "") -> Figure:
    """Return the picture of a cell.

    Args:
        cell: the cell.
        num_inputs: its number of input states: 2, or the number of its blocks if all states are passed on.
        passes_all: see :class:`Genotype`.
        title: text below the cell.
    """
    return _figure([(title, _lay_out(cell, num_inputs, passes_all))], passes_all)


def draw_genotype(genotype: Genotype, path: str | Path | None = None) -> Figure:
    """Return the picture of both cells of a genotype, and write it to ``path`` (``.svg`` or ``.png``) if given.

    Raises:
        ValueError: for a path with another ending.
        OSError: if the file cannot be written.
    """
    cells = [
        (f"{kind.capitalize()} cell", _lay_out(cell, genotype.num_inputs, genotype.passes_all))
        for kind, cell in genotype.cells.items()
    ]
    figure = _figure(cells, genotype.passes_all, genotype.name or "")
    return save_figure(figure, path)


def _lay_out(cell: CellGenotype, num_inputs: int, passes_all: bool) -> CellLayout:
    names = {name for block in cell.blocks for name in (block.left_operation, block.right_operation, block.combine)}
    lines = [line for name in names for line in operation_label(name).split("\n")]
    width = max(0.56, 0.14 + max(text_width(line, FONT_SIZE) for line in lines))
    return lay_out(cell, num_inputs, passes_all, width, wide=1.1)


def _figure(cells: Sequence[tuple[str, CellLayout]], passes_all: bool, name: str = "") -> Figure:
    """Arrange cells side by side with their inputs on one line, or stacked if that would be too wide."""
    widths = [layout.width + 2 * MARGIN for _, layout in cells]
    heights = [layout.height + 2 * MARGIN + (TITLE_HEIGHT if title else 0.0) for title, layout in cells]
    beside = sum(widths) + SPACE_BETWEEN * (len(cells) - 1)
    if beside <= max(WIDEST, 1.6 * max(heights)):
        width, height = beside, max(heights)
        corners = [(x, 0.0) for x in accumulate((w + SPACE_BETWEEN for w in widths[:-1]), initial=0.0)]
    else:
        width, height = max(widths), sum(heights)
        corners = [((width - w) / 2, height - top) for w, top in zip(widths, accumulate(heights), strict=True)]
    head = TITLE_HEIGHT if name else 0.0
    figure = Figure(figsize=(width, height + head), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height + head))
    axes.set_axis_off()
    text: dict[str, Any] = {"ha": "center", "va": "center", "family": FONT, "parse_math": False}
    axes.text(width / 2, height + 0.1, name, size=13, weight="bold", **text)
    for (title, layout), (x, y) in zip(cells, corners, strict=True):
        axes.text(x + MARGIN + layout.width / 2, y + MARGIN + 0.08, title, size=11, **text)
        _draw(axes, layout, (x + MARGIN, y + MARGIN + (TITLE_HEIGHT if title else 0.0)), passes_all)
    return figure


def _draw(axes: Axes, layout: CellLayout, corner: tuple[float, float], passes_all: bool) -> None:
    num_inputs = sum(box.kind == "input" for box in layout.boxes)
    for edge in layout.edges:
        is_input = edge.state is not None and edge.state < num_inputs
        color = INPUT_EDGES[edge.state % len(INPUT_EDGES)] if is_input and edge.state is not None else CREATED_EDGE
        axes.add_patch(PathPatch(_curve(edge, corner), facecolor="none", edgecolor=color, linewidth=1.1, zorder=1))
    for box in layout.boxes:
        _draw_box(axes, box, (corner[0] + box.x, corner[1] + box.y), passes_all)


def _curve(edge: Edge, corner: tuple[float, float]) -> Curve:
    (x0, y0), (x1, y1) = ((x + corner[0], y + corner[1]) for x, y in (edge.start, edge.end))
    middle = (y0 + y1) / 2
    return Curve([(x0, y0), (x0, middle), (x1, middle), (x1, y1)], [Curve.MOVETO, *[Curve.CURVE4] * 3])


def _draw_box(axes: Axes, box: Box, centre: tuple[float, float], passes_all: bool) -> None:
    x, y = centre
    rounding = 0.06
    style: dict[str, Any] = {"family": FONT, "zorder": 3}
    patch = FancyBboxPatch(
        (x - box.width / 2 + rounding, y - BOX_HEIGHT / 2 + rounding),
        box.width - 2 * rounding,
        BOX_HEIGHT - 2 * rounding,
        boxstyle=f"round,pad={rounding}",
        facecolor=COLORS[box.kind],
        edgecolor=OUTLINE,
        linewidth=0.9,
        zorder=2,
    )
    axes.add_patch(patch)
    lines, is_state = _label(box, passes_all).split("\n"), box.kind in ("input", "output")
    for number, line in enumerate(lines):
        # Fixed baselines align labels with and without descenders.
        baseline = y + LINE * ((len(lines) - 1) / 2 - number) - 0.04
        axes.text(x, baseline, line, ha="center", va="baseline", size=FONT_SIZE, parse_math=is_state, **style)
    if box.kind == "combiner":
        axes.text(x + box.width / 2 + 0.05, y, str(box.state), va="center", size=6.5, color=CREATED_EDGE, **style)


def _label(box: Box, passes_all: bool) -> str:
    """Return the text of a box; states that are passed on one by one have their number after a comma."""
    if box.kind == "input":
        if passes_all:
            return f"$h_{{i,{box.state}}}$"
        return "$h_i$" if box.state == 0 else "$h_{i-1}$"
    if box.kind == "output":
        return f"$h_{{i+1,{box.state}}}$" if passes_all else "$h_{i+1}$"
    return operation_label(box.name)
