"""Samples as drawn for the page of a look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from nasnet_det.detection.data.sample_page import draw_record


def test_boxes_are_scaled_and_names_that_no_font_has_are_numbers(tmp_path: Path) -> None:
    Image.new("RGB", (1280, 640)).save(tmp_path / "1.png")
    record = {"file_name": str(tmp_path / "1.png"), "annotations": [{"bbox": [200, 200, 400, 300], "category_id": 0}]}
    drawn = draw_record(record, ["\x07hen"])
    assert drawn.size == (640, 320) and drawn == draw_record(record, ["class 0"])
    rows, columns = np.nonzero(np.asarray(drawn).any(axis=2))
    assert abs(columns.min() - 100) <= 3 and abs(columns.max() - 300) <= 3 and abs(rows.max() - 250) <= 3
