"""Placement of labels beside points without overlaps with labels, marks or the lines of other labels."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Point = tuple[float, float]
ORDERS = 24
DIRECTIONS = 48
STEP = 3.0
CLEAR = 2.0  # margin around every label


class Rectangle(NamedTuple):
    """Left, bottom, right and top."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: Rectangle) -> bool:
        """Return whether two rectangles intersect."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def holds(self, other: Rectangle) -> bool:
        """Return whether ``other`` is inside this rectangle."""
        return self.x0 <= other.x0 and self.y0 <= other.y0 and other.x1 <= self.x1 and other.y1 <= self.y1

    def nearest(self, point: Point) -> Point:
        """Return the point of this rectangle nearest to ``point``."""
        return min(max(point[0], self.x0), self.x1), min(max(point[1], self.y0), self.y1)


def place_labels(
    points: Sequence[Point], sizes: Sequence[tuple[float, float]], area: Rectangle, radius: float
) -> list[Rectangle]:
    """Place labels greedily in several random orders and return the placement with the nearest labels.

    Args:
        points: the labelled points, in any unit, such as pixels.
        sizes: width and height of each label, in the same unit.
        area: the rectangle that must contain every label.
        radius: the radius of the mark at every point.

    Returns:
        the rectangle of each label, centred on its point if no free position was found.
    """
    shuffle = random.Random(0).shuffle
    order = list(range(len(points)))
    found: list[list[Rectangle]] = []
    for _ in range(ORDERS):
        shuffle(order)
        found.append(_place_in_order(order, points, sizes, area, radius))
    reach = math.dist(area[:2], area[2:])

    def cost(labels: Sequence[Rectangle]) -> float:
        away = [math.dist(point, label.nearest(point)) for point, label in zip(points, labels, strict=True)]
        return sum(distance**2 if distance else reach**2 for distance in away)

    return min(found, key=cost)


def _place_in_order(
    order: Sequence[int], points: Sequence[Point], sizes: Sequence[tuple[float, float]], area: Rectangle, radius: float
) -> list[Rectangle]:
    placed = [_around(point, size) for point, size in zip(points, sizes, strict=True)]
    marks = [_around(point, (2 * radius, 2 * radius)) for point in points]
    labels: list[Rectangle] = []
    lines: list[Rectangle] = []
    for i in order:
        # A line may cross marks that overlap its own, but not others.
        apart = [mark for mark in marks if not mark.overlaps(marks[i])]
        for label in _candidates(points[i], sizes[i], radius, area):
            if _meet([label], [*marks, *labels, *lines]):
                continue
            line = _line(points[i], label)
            if not _meet(line, [*apart, *labels]):
                placed[i] = label
                labels.append(label)
                lines += line
                break
    return placed


def _candidates(point: Point, size: tuple[float, float], radius: float, area: Rectangle) -> Iterator[Rectangle]:
    """Yield positions around a point by increasing distance; at each distance right first, then left, above, below."""
    angles = [2 * math.pi * i / DIRECTIONS for i in range(DIRECTIONS)]
    angles.sort(key=lambda angle: (abs(math.sin(angle)), -math.cos(angle)))
    for i in range(int(math.dist(area[:2], area[2:]) / STEP)):
        away = radius + CLEAR + i * STEP
        for angle in angles:
            # The distance is to the label's border, not to its centre.
            x = point[0] + math.cos(angle) * (away + size[0] / 2)
            y = point[1] + math.sin(angle) * (away + size[1] / 2)
            label = _around((x, y), size)
            if area.holds(label):
                yield label


def _meet(some: Sequence[Rectangle], others: Sequence[Rectangle]) -> bool:
    return any(one.overlaps(other) for one in some for other in others)


def _around(centre: Point, size: tuple[float, float]) -> Rectangle:
    return Rectangle(centre[0] - size[0] / 2, centre[1] - size[1] / 2, centre[0] + size[0] / 2, centre[1] + size[1] / 2)


def _line(point: Point, label: Rectangle) -> list[Rectangle]:
    """Return the line from a point to its label as small squares, for intersection tests."""
    (x0, y0), (x1, y1) = point, label.nearest(point)
    pieces = int(math.dist((x0, y0), (x1, y1)) / STEP)
    return [_around((x0 + (x1 - x0) * i / pieces, y0 + (y1 - y0) * i / pieces), (STEP, STEP)) for i in range(1, pieces)]
