"""Drawings of an evaluation: precision against recall, the cost of errors, confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from nasnet_det.draw.figures import COLORS, FONT, save_figure, style_axes
from nasnet_det.draw.fonts import font_for, readable_names


def draw_precision_recall(precision: np.ndarray, path: str | Path | None = None) -> Figure:
    """Draw precision against recall, the mean over categories, and each category at IoU 0.5 as a thin line.

    Args:
        precision: ``(10, R, N)``: IoU 0.5 to 0.95, recalls from 0 to 1, categories; -1 for categories without objects.
        path: the picture's file (``.svg`` or ``.png``).
    """
    figure = Figure(figsize=(6.4, 4.6), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, "recall", "precision")
    known = precision[:, :, (precision > -1).all(axis=(0, 1))]
    recalls = np.linspace(0, 1, precision.shape[1])
    axes.plot(recalls, known[0], color="#bbbbbb", linewidth=0.6)
    if known.shape[2]:
        mean = known.mean(axis=2)
        for line, label, color in ((mean[0], "IoU 0.5", COLORS[0]), (mean[5], "IoU 0.75", COLORS[1])):
            axes.plot(recalls, line, color=color, linewidth=2, label=label)
        axes.plot(recalls, mean.mean(axis=0), color=COLORS[2], linewidth=2, label="mean of IoU 0.5 to 0.95")
        axes.legend(loc="lower left", prop={"family": FONT, "size": 9})
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return save_figure(figure, path)


def draw_costs(costs: Mapping[str, float], path: str | Path | None = None) -> Figure:
    """Draw the cost of each kind of error as a bar; ``costs`` are fractions of 1."""
    figure = Figure(figsize=(6.4, 3.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, "AP at IoU 0.5 gained if corrected, in points", "")
    bars = axes.barh(list(costs), [100 * cost for cost in costs.values()], color=COLORS[0])
    axes.bar_label(bars, fmt="%.1f", padding=3, fontfamily=FONT)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    return save_figure(figure, path)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], path: str | Path | None = None) -> Figure:
    """Draw a confusion matrix, shaded by the share of its row.

    Args:
        matrix: ``(N + 1, N + 1)``: true and predicted categories, the background last.
        names: of the categories.
        path: the picture's file (``.svg`` or ``.png``).
    """
    side = 2.4 + 0.34 * len(matrix)
    figure = Figure(figsize=(side, side), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=color, family=FONT)
    text: dict[str, Any] = {"family": FONT, "size": 8, "parse_math": False}
    ticks = np.arange(len(matrix))
    names = readable_names(names)
    axes.set_xticks(ticks, [*names, "not found"], rotation=90, **text)
    axes.set_yticks(ticks, [*names, "background"], **text)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        if not label.get_text().isascii():
            label.set_fontproperties(FontProperties(fname=str(font_for(label.get_text(), 8).path), size=8))
    axes.set_xlabel("detected as", family=FONT)
    axes.set_ylabel("annotated as", family=FONT)
    return save_figure(figure, path)
