"""Search curves as in the paper's figure 6: the best rewards by the number of models sampled."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from nasnet_det.draw.figures import COLORS, FONT, save_figure, style_axes

LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
#: The groups whose mean the paper's figure 6 shows.
RANKS = (1, 5, 25)

Rewards = Sequence[float] | NDArray[np.floating[Any]]


def top_means(rewards: Rewards, count: int) -> NDArray[np.float64]:
    """Return the mean of the best ``count`` rewards so far after each model, NaN for the first ``count - 1``.

    Args:
        rewards: the rewards of the models in sampling order.
        count: the number of best rewards to average; 1 for the best so far.

    Returns:
        an array as long as ``rewards``.

    Raises:
        ValueError: if a reward is not finite, naming it; or for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    values = np.asarray(rewards, dtype=np.float64)
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"reward {index} is {values[index]}: leave out models that failed")
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
    hours: Mapping[str, Sequence[Rewards]] | None = None,
) -> Figure:
    """Return the paper's figure 6: the mean reward of the best models so far, by the number of models sampled.

    A line is the mean over a strategy's runs, up to the length of the shortest; the band covers the 10th to the 90th
    percentile of the runs.

    Args:
        runs: the runs of every strategy, each a list of rewards in sampling order.
        path: the file to write (``.svg`` or ``.png``), if any.
        ranks: the numbers of best models to average, one line style each.
        hours: for an axis of hours instead of models, the hours passed after each model, in the form of ``runs``.

    Raises:
        ValueError: if a strategy has no runs, a run is empty, or a reward is not finite.
        OSError: if ``path`` cannot be written.
    """
    figure = Figure(figsize=(7.2, 4.6), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    xlabel = "number of models sampled" if hours is None else "hours of child training"
    style_axes(axes, xlabel, "validation accuracy")
    colors = dict(zip(runs, cycle(COLORS), strict=False))
    lines = dict(zip(ranks, cycle(LINES), strict=False))
    for strategy, its_runs in runs.items():
        length = min((len(run) for run in its_runs), default=0)
        if not length:
            raise ValueError(f"{strategy} has no runs, or an empty one")
        position = (
            np.arange(1, length + 1)
            if hours is None
            else np.stack([run[:length] for run in hours[strategy]]).mean(axis=0)
        )
        for rank, line in lines.items():
            means = np.stack([top_means(run[:length], rank) for run in its_runs])
            axes.plot(position, means.mean(axis=0), line, color=colors[strategy], linewidth=1.6)
            if len(its_runs) > 1:
                low, high = np.percentile(means, (10, 90), axis=0)
                axes.fill_between(position, low, high, color=colors[strategy], alpha=0.12, linewidth=0)
    handles = [Line2D([], [], color=color, linewidth=3, label=name) for name, color in colors.items()]
    for rank, line in lines.items():
        label = "best model" if rank == 1 else f"mean of the best {rank}"
        handles.append(Line2D([], [], color="#444444", linestyle=line, label=label))
    axes.legend(handles=handles, loc="lower right", prop={"family": FONT, "size": 8.5})
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=hours is None))
    return save_figure(figure, path)
