"""Accuracy against cost: every network is drawn and labelled in both charts."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.draw import NetworkPoint, draw_accuracy

POINTS = [NetworkPoint("one", 500, 5, 74.0, "a"), NetworkPoint("two", 600, 5, 73.0, "b")]


def test_each_network_stands_at_its_cost_and_accuracy(tmp_path: Path) -> None:
    figure = draw_accuracy(POINTS, tmp_path / "accuracy.svg")
    left, right = figure.axes
    for axes, costs in ((left, (500, 600)), (right, (5, 5))):
        assert [text.get_text() for text in axes.texts] == ["one", "two"]
        marks = [line for line in axes.lines if line.get_marker() not in (None, "None")]
        assert [(*line.get_xdata(), *line.get_ydata()) for line in marks] == [(costs[0], 74.0), (costs[1], 73.0)]
        assert len({line.get_color() for line in marks}) == 2
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["a", "b"]


def test_no_network_is_refused() -> None:
    with pytest.raises(ValueError):
        draw_accuracy([])
