"""Bad data sets: an error at the start, or left out, counted and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("detectron2")
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from nasnet_det.detection.data.datasets import SPLITS, datasets_root, register_coco_splits
from nasnet_det.detection.data.look import DatasetError
from nasnet_det.detection.data.registered import look_at_names

Register = Callable[..., None]


def content() -> dict[str, Any]:
    images = [{"id": i, "width": 40, "height": 30, "file_name": f"{i}.jpg"} for i in (1, 2, 3)]
    box = {"category_id": 5, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": 0}
    boxes = [{"id": 1, "image_id": 1, **box}, {"id": 2, "image_id": 2, **box}]
    return {"images": images, "annotations": boxes, "categories": [{"id": 5, "name": "person"}]}


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    """Registers content, with empty files as images, under a name."""
    names = []

    def call(data: Any, name: str = "made") -> None:
        for image in data.get("images", ()):
            Image.new("RGB", (40, 30)).save(tmp_path / image["file_name"])
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
        register_coco_instances(name, {}, str(tmp_path / f"{name}.json"), str(tmp_path))
        names.append(name)

    yield call
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_useless_boxes_and_empty_images_are_left_out_and_named(
    register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    data = content()
    for number, box in enumerate(([5, 5, 0, 10], [50, 2, 5, 5], [1, -9, 5, 5], [35, 25, 50, 50]), start=3):
        data["annotations"].append({"id": number, "image_id": 1, "category_id": 5, "bbox": box, "iscrowd": 0})
    data["annotations"][1]["iscrowd"] = 1
    register(data)
    records = look_at_names(["made"]).train
    assert [record["image_id"] for record in records] == [1]
    assert [entry["bbox"] for entry in records[0]["annotations"]] == [[1, 2, 10, 10], [35, 25, 50, 50]]
    for named in ("[5, 5, 0, 10]", "[50, 2, 5, 5]", "[1, -9, 5, 5]", "1.jpg", "40 x 30", "2.jpg", "3.jpg"):
        assert named in caplog.text


def test_a_set_to_be_judged_on_stays_whole(register: Register) -> None:
    data = content()
    data["annotations"][0]["bbox"] = [5, 5, 0, 10]
    register(data)
    records = look_at_names(test=["made"]).test["made"]
    assert [len(record["annotations"]) for record in records] == [0, 1, 0]


def test_a_missing_image_is_an_error_that_names_it(register: Register, tmp_path: Path) -> None:
    register(content())
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 .*2\.jpg"):
        look_at_names(["made"])


def test_unknown_categories_are_an_error(register: Register) -> None:
    data = content()
    data["annotations"][0]["category_id"] = 6
    register(data)
    with pytest.raises(DatasetError, match=r"made\.json.*category_id that is not among .* 1 categories: 6"):
        look_at_names(["made"])


def test_more_classes_than_the_model_are_an_error(register: Register) -> None:
    data = content()
    data["categories"].append({"id": 6, "name": "car"})
    register(data)
    with pytest.raises(DatasetError, match=r"made.*2 .*person, car.* 1\b.*MODEL\.ROI_HEADS\.NUM_CLASSES"):
        look_at_names(["made"], num_classes=1)
    assert look_at_names(["made"], num_classes=2)


def test_sets_of_other_classes_are_not_mixed(register: Register) -> None:
    register(content(), "first")
    register(content() | {"categories": [{"id": 5, "name": "car"}]}, "second")
    with pytest.raises(DatasetError, match=r"second.*car.*person"):
        look_at_names(["first", "second"])


def test_files_that_are_not_there_or_broken(register: Register, tmp_path: Path) -> None:
    register(content())
    (tmp_path / "made.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match=r"made\.json is not JSON"):
        look_at_names(["made"])
    (tmp_path / "made.json").unlink()
    with pytest.raises(DatasetError, match=r"made\.json does not exist"):
        look_at_names(["made"])
    with pytest.raises(DatasetError, match="no data set 'nowhere'"):
        look_at_names(["nowhere"])


def test_nothing_to_learn_is_an_error(register: Register) -> None:
    register(content() | {"annotations": []})
    with pytest.raises(DatasetError, match="no image has an object"):
        look_at_names(["made"])


def test_the_splits_are_registered_once_and_where_they_are_missing_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    register_coco_splits()
    register_coco_splits()
    assert set(SPLITS) <= set(DatasetCatalog.list())
    if not Path(MetadataCatalog.get("coco_2014_minival_8k").json_file).exists():
        with pytest.raises(DatasetError, match="prepare-coco"):
            look_at_names(["coco_2014_minival_8k"])


def test_the_root_is_detectron2s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert datasets_root() == tmp_path
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert datasets_root() == Path("datasets")
