"""Data sets registered by functions, which return detectron2's standard records."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import BoxMode
from pycocotools.mask import encode

from nasnet_det.detection.data.catalog import categories
from nasnet_det.detection.data.look import DatasetError
from nasnet_det.detection.data.registered import look_at_names
from nasnet_det.detection.evaluation.evaluator import CocoEvaluator

Function = Callable[..., str]


@pytest.fixture
def by_function(tmp_path: Path) -> Iterator[Function]:
    """Registers records under a name by a function; returns the name."""
    Image.new("RGB", (40, 30)).save(tmp_path / "1.jpg")
    names = []

    def call(*annotations: dict[str, Any], name: str = "function", classes: Any = ("hen", "fox"), **more: Any) -> str:
        record = {"file_name": str(tmp_path / "1.jpg"), "width": 40, "height": 30, "image_id": "a"} | more
        DatasetCatalog.register(name, lambda: [record | {"annotations": list(annotations)}])
        if classes:
            MetadataCatalog.get(name).set(thing_classes=list(classes))
        names.append(name)
        return name

    yield call
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def entry(**more: Any) -> dict[str, Any]:
    box = np.array([5, 5, 20, 25], dtype=np.float32)
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1} | more


def test_sets_registered_by_functions_are_converted_as_detectron2_does(by_function: Function) -> None:
    polygon = [[5.0, 5.0, 20.0, 5.0, 20.0, 25.0]]
    name = by_function(entry(), entry(segmentation=polygon, iscrowd=0), image_id=12)
    content = CocoEvaluator(name).annotations
    theirs = convert_to_coco_dict(name)
    for mine, other in zip(content["annotations"], theirs["annotations"], strict=True):
        assert {key: mine[key] for key in ("image_id", "category_id", "iscrowd")} == {
            key: other[key] for key in ("image_id", "category_id", "iscrowd")
        }
        assert mine["bbox"] == pytest.approx(other["bbox"]) and mine["area"] == pytest.approx(other["area"])
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(c["id"], c["name"]) for c in theirs["categories"]]


def test_a_function_that_fails_is_named_with_its_reason(by_function: Function) -> None:
    name = by_function()
    for error in (OSError("no such share"), SystemExit("no such share")):
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, _raising(error))
        with pytest.raises(DatasetError, match=f"data set {name}.*{type(error).__name__}: no such share"):
            look_at_names([name])


def _raising(error: BaseException) -> Callable[[], list[dict[str, Any]]]:
    def function() -> list[dict[str, Any]]:
        raise error

    return function


def test_ids_that_are_texts_are_numbered_and_told(by_function: Function) -> None:
    look = look_at_names(test=[by_function(entry())])
    (record,) = look.test["function"]
    assert record["image_id"] == 1 == CocoEvaluator("function").annotations["annotations"][0]["image_id"]
    assert [(trouble.where, trouble.examples) for trouble in look.troubles] == [("function", ["a"])]


def test_masks_of_another_form_are_refused(by_function: Function) -> None:
    with pytest.raises(DatasetError, match="rle"):
        look_at_names(test=[by_function(entry())], masks="rle")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_id": 2}, r"category_id 2\b.* 2 "),
        ({"category_id": -1}, "category_id -1"),
        ({"category_id": "1"}, "category_id '1'"),
        ({"bbox": [1, 2, 3]}, "bbox"),
        ({"bbox": None}, "bbox"),
        ({"bbox": [1, 2, 3, 4, 5], "bbox_mode": BoxMode.XYWHA_ABS}, "bbox"),
        ({"bbox_mode": BoxMode.XYXY_REL}, "bbox"),
        ({"bbox": [10**400, 1, 1, 1]}, "bbox"),
        ({"iscrowd": "no"}, "iscrowd"),
    ],
)
def test_wrong_records_are_named(by_function: Function, change: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=f"data set function.*{words}"):
        look_at_names([by_function(entry(**change))])


def test_numpy_numbers_and_paths_are_taken(by_function: Function, tmp_path: Path) -> None:
    made = entry(iscrowd=np.bool_(True), category_id=torch.tensor(1), segmentation=[["x"]])
    name = by_function(made, width=np.int64(40), file_name=tmp_path / "1.jpg", image_id=np.int32(7))
    (record,) = look_at_names(test=[name]).test[name]
    assert (record["image_id"], record["width"], record["annotations"][0]["iscrowd"]) == (7, 40, 1)


SQUARE = [5.0, 5.0, 20.0, 5.0, 20.0, 25.0, 5.0, 25.0]
PIXELS = np.zeros((30, 40), dtype=bool)
PIXELS[5:25, 5:20] = True


@pytest.mark.parametrize(
    "mask",
    [
        [np.array(SQUARE)],
        [np.array(SQUARE, dtype=np.float32).reshape(-1, 2)],
        [torch.tensor(SQUARE)],
        [tuple(SQUARE)],
        ([*map(int, SQUARE)],),
        encode(np.asfortranarray(PIXELS, dtype=np.uint8)),
        {"size": (30, 40), "counts": encode(np.asfortranarray(PIXELS, dtype=np.uint8))["counts"].decode()},
        PIXELS,
        torch.from_numpy(PIXELS).to(torch.uint8),
    ],
)
def test_masks_are_taken_in_every_form_that_detectron2_takes(by_function: Function, mask: Any) -> None:
    name = by_function(entry(segmentation=mask))
    (record,) = look_at_names([name], masks="bitmask").train
    assert CocoEvaluator(name).annotations["annotations"][0]["area"] == 300
    json.dumps(CocoEvaluator(name).annotations)  # of JSON's types
    masks = annotations_to_instances(record["annotations"], (30, 40), mask_format="bitmask").gt_masks
    assert (masks.tensor[0].numpy() == PIXELS).all()


@pytest.mark.parametrize("mask", ["x", 5, [["x"]], [[1, 2, 3]], [[None]], {"size": 5}, {}, PIXELS.T, PIXELS[None]])
def test_masks_that_detectron2_does_not_take_are_reported(by_function: Function, mask: Any) -> None:
    name = by_function(entry(segmentation=mask), entry(segmentation=[SQUARE]))
    look = look_at_names([name], masks="bitmask")
    assert len(look.train[0]["annotations"]) == 1 and "no usable mask" in look.report()


@pytest.mark.parametrize(
    "records",
    [[5], ["1.jpg"], [{"annotations": 5}], [{"annotations": [None]}], [{"annotations": np.array([{}, {}])}], 5],
)
def test_records_of_another_form_are_refused(records: Any) -> None:
    DatasetCatalog.register("odd", lambda: records)
    try:
        with pytest.raises(DatasetError, match="odd"):
            look_at_names(["odd"], num_classes=1)
    finally:
        DatasetCatalog.remove("odd")


def test_a_set_registered_again_is_looked_at_again(by_function: Function, tmp_path: Path) -> None:
    def records(number: int) -> list[dict[str, Any]]:
        record = {"file_name": str(tmp_path / "1.jpg"), "width": 40, "height": 30}
        return [record | {"image_id": i, "annotations": [entry()]} for i in range(number)]

    name = by_function(entry())
    for number in range(1, 6):  # each function may get the memory of the one before
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, functools.partial(records, number))
        assert len(look_at_names([name]).train) == number


def test_the_order_of_classes_is_that_of_the_metadata(by_function: Function) -> None:
    name = by_function(entry(category_id=0))
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {np.int64(9): 0, 4: np.int64(1)}
    look = look_at_names([name])
    assert look.classes == ["hen", "fox"] == [category["name"] for category in categories(name)]
    assert look.train[0]["annotations"][0]["category_id"] == 0
    assert CocoEvaluator(name).annotations["annotations"][0]["category_id"] == 9


@pytest.mark.parametrize(
    "metadata",
    [
        {"thing_classes": "hen"},
        {"thing_classes": np.array(["hen", "fox"])},
        {"thing_dataset_id_to_contiguous_id": {7: 0}, "thing_classes": ["hen", "fox"]},
        {"thing_dataset_id_to_contiguous_id": [7, 8], "thing_classes": ["hen", "fox"]},
    ],
)
def test_metadata_that_name_no_classes_are_refused(by_function: Function, metadata: dict[str, Any]) -> None:
    name = by_function(entry(category_id=0), classes=None)
    MetadataCatalog.get(name).set(**metadata)
    with pytest.raises(DatasetError, match=f"{name}.*{next(iter(metadata))}"):
        look_at_names([name])


def test_functions_that_fail_or_give_no_names(by_function: Function) -> None:
    assert look_at_names([by_function(entry(), classes=None)], num_classes=2).classes == ["0", "1"]
    with pytest.raises(DatasetError, match="width"):
        look_at_names([by_function(entry(), name="narrow", width=None)])
    with pytest.raises(DatasetError, match="file_name"):
        look_at_names([by_function(entry(), name="number", file_name=5)])
    DatasetCatalog.register("broken", lambda: 1 / 0)
    try:
        with pytest.raises(DatasetError, match=r"broken.*ZeroDivisionError"):
            look_at_names(["broken"])
    finally:
        DatasetCatalog.remove("broken")
