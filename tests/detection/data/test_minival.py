"""Minival and its training set, from small annotation files of the official files' form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nasnet_det.detection.data import minival
from nasnet_det.detection.data.coco_format import CocoFormatError


def official(folder: str, ids: range, first_annotation: int) -> dict[str, Any]:
    images = [{"id": i, "file_name": f"COCO_{folder}_{i:012}.jpg", "width": 8, "height": 8} for i in ids]
    box = {"category_id": 1, "bbox": [1, 1, 2, 2], "iscrowd": 0, "area": 4}
    boxes = [{"id": first_annotation + n, "image_id": i, **box} for n, i in enumerate(list(ids) * 2)]
    categories = [{"id": 1, "name": "person"}]
    return {"info": {"year": 2014}, "licenses": [], "images": images, "annotations": boxes, "categories": categories}


TRAIN, VAL = official("train2014", range(1, 6), 1), official("val2014", range(10, 16), 100)


def test_the_ids_are_the_published_ones(shared: Path) -> None:
    published = (shared / "data" / "coco_minival" / "mscoco_minival_ids.txt").read_text().split()
    assert minival.minival_ids() == {int(i) for i in published}


def test_there_are_8059_ids() -> None:
    assert len(minival.minival_ids()) == 8059


def test_minival_and_training_set_share_val2014_between_them() -> None:
    ids = {10, 12}
    small, rest = minival.select_minival(VAL, ids), minival.select_training(TRAIN, VAL, ids)
    assert {image["id"] for image in small["images"]} == ids
    assert {image["id"] for image in rest["images"]} == {1, 2, 3, 4, 5, 11, 13, 14, 15}
    assert small["images"][0]["file_name"] == "val2014/COCO_val2014_000000000010.jpg"
    assert {image["file_name"].partition("/")[0] for image in rest["images"]} == {"train2014", "val2014"}
    assert {entry["image_id"] for entry in small["annotations"]} == ids
    assert len(small["annotations"]) + len(rest["annotations"]) == len(TRAIN["annotations"]) + len(VAL["annotations"])
    assert VAL["images"][0]["file_name"] == "COCO_val2014_000000000010.jpg"


def test_files_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(CocoFormatError, match=r"1 of .*\b2\b.*val2014"):
        minival.select_minival(VAL, {10, 99})
    with pytest.raises(CocoFormatError, match="ids"):
        minival.select_training(TRAIN, official("val2014", range(10, 16), 3), {10})
    with pytest.raises(CocoFormatError, match="categories"):
        minival.select_training(TRAIN, VAL | {"categories": [{"id": 2, "name": "car"}]}, {10})


def test_annotations_are_written_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minival, "_CHUNK", 5)
    minival.write_annotations(tmp_path / "new" / "all.json", VAL)
    assert json.loads((tmp_path / "new" / "all.json").read_text()) == VAL
