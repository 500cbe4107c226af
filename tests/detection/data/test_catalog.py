"""Data sets in detectron2's catalog: their class names, and data in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("detectron2")
from detectron2.data import DatasetCatalog, MetadataCatalog

from nasnet_det.detection.data.catalog import categories
from nasnet_det.detection.data.catalog import register as register_data
from nasnet_det.detection.data.coco_format import COMPLETE, check_annotations
from nasnet_det.detection.data.look import CocoData
from nasnet_det.detection.data.registered import look_at_names
from nasnet_det.detection.evaluation.evaluator import CocoEvaluator
from tests.helpers import coco_content


def test_names_come_from_the_file_before_it_is_loaded(register: Callable[..., None]) -> None:
    register(coco_content() | {"categories": [{"id": 9, "name": "fox"}, {"id": 5, "name": "hen"}]})
    assert categories("made") == [{"id": 5, "name": "hen"}, {"id": 9, "name": "fox"}]
    assert categories("nowhere") == []


def test_data_in_memory_is_registered(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{number}.jpg")
    data = coco_content()
    check_annotations(data, "made", required=COMPLETE)
    for _ in range(2):  # the second replaces the first
        name = register_data(CocoData("in_memory", data, tmp_path, "memory"))
    try:
        assert len(look_at_names([name], num_classes=1).train) == 2
        assert [category["name"] for category in categories(name)] == ["person"] and len(DatasetCatalog.get(name)) == 3
        assert CocoEvaluator(name).annotations["categories"] == data["categories"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
