"""Boxes given in another format than COCO's."""

from __future__ import annotations

import re
from typing import Any

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
        ([[2, 3, 10, 10], [20, 15, 38, 28]] * 9 + [[2, 3, 1, 1]], "^$"),
        ([], "^$"),
    ],
)
def test_the_question_is_on_the_format_that_would_make_sense(boxes: Any, words: str) -> None:
    found = format_question(entries(*boxes), IMAGES)
    assert re.search(words, found), found


def test_images_without_a_size_tell_nothing() -> None:
    assert format_question(entries([20, 15, 38, 28]), [{"id": 1}]) == ""
