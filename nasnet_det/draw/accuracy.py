"""Accuracy against cost, as the paper's figure 5."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from nasnet_det.draw.figures import COLORS, FONT, save_figure, style_axes, text_width
from nasnet_det.draw.labels import Rectangle, place_labels

LABEL_SIZE = 8.0
MARK_SIZE = 6.0
MARKS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class NetworkPoint:
    """A network: multiply-adds of one image and parameters in millions, top-1 accuracy in %, and its series."""

    label: str
    multiply_adds: float
    parameters: float
    accuracy: float
    series: str


def draw_accuracy(points: Sequence[NetworkPoint], path: str | Path | None = None) -> Figure:
    """Return a plot of accuracy against multiply-adds (left) and parameters (right), on logarithmic axes.

    Args:
        points: the networks; each is labelled, each series has its own colour and marker.
        path: the file to write (``.svg`` or ``.png``), if any.

    Raises:
        ValueError: if ``points`` is empty.
        OSError: if ``path`` cannot be written.
    """
    if not points:
        raise ValueError("no networks to draw")
    figure = Figure(figsize=(14.0, 6.2), facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.05, right=0.99, top=0.97, bottom=0.1, wspace=0.05)
    style_axes(left, "multiply-adds of one image, in millions", "top-1 accuracy on ImageNet, in %")
    style_axes(right, "parameters, in millions", "")
    series = list(dict.fromkeys(point.series for point in points))
    colors = dict(zip(series, cycle(("#555555", *COLORS)), strict=False))
    marks = dict(zip(series, cycle(MARKS), strict=False))
    for axes, costs in ((left, [p.multiply_adds for p in points]), (right, [p.parameters for p in points])):
        for point, cost in zip(points, costs, strict=True):
            # A white rim separates overlapping markers.
            axes.plot(
                cost,
                point.accuracy,
                marks[point.series],
                color=colors[point.series],
                markersize=MARK_SIZE + 1.0,
                markeredgecolor="white",
                markeredgewidth=0.6,
            )
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 3, max(costs) * 2.5)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    left.margins(y=0.12)
    handles = [Line2D([], [], color=colors[s], marker=marks[s], linewidth=0, label=s) for s in series]
    right.legend(handles=handles, loc="lower right", prop={"family": FONT, "size": 9})
    _label(left, [(p.multiply_adds, p.accuracy) for p in points], points, colors)
    _label(right, [(p.parameters, p.accuracy) for p in points], points, colors)
    return save_figure(figure, path)


def _label(
    axes: Axes, positions: Sequence[tuple[float, float]], points: Sequence[NetworkPoint], colors: Mapping[str, str]
) -> None:
    """Place each point's label beside it, connected by a thin line if it is further away."""
    dots = axes.figure.dpi / 72
    pixels = [(float(x), float(y)) for x, y in axes.transData.transform(positions)]
    sizes = [(text_width(point.label, LABEL_SIZE) * 72 * dots + 2, LABEL_SIZE * 1.2 * dots) for point in points]
    area = Rectangle(axes.bbox.x0, axes.bbox.y0, axes.bbox.x1, axes.bbox.y1)
    back = axes.transData.inverted()
    for point, place, pixel, label in zip(
        points, positions, pixels, place_labels(pixels, sizes, area, MARK_SIZE / 2 * dots), strict=True
    ):
        x, y = back.transform(((label.x0 + label.x1) / 2, (label.y0 + label.y1) / 2))
        text = axes.text(x, y, point.label, ha="center", va="center", family=FONT, size=LABEL_SIZE, parse_math=False)
        text.set_color(colors[point.series])
        end = label.nearest(pixel)
        if math.dist(end, pixel) > MARK_SIZE * dots:
            (x0, y0), (x1, y1) = place, back.transform(end)
            axes.plot((x0, x1), (y0, y1), color=colors[point.series], linewidth=0.6)
