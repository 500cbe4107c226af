"""Bad data sets: an error at the start, or left out, counted and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2")
from detectron2.data import DatasetCatalog, MetadataCatalog

from nasnet_det.detection.data.catalog import categories
from nasnet_det.detection.data.datasets import SPLITS, datasets_root, register_coco_splits
from nasnet_det.detection.data.look import DatasetError
from nasnet_det.detection.data.registered import (
    class_names,
    look_at_config,
    look_at_names,
    training_records,
)
from nasnet_det.detection.evaluation.evaluator import CocoEvaluator
from tests.helpers import coco_content

Register = Callable[..., None]


def test_useless_boxes_and_empty_images_are_left_out_and_named(
    register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    data = coco_content()
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
    data = coco_content()
    data["annotations"][0]["bbox"] = [5, 5, 0, 10]
    register(data)
    records = look_at_names(test=["made"]).test["made"]
    assert [len(record["annotations"]) for record in records] == [0, 1, 0]


def test_a_missing_image_is_an_error_that_names_it(register: Register, tmp_path: Path) -> None:
    register(coco_content())
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 .*2\.jpg"):
        look_at_names(["made"])


def test_unknown_categories_are_an_error(register: Register) -> None:
    data = coco_content()
    data["annotations"][0]["category_id"] = 6
    register(data)
    with pytest.raises(DatasetError, match=r"made\.json.*category_id .*: 6"):
        look_at_names(["made"])


def test_more_classes_than_the_model_are_an_error(register: Register) -> None:
    data = coco_content()
    data["categories"].append({"id": 6, "name": "car"})
    register(data)
    with pytest.raises(DatasetError, match=r"made.*2 .*person, car.* 1\b.*MODEL\.ROI_HEADS\.NUM_CLASSES"):
        look_at_names(["made"], num_classes=1)
    assert look_at_names(["made"], num_classes=2)


def test_a_training_set_named_twice_is_trained_on_twice(register: Register) -> None:
    register(coco_content(), "first")
    register(coco_content(), "second")
    look = look_at_names(["first", "first", "second"], ["second", "second"])
    assert [record["image_id"] for record in look.train] == [1, 2] * 3 and len(look.test["second"]) == 3
    assert len(look.sets) == 3  # two to train on, one to test on


@pytest.mark.parametrize(("key", "training"), [("TRAIN", True), ("TEST", False)])
def test_a_config_without_data_is_refused(small_config: Callable[..., Any], key: str, training: bool) -> None:
    cfg = small_config("fpn_mobile.yaml", **{f"DATASETS__{key}": ()})
    with pytest.raises(DatasetError, match=rf"DATASETS\.{key}"):
        look_at_config(cfg, training=training)


def test_an_evaluator_follows_the_classes_of_the_training_set(register: Register) -> None:
    def named(*names: str) -> dict[str, Any]:
        data = coco_content() | {"categories": [{"id": 5 + i, "name": name} for i, name in enumerate(names)]}
        return data

    register(named("hen", "fox"), "first")
    register(named("fox", "hen"), "second")
    assert CocoEvaluator("second").category_ids == [5, 6]
    training_records("first", test="second")
    look_at_names(test=["second"])  # as the test loader does
    assert CocoEvaluator("second").category_ids == [6, 5]
    assert class_names("first") == ["hen", "fox"] and class_names("nowhere") is None
    assert CocoEvaluator("second", classes=["fox", "hen"]).category_ids == [5, 6]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"names": []}, "names"),
        ({"names": None}, "names"),
        ({"test": None}, "name"),
        ({"test": ["made", "made"]}, "name"),
        ({"num_classes": 2}, "2"),
        ({"num_classes": 90, "label_ids": [1, 18]}, "2"),
    ],
)
def test_what_a_lazy_config_gives_is_checked_before_training(
    register: Register, given: dict[str, Any], named: str
) -> None:
    register(coco_content())
    assert len(training_records("made", test="made", num_classes=90, label_ids=[1])) == 2
    with pytest.raises(DatasetError, match=named):
        training_records(**{"names": "made", "test": "made", "num_classes": 1, **given})


def test_sets_of_other_classes_are_not_mixed(register: Register) -> None:
    register(coco_content(), "first")
    register(coco_content() | {"categories": [{"id": 5, "name": "car"}]}, "second")
    with pytest.raises(DatasetError, match=r"second.*car.*person"):
        look_at_names(["first", "second"])


def test_files_that_are_not_there_or_broken(register: Register, tmp_path: Path) -> None:
    register(coco_content())
    (tmp_path / "made.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match=r"made\.json"):
        look_at_names(["made"])
    (tmp_path / "made.json").unlink()
    with pytest.raises(DatasetError, match=r"made\.json"):
        look_at_names(["made"])
    with pytest.raises(DatasetError, match="'nowhere'") as raised:
        look_at_names(["nowhere"], ["nowhere"])
    assert str(raised.value).count("'nowhere'") == 1


def test_nothing_to_learn_is_an_error(register: Register) -> None:
    register(coco_content() | {"annotations": []})
    with pytest.raises(DatasetError, match="made"):
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


def test_thing_classes_that_are_not_the_files_are_refused_with_both(register: Register) -> None:
    register(coco_content())
    file = MetadataCatalog.get("made").json_file
    MetadataCatalog.get("made").thing_classes = ["animal"]
    with pytest.raises(DatasetError, match=r"person.*animal"):
        look_at_names(["made"])
    MetadataCatalog.remove("made")
    MetadataCatalog.get("made").set(
        json_file=file,
        image_root=".",
        thing_classes=["animal", "person"],
        thing_dataset_id_to_contiguous_id={5: 0, 6: 1},
    )
    with pytest.raises(DatasetError, match=r"5.*person.*animal"):
        look_at_names(["made"])


@pytest.mark.parametrize("ids", [None, {5: 1, 6: 0}])
def test_the_order_of_thing_classes_is_that_of_labels_records_and_results(
    register: Register, ids: dict[int, int] | None
) -> None:
    content = coco_content() | {"categories": [{"id": 5, "name": "person"}, {"id": 6, "name": "animal"}]}
    register(content)
    MetadataCatalog.get("made").thing_classes = ["animal", "person"]
    if ids:
        MetadataCatalog.get("made").thing_dataset_id_to_contiguous_id = ids
    look = look_at_names(["made"], ["made"])
    assert look.classes == ["animal", "person"] == [category["name"] for category in categories("made")]
    assert {entry["category_id"] for record in look.train for entry in record["annotations"]} == {1}
    assert CocoEvaluator("made").category_ids == [6, 5]


def test_an_annotation_file_that_cannot_be_fetched_is_named(register: Register) -> None:
    register(coco_content())
    MetadataCatalog.remove("made")
    MetadataCatalog.get("made").set(json_file="http://127.0.0.1:9/made.json", image_root=".")
    with pytest.raises(DatasetError, match=r"made.*127\.0\.0\.1"):
        look_at_names(["made"])


def test_names_in_another_form_of_unicode_are_the_same(register: Register) -> None:
    for name, text in (("made", "caf\xe9"), ("other", "cafe\u0301")):
        register(coco_content() | {"categories": [{"id": 5, "name": text}]}, name)
        MetadataCatalog.get(name).thing_classes = [text]
    assert look_at_names(["made"], ["other"]).classes == ["caf\xe9"]


def test_everything_fatal_is_in_one_error(register: Register, tmp_path: Path) -> None:
    register(coco_content())
    register(coco_content() | {"categories": [{"id": 5, "name": "car"}]}, "other")
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(DatasetError) as error:
        look_at_names(["made"], ["other", "nowhere"], num_classes=3)
    assert all(word in str(error.value) for word in ("nowhere", "2.jpg", "car", "3"))


def test_a_look_is_taken_once_until_the_file_changes(register: Register, tmp_path: Path) -> None:
    register(coco_content())
    first = look_at_names(["made"]).sets[0]
    assert look_at_names(["made"]).sets[0] is first
    changed = coco_content()
    changed["annotations"].append(changed["annotations"][0] | {"id": 3, "image_id": 3})
    (tmp_path / "made.json").write_text(json.dumps(changed))
    assert len(look_at_names(["made"]).train) == 3
