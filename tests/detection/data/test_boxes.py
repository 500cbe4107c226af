"""Boxes given in another format than COCO's."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from nasnet_det.detection.data.boxes import format_question

IMAGES = [{"id": 1, "width": 40, "height": 30}, {"id": 2, "width": 80, "height": 60}]


def entries(*boxes: list[float]) -> list[dict[str, Any]]:
    return [{"image_id": 1, "bbox": box} for box in boxes]


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[20, 15, 38, 28], [2, 3, 20, 20], [15, 10, 39, 29]], "2 of 3 .*x0, y0, x1, y1"),
        ([[20, 15, 38, 9], [10, 20, 18, 18], [30, 10, 14, 14], [32, 22, 14, 14]], "4 of 4 .*centres"),
        ([[0.1, 0.2, 0.5, 0.5], [0, 0, 1, 1]], "2 of 2 .*0 to 1"),
        ([[0, 0, 38, 28], [-8, -7, 20, 20], [-4, -4, 39, 29]] * 7, "14 of 21 .*x0, y0, x1, y1.*YOLO"),
        ([[0, 0, 26, 18], [-8, -7, 20, 20], [14, 10, 10, 10]] * 7, "7 of 21 .*upper left.*YOLO"),
        ([[-8, -7, 20, 20]], "^$"),
        ([[2, 3, 10, 10], [20, 15, 38, 28]] * 9 + [[2, 3, 1, 1]], "^$"),
        ([], "^$"),
    ],
)
def test_the_question_is_on_the_format_that_would_make_sense(boxes: Any, words: str) -> None:
    found = format_question(entries(*boxes), IMAGES)
    assert re.search(words, found), found


def placed(kind: str, count: int = 400) -> np.ndarray:
    """Boxes of objects in images of 400 x 300, some cut off at an edge; as x0, y0, x1, y1, whole numbers."""
    draw, size = np.random.default_rng(0), np.array([400, 300])
    extent = draw.uniform(*{"tiny": (0.01, 0.03), "medium": (0.05, 0.4), "large": (0.5, 1.0)}[kind], (count, 2)) * size
    centre = draw.uniform(0, 1, (count, 2)) * size
    low, high = (centre - extent / 2).clip(0), np.minimum(centre + extent / 2, size)
    return np.concatenate([low, high], axis=1).round()


def as_coco(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def question(boxes: np.ndarray, side: tuple[int, int] = (400, 300)) -> str:
    images = [{"id": 1, "width": side[0], "height": side[1]}]
    return format_question([{"image_id": 1, "bbox": box} for box in boxes.tolist()], images)


@pytest.mark.parametrize("kind", ["tiny", "medium", "large"])
def test_the_positions_of_coco_s_boxes_raise_no_question(kind: str) -> None:
    boxes = as_coco(placed(kind))
    for part in (boxes, boxes[boxes[:, 0] < 50], boxes[boxes[:, 1] > 150], np.repeat(boxes[:1], 30, axis=0)):
        assert question(part) == ""


@pytest.mark.parametrize("kind", ["medium", "tiny"])
def test_boxes_that_all_end_in_their_image_show_their_format_by_their_positions(kind: str) -> None:
    corners = placed(kind)
    boxes = as_coco(corners)
    inside = corners[(corners[:, :2] + corners[:, 2:] <= [400, 300]).all(axis=1)]
    assert "x0, y0, x1, y1" in question(inside)
    assert "0 to 100" in question(boxes / [4, 3, 4, 3])
    assert "0 to 1000" in question(boxes * [2.5, 10 / 3, 2.5, 10 / 3], (4000, 3000))
    centred = np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)
    if kind == "medium":  # hardly one of the tiny ones is at an edge
        assert "centres" in question(centred[(centred[:, :2] + centred[:, 2:] <= [400, 300]).all(axis=1)])


def test_images_without_a_size_tell_nothing() -> None:
    assert format_question(entries([20, 15, 38, 28]), [{"id": 1}]) == ""
