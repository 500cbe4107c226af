"""Data sets compared with each other and with the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nasnet_det.detection.data.coco_format import COMPLETE, read_annotations
from nasnet_det.detection.data.inspection import look_at
from nasnet_det.detection.data.look import CocoData, DatasetError, Look, SetLook, Trouble, join, match_categories


def made(name: str, classes: list[str], ids: list[int] | None = None) -> SetLook:
    """One image of the name with a box of each class."""
    categories = [{"id": i, "name": c} for i, c in zip(ids or range(1, 1 + len(classes)), classes, strict=True)]
    categories.sort(key=lambda category: category["id"])
    boxes = [{"category_id": number} for number in range(len(classes))]
    record = {"file_name": name, "image_id": 1, "annotations": boxes}
    data = CocoData(name, {"images": [], "annotations": [], "categories": categories}, Path(), name)
    return SetLook(data, [record], {"boxes": len(boxes)}, [])


def names(look: Look, records: list[dict[str, Any]]) -> list[str]:
    return [look.classes[entry["category_id"]] for record in records for entry in record["annotations"]]


def test_classes_are_matched_by_name() -> None:
    train, swapped, some = made("train", ["hen", "fox"]), made("val", ["hen", "fox"], [9, 4]), made("part", ["fox"])
    look = join([train], [swapped, some], num_classes=2)
    look.refuse_fatal()
    assert names(look, look.train) == ["hen", "fox"]
    assert names(look, look.test["val"]) == ["fox", "hen"]
    assert names(look, look.test["part"]) == ["fox"]
    assert swapped.records[0]["annotations"][0]["category_id"] == 0  # the single look is unchanged


def test_other_names_are_refused_with_both_lists() -> None:
    look = join([made("train", ["hen", "fox"])], [made("val", ["hen", "cow"])])
    with pytest.raises(DatasetError, match=r"val.*hen, cow.*hen, fox"):
        look.refuse_fatal()


@pytest.mark.parametrize("number", [1, 3])
def test_another_number_of_classes_is_refused_with_both_numbers(number: int) -> None:
    look = join([made("train", ["hen", "fox"])], [], num_classes=number, key="SOME.KEY")
    with pytest.raises(DatasetError, match=rf"train.* 2 .*hen, fox.*{number}.*SOME\.KEY"):
        look.refuse_fatal()


@pytest.mark.parametrize(("number", "named"), [(3, r"has 2 classes.*whole.* 3\b"), (2, r"whole.*first")])
def test_a_first_training_set_of_some_classes_is_told_apart_from_a_wrong_number(number: int, named: str) -> None:
    part, whole = made("part", ["hen", "fox"]), made("whole", ["hen", "fox", "cow"])
    with pytest.raises(DatasetError, match=named) as raised:
        join([part, whole], [], num_classes=number, key="SOME.KEY").refuse_fatal()
    assert "SOME.KEY" not in str(raised.value)
    join([whole, part], [], num_classes=3).refuse_fatal()


def test_the_models_own_names_count_most() -> None:
    look = join([], [made("val", ["hen", "fox"])], num_classes=3, classes=["cow", "fox", "hen"])
    look.refuse_fatal()
    assert names(look, look.test["val"]) == ["hen", "fox"]


def test_a_trouble_of_a_set_for_both_uses_is_told_once() -> None:
    trouble = Trouble("both", "odd", 1, 2, ["a"], "Left out")
    sets = [made("both", ["hen"]), made("both", ["hen"])]
    for found in sets:
        found.troubles.append(trouble)
    assert join(sets[:1], sets[1:]).troubles == [trouble]


def test_images_of_both_sets_are_counted() -> None:
    train, val = made("same.jpg", ["hen"]), made("same.jpg", ["hen"])
    val.data = CocoData("val", val.data.content, Path(), "val")
    (trouble,) = join([train], [val]).troubles
    assert (trouble.count, trouble.fatal) == (1, False) and "same.jpg" in str(trouble)
    assert join([train], [made("same.jpg", ["hen"])]).troubles == []  # one set for both, as in a demo


def test_images_of_both_sets_are_found_through_links_and_as_copies(tmp_path: Path) -> None:
    picture, link, copy = (tmp_path / f"{name}.jpg" for name in ("picture", "link", "copy"))
    Image.new("RGB", (40, 30)).save(picture)
    link.symlink_to(picture)
    shutil.copy(picture, copy)
    for other in (link, copy):
        (trouble,) = join([made(str(picture), ["hen"])], [made(str(other), ["hen"])]).troubles
        assert trouble.count == 1 and not trouble.fatal and other.name in str(trouble)


def test_the_report_counts_every_set() -> None:
    report = join([made("train", ["hen", "fox"])], [made("val", ["hen"])]).report()
    assert [line.split() for line in report.splitlines()[:2]] == [["train", "val"], ["boxes", "2", "1"]]


def test_classes_without_a_box_need_not_be_the_models() -> None:
    """As the name of all classes that Roboflow's COCO files have as their first."""
    roboflow = made("val", ["animals", "fox", "hen"])
    del roboflow.records[0]["annotations"][0]
    look = join([made("train", ["hen", "fox"])], [roboflow])
    look.refuse_fatal()
    assert names(look, look.test["val"]) == ["fox", "hen"]
    assert ["animals"] in [trouble.examples for trouble in look.troubles]


def test_names_hold_no_commands_for_a_terminal() -> None:
    assert "fox\\x1b[2J\\n" in join([made("fox\x1b[2J\n", ["hen"])], []).report()


def test_categories_of_a_model() -> None:
    categories = [{"id": 2, "name": "hen"}, {"id": 5, "name": "fox"}]
    assert match_categories(["hen", "cow", "fox"], categories, "x") == [2, None, 5]
    with pytest.raises(DatasetError, match="hen, fox"):
        match_categories(["hen", "cow"], categories, "x")
    assert match_categories(["hen", "cow"], categories, "x", used={2}) == [2, None]
    with pytest.raises(DatasetError, match="hen, fox"):
        match_categories(["hen", "cow"], categories, "x", used={2, 5})
    twins = [{"id": 1, "name": "hen"}, {"id": 2, "name": "hen"}]
    assert match_categories(["hen", "hen"], twins, "x") == [1, 2]
    with pytest.raises(DatasetError, match="hen, hen"):
        match_categories(["hen", "fox"], twins, "x")


@pytest.mark.parametrize("case", ["t14_swapped_val", "n06_val_subset", "t02_iscrowd_null", "t29_annid0", "m04_exif"])
def test_shared_cases_can_be_used(shared: Path, case: str) -> None:
    folder = shared / "cases" / case
    looks = []
    for split in ("train", "val"):
        annotations = read_annotations(folder / f"{split}.json", required=COMPLETE, sound=False)
        looks.append(look_at(CocoData(split, annotations, folder / "images", split), split == "train"))
    look = join(looks[:1], looks[1:], num_classes=len(looks[0].data.names))
    look.refuse_fatal()
    assert len(look.train) == looks[0].counts["images"] and looks[0].counts["boxes"] > 0
    drawn = {record["file_name"]: names(look, [record]) for record in look.train}
    for record in look.test["val"]:
        assert set(names(look, [record])) <= set(drawn[record["file_name"]])
