"""The picture of a Pareto front."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.draw.pareto import draw_front


def test_every_point_and_the_front_are_drawn(tmp_path: Path) -> None:
    points = [(3e4, 0.2, "0"), (6e4, 0.4, "1"), (7e4, 0.3, "2")]
    figure = draw_front(points, points[1::-1], tmp_path / "front.svg")
    (axes,) = figure.axes
    assert [len(collection.get_offsets()) for collection in axes.collections] == [3, 2]
    assert [text.get_text() for text in axes.texts] == ["0", "1"]
    assert list(axes.lines[0].get_xdata()) == [3e4, 6e4]
    assert (tmp_path / "front.svg").stat().st_size > 0
    with pytest.raises(ValueError, match="architecture"):
        draw_front([], [])
