"""Labels keep off each other, off the marks and off each other's lines."""

from __future__ import annotations

import math

import numpy as np

from nasnet_det.draw.labels import Rectangle, place_labels

AREA, RADIUS = Rectangle(0, 0, 600, 400), 4.0


def test_labels_of_crowded_points_are_apart_and_near() -> None:
    points = [(300 + 9 * float(x), 200 + 9 * float(y)) for x, y in np.random.default_rng(0).normal(size=(8, 2))]
    labels = place_labels(points, [(60.0, 10.0)] * 8, AREA, RADIUS)
    marks = [Rectangle(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in points]
    for i, label in enumerate(labels):
        assert AREA.holds(label)
        assert not any(label.overlaps(other) for other in (*labels[:i], *marks))
        assert math.dist(label.nearest(points[i]), points[i]) < 120


def test_a_lone_label_is_right_of_its_point_or_left_at_the_border() -> None:
    (label,) = place_labels([(100.0, 100.0)], [(60.0, 10.0)], AREA, RADIUS)
    assert label.x0 > 100 and label.y0 < 100 < label.y1
    (label,) = place_labels([(590.0, 100.0)], [(60.0, 10.0)], AREA, RADIUS)
    assert label.x1 < 590 and label.y0 < 100 < label.y1


def test_a_label_without_a_free_position_is_on_its_point() -> None:
    (label,) = place_labels([(10.0, 10.0)], [(60.0, 10.0)], Rectangle(0, 0, 20, 20), RADIUS)
    assert (label.x0, label.x1) == (-20, 40)
