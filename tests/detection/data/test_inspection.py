"""The look at one data set: each trouble made once, its effect on the records, and its name in the report."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nasnet_det.detection.data.coco_format import COMPLETE, check_annotations
from nasnet_det.detection.data.inspection import look_at
from nasnet_det.detection.data.look import CocoData, SetLook
from nasnet_det.safe_io.values import format_value

Content = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(1, 5):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{number}.jpg")
    return tmp_path


def content(*boxes: Any, **more: Any) -> Content:
    """Four images of 40 x 30, one box each, or the given boxes in turn."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in range(1, 5)]
    given = boxes or ([2, 3, 10, 10],) * 4
    annotations = [
        {"id": i + 1, "image_id": i % 4 + 1, "category_id": 7, "bbox": list(box), **more} for i, box in enumerate(given)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "hen"}]}


def look(folder: Path, data: Content, training: bool = True, masks: str = "", keep_empty: bool = False) -> SetLook:
    check_annotations(data, "made", required=COMPLETE, sound=False)
    return look_at(CocoData("made", data, folder, "made"), training, masks, keep_empty)


def boxes(found: SetLook) -> list[Any]:
    return [entry["bbox"] for record in found.records for entry in record["annotations"]]


def has_trouble(found: SetLook, *words: str, fatal: bool = False) -> None:
    """Check that a trouble holds all the words, and whether it is fatal."""
    those = [trouble for trouble in found.troubles if all(word in str(trouble) for word in words)]
    assert fatal in [trouble.fatal for trouble in those], [str(trouble) for trouble in found.troubles]


def test_sound_data_is_without_trouble(folder: Path) -> None:
    found = look(folder, content())
    assert found.troubles == [] and found.data.names == ["hen"] and len(found.records) == 4
    assert found.records[0]["file_name"] == str(folder / "1.jpg")
    assert found.records[0]["annotations"] == [{"bbox": [2, 3, 10, 10], "bbox_mode": 1, "iscrowd": 0, "category_id": 0}]
    assert found.counts == {"images": 4, "images with objects": 4, "boxes": 4, "crowds": 0, "  hen": 4}


@pytest.mark.parametrize("crowd", [None, False, 0.0, 0])
def test_no_crowd_in_any_writing(folder: Path, crowd: Any) -> None:
    found = look(folder, content(iscrowd=crowd))
    assert found.counts["boxes"] == 4 and found.counts["crowds"] == 0


@pytest.mark.parametrize(
    ("box", "fatal"), [([2, 3, -4, 5], True), ([2, 3, float("nan"), 5], True), ([float("inf"), 3, 4, 5], True)]
)
def test_boxes_that_make_no_sense(folder: Path, box: list[float], fatal: bool) -> None:
    sound = [1, 1, 5, 5]
    found = look(folder, content(sound, box, sound, sound))
    assert boxes(found) == [sound] * 3
    has_trouble(found, "1 of 4", "2.jpg")
    has_trouble(look(folder, content(sound, box), training=False), "2.jpg", fatal=fatal)


@pytest.mark.parametrize("box", [[2, 3, 0, 5], [50, 3, 5, 5], [3, -9, 5, 5]])
def test_boxes_that_show_nothing_are_no_records_but_judged(folder: Path, box: list[float]) -> None:
    for training in (True, False):
        data = content([1, 1, 5, 5], box)
        found = look(folder, data, training)
        assert boxes(found) == [[1, 1, 5, 5]]
        has_trouble(found, "1 of 2", str(box), "2.jpg")
        assert len(found.records) == (1 if training else 4) and len(data["annotations"]) == 2


def test_boxes_in_another_format_are_asked_about(folder: Path) -> None:
    corners = [[2, 3, 30, 20], [15, 10, 39, 29], [20, 5, 38, 25], [1, 1, 20, 20]]
    found = look(folder, content(*corners))
    has_trouble(found, "2 of 4", "x0, y0, x1, y1")
    assert boxes(found) == corners
    for box in ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [-0.9, -0.8, 1.4, 1.4]):  # the last as Pascal VOC counts from 1
        has_trouble(look(folder, content(*[box] * 4)), "4 of 4", "0 to 1")


def test_a_few_odd_boxes_raise_no_question(folder: Path) -> None:
    found = look(folder, content([2, 3, 50, 20], *[[20, 20, 5, 5]] * 19))
    assert all("?" not in str(trouble) for trouble in found.troubles)
    has_trouble(found, "1 of 20", "cut")
    has_trouble(look(folder, content([2, 3, 50, 20]), training=False), "1 of 1", "whole")
    found = look(folder, content([-5, -5, 20, 20]))
    has_trouble(found, "1 of 1", "past")
    assert "?" not in str(found.troubles)


def test_missing_pictures_are_fatal_and_named(folder: Path) -> None:
    (folder / "3.jpg").unlink()
    for training in (True, False):
        has_trouble(look(folder, content(), training), "1 of 4", "3.jpg", fatal=True)


@pytest.mark.parametrize("spoil", [lambda p: p.write_bytes(b"no picture"), lambda p: Image.new("RGB", (9, 9)).save(p)])
def test_pictures_that_cannot_be_used(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder / "2.jpg")
    found = look(folder, content())
    assert [record["image_id"] for record in found.records] == [1, 3, 4]
    has_trouble(found, "1 of 4", "2.jpg")
    found = look(folder, content(), training=False)
    assert len(found.records) == 4
    has_trouble(found, "1 of 4", "2.jpg")
    for number in (1, 3):
        spoil(folder / f"{number}.jpg")
    has_trouble(look(folder, content()), "3 of 4", fatal=True)


def exif(path: Path, orientation: int) -> None:
    with Image.open(path) as image:
        data = image.getexif()
        data[0x0112] = orientation
        image.save(path, exif=data)


def test_pictures_annotated_as_stored_are_read_unturned(folder: Path) -> None:
    for number, orientation in ((1, 6), (2, 8), (3, 3)):
        exif(folder / f"{number}.jpg", orientation)
    found = look(folder, content())
    # 180 degrees do not show in the size; the others tell how the set was annotated.
    assert [record.get("turn", True) for record in found.records] == [False, False, False, True]
    has_trouble(found, "3 of 4", "1.jpg")


def test_pictures_annotated_upright_are_turned(folder: Path) -> None:
    exif(folder / "1.jpg", 6)
    exif(folder / "2.jpg", 3)
    data = content()
    data["images"][0] |= {"width": 30, "height": 40}
    found = look(folder, data)
    assert found.troubles == [] and all("turn" not in record for record in found.records)


def test_a_turn_that_does_not_show_is_told(folder: Path) -> None:
    exif(folder / "2.jpg", 3)
    has_trouble(look(folder, content()), "2.jpg", "EXIF")


@pytest.mark.parametrize("training", [True, False])
def test_exchanged_sides_are_put_right_where_the_boxes_agree(folder: Path, training: bool) -> None:
    data = content([25, 3, 10, 10])
    data["images"][0] |= {"width": 30, "height": 40}
    found = look(folder, data, training)
    assert (found.records[0]["width"], found.records[0]["height"]) == (40, 30)
    assert (data["images"][0]["width"], data["images"][0]["height"]) == (40, 30)
    has_trouble(found, "1.jpg", "exchanged")
    data = content([3, 25, 10, 10], [1, 1, 5, 5])
    data["images"][0] |= {"width": 30, "height": 40}
    has_trouble(look(folder, data, training), "40 x 30", "30 x 40")


def test_windows_and_absolute_paths(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "1.jpg").rename(folder / "sub" / "1.jpg")
    data = content()
    data["images"][0]["file_name"] = "sub\\1.jpg"
    data["images"][1]["file_name"] = str(folder / "2.jpg")
    found = look(folder, data)
    assert [Path(record["file_name"]) for record in found.records[:2]] == [folder / "sub" / "1.jpg", folder / "2.jpg"]


@pytest.mark.parametrize("training", [True, False])
def test_images_under_another_name_are_used_and_told_once(folder: Path, training: bool) -> None:
    data = content()
    for image, name in zip(data["images"], ("1.JPG", "2.png", "3.jpg", "4"), strict=True):
        image["file_name"] = name
    found = look(folder, data, training)
    assert [Path(record["file_name"]).name for record in found.records] == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    (trouble,) = found.troubles
    assert (trouble.count, trouble.total, trouble.fatal) == (3, 4, False) and "1.JPG" in str(trouble)


def test_images_of_which_several_may_be_meant_are_missing(folder: Path) -> None:
    Image.new("RGB", (40, 30)).save(folder / "1.png")
    data = content()
    data["images"][0]["file_name"] = "1.bmp"
    has_trouble(look(folder, data), "1 of 4", "1.bmp", "1.jpg, 1.png", fatal=True)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_form_of_unicode(folder: Path, forms: tuple[str, str]) -> None:
    listed, stored = (unicodedata.normalize(form, "hühner.jpg") for form in forms)
    (folder / "1.jpg").rename(folder / stored)
    data = content()
    data["images"][0]["file_name"] = listed
    assert look(folder, data).records[0]["file_name"] == str(folder / stored)


def test_images_listed_twice_and_ignored_annotations(folder: Path) -> None:
    data = content()
    data["images"][1]["file_name"] = "./1.jpg"
    has_trouble(look(folder, data), "2 of 4", "1.jpg")
    for mark in ("ignore", "is_crowd", "deleted", "crowd", "IsGroupOf"):
        has_trouble(look(folder, content(**{mark: 1})), "4 of 4", f"set '{mark}'", fatal=True)
        found = look(folder, content(iscrowd=1, **{mark: 1})).troubles
        assert not any(f"'{mark}'" in trouble.what for trouble in found), "crowds are left out anyway"
        has_trouble(look(folder, content(attributes={mark: True})), "4 of 4", f"set '{mark}'", fatal=True)
    has_trouble(look(folder, content(attributes={"iscrowd": "true"})), "4 of 4", "set 'iscrowd'", fatal=True)
    unset = {"angle": "front", "iscrowd": "false", "ignore": 0, "crowd": [1]}
    assert not look(folder, content(ignore=0, is_crowd=False, rotation=0.0, attributes=unset)).troubles
    has_trouble(look(folder, content(rotation=30.0)), "4 of 4", "rotated")


@pytest.mark.parametrize(
    ("key", "value", "is_other"),
    [
        *(("bbox_mode", value, True) for value in (0, "XYXY_ABS")),
        *(("bbox_mode", value, False) for value in (1, "BoxMode.XYWH_ABS", None)),
        *(("bbox_format", value, value == "xyxy") for value in ("xyxy", "coco")),
    ],
)
def test_boxes_that_are_marked_as_of_another_format(folder: Path, key: str, value: Any, is_other: bool) -> None:
    found = look(folder, content(**{key: value}))
    if is_other:
        has_trouble(found, "4 of 4", key, fatal=True)
    else:
        assert not found.troubles


def test_images_and_classes_without_objects(folder: Path) -> None:
    data = content([1, 1, 5, 5])
    data["categories"].append({"id": 9, "name": "fox"})
    found = look(folder, data)
    assert len(found.records) == 1
    has_trouble(found, "3 of 4", "2.jpg")
    has_trouble(found, "1 of 2", "fox")
    assert len(look(folder, data, keep_empty=True).records) == 4
    has_trouble(look(folder, data | {"annotations": []}), "no image", fatal=True)


def test_what_would_be_learnt_or_judged_wrongly_is_told(folder: Path) -> None:
    data = content([2, 3, 10, 10], [2, 3, 10, 10])
    data["annotations"][1]["image_id"] = 1
    data["annotations"][1]["area"] = -100
    data["categories"] += [{"id": 8, "name": "Hen "}, {"id": 9, "name": "\x1b[31mfox"}, {"id": 10, "name": "hen\u200b"}]
    found = look(folder, data)
    has_trouble(found, "1 of 2 boxes repeat", "1.jpg")
    has_trouble(found, "3 of 4", "Hen")
    assert all("\x1b" not in str(trouble) for trouble in found.troubles)
    has_trouble(found, "1 of 2", "area")
    has_trouble(look(folder, data, training=False), "1 of 2", "area", fatal=True)
    for area in (0, 900):
        data["annotations"][1]["area"] = area
        has_trouble(look(folder, data, training=False), "1 of 2", "area", "APs")


def test_sets_without_images_or_objects(folder: Path) -> None:
    for training in (True, False):
        has_trouble(look(folder, content() | {"images": [], "annotations": []}, training), "no image", fatal=True)
        has_trouble(look(folder, content() | {"annotations": []}, training), "no image has an object", fatal=training)
    data = content()
    del data["annotations"]
    assert not look(folder, data, training=False).troubles
    has_trouble(look(folder, data), "no image has an object", fatal=True)
    data = content([50, 50, 5, 5], [1, 1, 5, 5])
    data["annotations"][1]["iscrowd"] = 1
    has_trouble(look(folder, data), "no image has an object", "1 boxes are outside", "1 boxes are crowds", fatal=True)


def test_classes_of_one_name_are_counted_apart(folder: Path) -> None:
    data = content()
    data["categories"].append({"id": 8, "name": "hen"})
    data["annotations"][0]["category_id"] = 8
    counts = look(folder, data).counts
    assert (counts["  hen (id 7)"], counts["  hen (id 8)"]) == (3, 1)


@pytest.mark.parametrize("name", ["a" * 5000, "2.jpg\0", "2.csv", "2.jpg ", "http://host/5.jpg"])
def test_names_that_are_no_file_are_named(folder: Path, name: str) -> None:
    data = content()
    data["images"][1]["file_name"] = name
    has_trouble(look(folder, data), "1 of 4", name[:1], fatal=True)


@pytest.mark.parametrize("name", ["~/2.jpg", "http://host/2.jpg", "C:\\me\\2.jpg", "/data/upload/2.jpg"])
def test_images_of_another_folder_are_used_and_named(folder: Path, name: str) -> None:
    data = content()
    data["images"][1]["file_name"] = name
    found = look(folder, data)
    assert found.records[1]["file_name"] == str(folder / "2.jpg")
    has_trouble(found, "1 of 4", f"{name} as 2.jpg")
    data["images"][2]["file_name"] = "other/2.jpg"  # which of the two is it?
    has_trouble(look(folder, data), "2 of 4", "other", fatal=True)


def test_a_folder_named_like_an_image_is_no_image(folder: Path) -> None:
    (folder / "2.jpg").unlink()
    (folder / "2.jpg").mkdir()
    has_trouble(look(folder, content()), "1 of 4", "2.jpg", "cannot be read")


POLYGON = [[1, 1, 9, 1, 9, 9]]
RUNS = {"size": [30, 40], "counts": [31, 9, 1160]}
LATER_RUNS = {"size": [30, 40], "counts": [601, 9, 590]}


@pytest.mark.parametrize(
    "bad", [None, [], [[1, 1, 5, 5]], [[1, 1, 5, 5, 3]], [[]], {"size": [40, 30], "counts": [1200]}]
)
def test_masks_that_are_none(folder: Path, bad: Any) -> None:
    data = content(segmentation=POLYGON)
    data["annotations"][1]["segmentation"] = bad
    assert len(boxes(look(folder, data))) == 4  # masks are off
    found = look(folder, data, masks="polygon")
    assert len(boxes(found)) == 3 and found.counts["masks"] == 3
    has_trouble(found, "1 of 4", "2.jpg", format_value(bad))
    has_trouble(look(folder, data, training=False, masks="polygon"), "1 of 4", fatal=True)
    has_trouble(look(folder, content(segmentation=bad), masks="polygon"), "4 of 4", "MASK_ON", fatal=True)


def test_forms_of_masks(folder: Path) -> None:
    pytest.importorskip("pycocotools")
    mixed = content(segmentation=[[1, 1, 5, 5], *POLYGON])
    assert look(folder, mixed, masks="polygon").records[0]["annotations"][0]["segmentation"] == POLYGON
    runs = content(*[[1, 1, 4, 9]] * 4, segmentation=RUNS)
    has_trouble(look(folder, runs, masks="polygon"), "4 of 4", "MASK_FORMAT", fatal=True)
    found = look(folder, runs, masks="bitmask")
    assert isinstance(found.records[0]["annotations"][0]["segmentation"]["counts"], bytes) and not found.troubles


@pytest.mark.parametrize("mask", [{"size": [30, 40], "counts": [1200]}, [[7, 4, 7, 8, 7, 12]]])
def test_masks_that_show_nothing_are_told(folder: Path, mask: Any) -> None:
    data = content(segmentation=POLYGON)
    data["annotations"][1]["segmentation"] = mask
    found = look(folder, data, masks="bitmask")
    assert len(boxes(found)) == 3 and len(found.troubles) == 2  # the other: an image without objects
    has_trouble(found, "1 of 4 masks", "2.jpg")
    has_trouble(look(folder, data, training=False, masks="bitmask"), "1 of 4 masks", "2.jpg", "missed")


@pytest.mark.parametrize("mask", [[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]], [[30, 20, 39, 20, 39, 29]], LATER_RUNS])
@pytest.mark.parametrize("training", [True, False])
def test_masks_in_another_place_than_their_boxes_are_told(folder: Path, mask: Any, training: bool) -> None:
    pytest.importorskip("pycocotools")
    data = content(*[[1, 1, 8, 8]] * 4, segmentation=POLYGON)
    assert not look(folder, data, training, masks="bitmask").troubles
    data["annotations"][0]["segmentation"] = mask
    has_trouble(look(folder, data, training, masks="bitmask"), "1 of 4 masks", "[1, 1, 8, 8]")


@given(st.lists(st.tuples(*[st.floats(-60, 60, width=32)] * 4), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_training_sees_exactly_the_boxes_that_show_something(folder: Path, drawn: list[Any]) -> None:
    kept = boxes(look(folder, content(*drawn), keep_empty=True))
    for x, y, width, height in drawn:
        shows = width > 0 and height > 0 and min(x + width, 40) > max(x, 0) and min(y + height, 30) > max(y, 0)
        assert ([x, y, width, height] in kept) == bool(shows)
    assert np.isfinite(kept).all()


def test_many_crowds_are_asked_about(folder: Path) -> None:
    """CVAT and Datumaro mark masks of single objects so."""
    few = content(*[[2, 3, 10, 10]] * 20)
    few["annotations"][0]["iscrowd"] = 1
    assert not [trouble for trouble in look(folder, few).troubles if "iscrowd" in trouble.what]
    few["annotations"][1]["iscrowd"] = few["annotations"][2]["iscrowd"] = 1
    has_trouble(look(folder, few), "3 of 20 boxes", "iscrowd")


def test_turned_boxes_are_named(folder: Path) -> None:
    """CVAT and Datumaro write the box before it is turned, and the angle beside it."""
    data = content(attributes={"rotation": 0.0})
    assert look(folder, data).troubles == []
    data["annotations"][2]["attributes"] = {"rotation": 30.0}
    has_trouble(look(folder, data), "1 of 4 boxes", "rotation", "3.jpg")


def test_scores_of_partly_annotated_images_are_commented(folder: Path) -> None:
    data = content()
    data["images"][2]["neg_category_ids"] = []
    has_trouble(look(folder, data, training=False), "1 of 4 images", "neg_category_ids", "3.jpg")
    assert look(folder, data).troubles == []
