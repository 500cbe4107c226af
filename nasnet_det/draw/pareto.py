"""The Pareto front of a search: accuracy against what an architecture costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from nasnet_det.draw.figures import COLORS, FONT, save_figure, style_axes


def draw_front(
    points: Sequence[tuple[float, float, str]],
    front: Sequence[tuple[float, float, str]],
    path: str | Path | None = None,
    xlabel: str = "parameters",
) -> Figure:
    """Draw every architecture as a point, and the Pareto front as a labelled line of steps.

    Args:
        points: cost, accuracy and name of every architecture.
        front: those that no other dominates.
        path: where to write the picture (``.svg`` or ``.png``); nowhere if None.
        xlabel: the cost.

    Raises:
        ValueError: without a point.
        OSError: if ``path`` cannot be written.
    """
    if not points:
        raise ValueError("expected at least one architecture to draw")
    figure = Figure(figsize=(7.2, 4.6), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, xlabel, "validation accuracy")
    axes.scatter([x for x, _, _ in points], [y for _, y, _ in points], s=14, color="#999999", label="evaluated")
    ordered = sorted(front)
    if ordered:
        xs, ys = [x for x, _, _ in ordered], [y for _, y, _ in ordered]
        axes.step(xs, ys, where="post", color=COLORS[0], linewidth=1.4)
        axes.scatter(xs, ys, s=28, color=COLORS[0], label="Pareto front", zorder=3)
    for x, y, name in ordered:
        axes.annotate(name, (x, y), (4, 5), textcoords="offset points", family=FONT, size=8)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    # Above the axes, where it hides no point.
    figure.legend(loc="outside upper right", ncols=2, frameon=False, prop={"family": FONT, "size": 8.5})
    return save_figure(figure, path)
