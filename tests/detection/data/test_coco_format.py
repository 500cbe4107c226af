"""COCO's files: what is refused, by which words, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasnet_det.detection.data.coco_format import (
    COMPLETE,
    CocoFormatError,
    category_labels,
    check_annotations,
    check_results,
    check_true_masks,
    read_annotations,
    read_results,
)


def annotations() -> dict[str, Any]:
    return {
        "images": [{"id": 7, "width": 40, "height": 30, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3.5, 4]}],
    }


def results() -> list[dict[str, Any]]:
    return [{"image_id": 7, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}]


def write(folder: Path, data: Any) -> Path:
    path = folder / "file.json"
    path.write_text(json.dumps(data))
    return path


def test_left_out_fields_are_filled_in(tmp_path: Path) -> None:
    found = read_annotations(write(tmp_path, annotations()))["annotations"][0]
    assert (found["iscrowd"], found["area"]) == (0, 14.0)


def test_classes_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    data = annotations()
    data["categories"].reverse()
    assert [category["id"] for category in read_annotations(write(tmp_path, data))["categories"]] == [1, 3]


def test_a_file_of_image_information_is_read(tmp_path: Path) -> None:
    data = annotations()
    del data["annotations"]
    assert "annotations" not in read_annotations(write(tmp_path, data))


@pytest.mark.parametrize(
    ("group", "key", "wrong"),
    [
        ("images", "width", "40"),
        ("images", "width", 40.5),
        ("images", "height", 0),
        ("images", "file_name", ""),
        ("categories", "name", 3),
        ("categories", "name", " "),
        ("categories", "name", "a\ud800"),
    ],
)
def test_what_only_some_uses_need_is_right_or_absent(tmp_path: Path, group: str, key: str, wrong: Any) -> None:
    data = annotations()
    assert read_annotations(write(tmp_path, data), required=COMPLETE)
    data[group][0][key] = wrong
    with pytest.raises(CocoFormatError, match=rf"{group}.*id \d.*'{key}'"):
        read_annotations(write(tmp_path, data))
    del data[group][0][key]
    assert read_annotations(write(tmp_path, data))
    with pytest.raises(CocoFormatError, match=rf"{group}.*id \d.*'{key}'"):
        read_annotations(write(tmp_path, data), required=[key])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_files_in_any_unicode_encoding_are_read(tmp_path: Path, encoding: str) -> None:
    data = annotations()
    data["categories"][0]["name"] = "Hühner 鶏"
    path = tmp_path / "file.json"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding=encoding)
    assert read_annotations(path)["categories"][0]["name"] == "Hühner 鶏"


@pytest.mark.parametrize("value", [3.0, 3])
def test_whole_numbers_may_be_written_as_floats(tmp_path: Path, value: Any) -> None:
    data = annotations()
    data["annotations"][0]["category_id"] = value
    assert type(read_annotations(write(tmp_path, data))["annotations"][0]["category_id"]) is int


@pytest.mark.parametrize("crowd", ["0", "no", 0.5, [], -1])
def test_crowds_of_other_kinds_name_the_annotation(tmp_path: Path, crowd: Any) -> None:
    data = annotations()
    data["annotations"][0]["iscrowd"] = crowd
    with pytest.raises(CocoFormatError, match=r"entry 0 \(id 1\).*'iscrowd'"):
        read_annotations(write(tmp_path, data))


@pytest.mark.parametrize("ids", [[None, None], [1, 1], [5, None]])
def test_annotations_without_an_id_of_their_own_are_numbered(tmp_path: Path, ids: list[int | None]) -> None:
    """As labelformat, and Datumaro's conversions, write them."""
    data = annotations()
    entry = data["annotations"].pop()
    for number, x in zip(ids, (1.0, 2.0), strict=True):
        made = {**entry, "id": number, "bbox": [x, 2, 3, 4]}
        data["annotations"].append(made if number else {key: value for key, value in made.items() if key != "id"})
    found = read_annotations(write(tmp_path, data))["annotations"]
    assert [(made["id"], made["bbox"][0]) for made in found] == [(1, 1.0), (2, 2.0)]


def test_sizes_of_null_are_unknown(tmp_path: Path) -> None:
    """As Label Studio writes them; scoring needs none."""
    data = annotations()
    data["images"][0] |= {"width": None, "height": None}
    assert read_annotations(write(tmp_path, data))["images"] == [{"id": 7, "file_name": "a.jpg"}]
    with pytest.raises(CocoFormatError, match=r"id 7.*'width'"):
        read_annotations(write(tmp_path, data), required=COMPLETE)


def change(key: str, value: Any, group: str = "annotations") -> Callable[[dict[str, Any]], None]:
    return lambda data: data[group][0].update({key: value})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data.pop("images"), "'images'"),
        (lambda data: data.update(annotations={}), r"file\.json, annotations\b"),
        (change("image_id", 8), "image_id .*: 8"),
        (change("category_id", 2), "category_id .*: 2"),
        (change("category_id", "3"), "'category_id'.*'3'"),
        (change("bbox", [1, 2, 3]), "'bbox'"),
        (change("bbox", [1, 2, -3, 4]), "'bbox'"),
        (change("bbox", [1, 2, float("nan"), 4]), "'bbox'"),
        (lambda data: data["annotations"][0].pop("bbox"), "entry 0 .*'bbox'"),
        (lambda data: data["annotations"].append(data["annotations"][0]), "annotations.*: 1"),
        (lambda data: data["images"].append(data["images"][0]), "images.*: 7"),
        (lambda data: data["categories"].append("car"), "entry 2"),
        (lambda data: data["categories"][0].update(name="\u200b "), "'name'"),
    ],
)
def test_bad_annotations_are_one_clear_error(tmp_path: Path, spoil: Callable[[Any], Any], words: str) -> None:
    data = annotations()
    spoil(data)
    with pytest.raises(CocoFormatError, match=words) as error:
        read_annotations(write(tmp_path, data))
    assert "file.json" in str(error.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: r[0].update(image_id=1), "image_id"),
        (lambda r: r[0].update(category_id=2), "category_id"),
        (lambda r: r[0].update(score="high"), "'score'"),
        (lambda r: r[0].update(score=float("inf")), "'score'"),
        (lambda r: r[0].update(bbox="wide"), "'bbox'"),
        (lambda r: r[0].update(score=True), "'score'"),
        (lambda r: r[0].pop("score"), "entry 0 .*'score'"),
        (lambda r: r.append(5), "entry 1"),
    ],
)
def test_bad_results_are_one_clear_error(tmp_path: Path, spoil: Callable[[Any], Any], words: str) -> None:
    data = results()
    spoil(data)
    with pytest.raises(CocoFormatError, match=words):
        read_results(write(tmp_path, data), annotations())


@pytest.mark.parametrize(
    "text",
    ["{", '{"images": []}', "3", "\xff"],
)
def test_files_of_another_kind(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(CocoFormatError, match=r"file\.json.*image_id.*score"):
        read_results(path, annotations())


def test_results_that_are_cut_off_are_not_taken_for_another_form(tmp_path: Path) -> None:
    path = write(tmp_path, results())
    path.write_text(path.read_text()[:-5])
    with pytest.raises(CocoFormatError, match=r"\.json.*(line|char) \d"):
        read_results(path, annotations())


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(CocoFormatError, match=r"none\.json"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(CocoFormatError, match=tmp_path.name):
        read_annotations(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CocoFormatError, match="binary"):
        read_annotations(tmp_path / "binary")
    with pytest.raises(CocoFormatError, match=r"file\.json"):
        read_annotations(write(tmp_path, results()))


def test_masks_are_checked(tmp_path: Path) -> None:
    def read(mask: Any) -> None:
        data = [{"image_id": 7, "category_id": 3, "score": 0.5, "segmentation": mask}]
        read_results(write(tmp_path, data), annotations(), segmentation=True)

    read({"size": [30, 40], "counts": "`U1"})
    with pytest.raises(CocoFormatError, match="RLE"):
        read([[1, 1, 2, 2, 3, 3]])
    with pytest.raises(CocoFormatError, match=r"image 7, \[30, 40\]"):
        read({"size": [40, 30], "counts": "1"})


def test_no_two_categories_have_one_label() -> None:
    names = {7: "hen", 8: "hen", 9: "hen (id 7)", 10: "fox"}
    labels = category_labels([{"id": number, "name": name} for number, name in names.items()])
    assert len(set(labels.values())) == 4 and labels[10] == "fox" and "8" in labels[8]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("bbox", ["1", "2", "3", "4"], "'bbox'"),
        ("bbox", [10**400, 1, 1, 1], "'bbox'"),
        ("bbox", [True, 1, 1, 1], "'bbox'"),
        ("area", -1, "'area'.*-1"),
        ("id", 10**30, "'id'"),
        ("area", "large", "'area'.*'large'"),
        ("area", float("nan"), "'area'"),
        ("iscrowd", 2, "'iscrowd'"),
    ],
)
def test_what_the_evaluations_cannot_take_is_refused(key: str, value: object, words: str) -> None:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], key: value}
    data = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [entry]}
    with pytest.raises(CocoFormatError, match=words):
        check_annotations(data, "x")


def test_a_crowd_may_be_a_truth_value() -> None:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": True}
    check_annotations({"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [entry]}, "x")
    assert entry["iscrowd"] == 1 and type(entry["iscrowd"]) is int


@pytest.mark.parametrize("counts", ["Xo0", "\x00", "o", "00000O", "1"])
def test_masks_that_are_not_of_their_image_are_refused(counts: str) -> None:
    result = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": {"size": [4, 5], "counts": counts}}
    annotations = {"images": [{"id": 1, "height": 4, "width": 5}], "categories": [{"id": 1}]}
    with pytest.raises(CocoFormatError, match=r"entry 0: .*RLE"):
        check_results([result], annotations, segmentation=True)


def test_masks_as_cocos_own_code_writes_them_are_taken() -> None:
    masks = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    for height, width, share in ((4, 5, 0.5), (80, 100, 0.02), (300, 2, 0.9), (37, 41, 0.0), (9, 9, 1.1)):
        mask = masks.encode(np.asfortranarray(random.random((height, width)) < share, dtype=np.uint8))
        result = {"image_id": 1, "category_id": 1, "score": 0.5}
        result["segmentation"] = {"size": [height, width], "counts": mask["counts"].decode()}
        annotations = {"images": [{"id": 1, "height": height, "width": width}], "categories": [{"id": 1}]}
        check_results([result], annotations, segmentation=True)


@pytest.mark.parametrize(
    ("mask", "size"),
    [
        (None, [30, 40]),
        ([], [30, 40]),
        ([[1, 1, 5, 5]], [30, 40]),
        ([[1, 1, 5, 1, 5, 10**9]], [30, 40]),
        ([[1, 1, 5, 1, 5, float("nan")]], [30, 40]),
        ([[1, 1, 5, 1, "5", 5]], [30, 40]),
        ([[1, 1, 5, 1, 5, 5, 5]], [30, 40]),
        ([[1, 1, 5, 1, 5, 5]], [30, None]),
        ([[1, 1, 5, 1, 5, 5]], [2**20, 2**20]),
        ({"size": [40, 30], "counts": [1200]}, [30, 40]),
        ({"size": [30, 40], "counts": [1199]}, [30, 40]),
        ({"size": [30.0, 40.0], "counts": [1200]}, [30, 40]),
        ({"size": [30, 40], "counts": "\x00"}, [30, 40]),
    ],
)
def test_true_masks_that_cannot_be_compared_are_refused(mask: object, size: list[Any]) -> None:
    truth = annotations()
    for image in truth["images"]:
        image |= dict(zip(("height", "width"), size, strict=True))
    for entry in truth["annotations"]:
        entry["segmentation"] = mask
    with pytest.raises(CocoFormatError, match=r"entry 0 \(id 1\)"):
        check_true_masks(truth)


def test_true_masks_are_polygons_or_rles() -> None:
    polygon = [1, 1, 5.5, 1, 5, 41.0]
    for mask in ([polygon, [1, 1, 2, 2]], {"size": [30, 40], "counts": [1200]}, {"size": [30, 40], "counts": "`U1"}):
        truth = annotations()
        for image in truth["images"]:
            image |= {"height": 30, "width": 40}
        for entry in truth["annotations"]:
            entry["segmentation"] = mask
        check_true_masks(truth)
