"""Search curves as the paper's figure 6: what a search has found by how many models it sampled."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nasnet_det.draw.figures import COLORS, FONT, save_figure, style_axes

LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
RANKS = (1, 5, 25)

Rewards = Sequence[float] | NDArray[np.floating[Any]]


def top_means(rewards: Rewards, count: int) -> NDArray[np.float64]:
    """The mean of the best ``count`` rewards so far, after each model sampled; NaN before there are as many.

    Args:
        rewards: what each model reached, in the order in which they were sampled.
        count: how many of the best; 1 for the best so far.

    Returns:
        an array as long as ``rewards``.

    Raises:
        ValueError: if a reward is not finite, naming it; or for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count is at least 1, not {count}")
    values = np.asarray(rewards, dtype=np.float64)
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"reward {place} is {values[place]}: leave out models that failed")
    best: list[float] = []
    means = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if len(best) < count:
            heapq.heappush(best, value)
        else:
            heapq.heappushpop(best, value)
        if len(best) == count:
            means[i] = np.mean(best)
    return means


def draw_search_curves(
    runs: Mapping[str, Sequence[Rewards]],
    path: str | Path | None = None,
    ranks: Sequence[int] = RANKS,
    ylabel: str = "validation accuracy",
    title: str = "",
) -> Figure:
    """The paper's figure 6: the mean of the best models so far, by the number of models sampled.

    A line is the mean over a strategy's runs, up to the length of its shortest; the band around it reaches from the
    10th to the 90th percentile of the runs.

    Args:
        runs: every strategy's runs, each the rewards of its models in the order in which they were sampled.
        path: where to write the picture (``.svg`` or ``.png``); nowhere if None.
        ranks: over how many of the best models to average, a kind of line each.
        ylabel: what a reward is.
        title: what stands above it.

    Raises:
        ValueError: if a strategy has no run, a run no model, or a reward is not finite.
        OSError: if ``path`` cannot be written.
    """
    figure = Figure(figsize=(7.2, 4.6), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, "number of models sampled", ylabel, title)
    colors = dict(zip(runs, cycle(COLORS), strict=False))
    lines = dict(zip(ranks, cycle(LINES), strict=False))
    for strategy, its_runs in runs.items():
        length = min((len(run) for run in its_runs), default=0)
        if not length:
            raise ValueError(f"{strategy} has no run, or one without models")
        sampled = np.arange(1, length + 1)
        for rank, line in lines.items():
            means = np.stack([top_means(run[:length], rank) for run in its_runs])
            axes.plot(sampled, means.mean(axis=0), line, color=colors[strategy], linewidth=1.6)
            if len(its_runs) > 1:
                low, high = np.percentile(means, (10, 90), axis=0)
                axes.fill_between(sampled, low, high, color=colors[strategy], alpha=0.12, linewidth=0)
    handles = [Line2D([], [], color=color, linewidth=3, label=name) for name, color in colors.items()]
    for rank, line in lines.items():
        label = "best model" if rank == 1 else f"mean of the best {rank}"
        handles.append(Line2D([], [], color="#444444", linestyle=line, label=label))
    axes.legend(handles=handles, loc="lower right", prop={"family": FONT, "size": 8.5})
    axes.set_xlim(left=0)
    if path is not None:
        save_figure(figure, path)
    return figure
