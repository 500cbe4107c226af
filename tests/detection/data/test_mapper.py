"""Unreadable images in the middle of a run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")
from detectron2.data import build_detection_test_loader, transforms
from detectron2.structures import BoxMode

from nasnet_det.detection.data.look import DatasetError
from nasnet_det.detection.data.mapper import DetectionMapper, SkippingMapper


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    """Four images, noise so that a truncated JPEG lacks pixels."""
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.jpg"
        noise = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        box = {"bbox": [10, 10, 30, 30], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
        made.append({"file_name": str(path), "image_id": number, "width": 80, "height": 60, "annotations": [box]})
    return made


def mapper(training: bool) -> DetectionMapper:
    return DetectionMapper(training, augmentations=[transforms.Resize((120, 160))], image_format="RGB")


def spoil(record: dict[str, Any], how: str) -> None:
    path = Path(record["file_name"])
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "corrupt":
        path.write_bytes(b"not a picture" + data[13:])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        record["width"] = 81


@pytest.mark.parametrize("how", ["missing", "truncated", "corrupt", "empty", "other size"])
def test_an_unreadable_image_is_replaced_in_training(
    records: list[dict[str, Any]], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(records[0], how)
    skipping = SkippingMapper(mapper(True), records)
    found = skipping(records[0])
    assert found["image_id"] == 1 and len(found["instances"]) == 1
    assert skipping.skipped == 1
    assert records[0]["file_name"] in caplog.text


@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_an_unreadable_image_is_grey_and_marked_in_evaluation(records: list[dict[str, Any]], how: str) -> None:
    spoil(records[2], how)
    skipping = SkippingMapper(mapper(False))
    found = skipping(records[2])
    assert found["unreadable"] and found["image_id"] == 2 and (found["height"], found["width"]) == (60, 80)
    assert found["image"].shape == (3, 120, 160) and found["image"].unique().tolist() == [128]
    assert "unreadable" not in skipping(records[1])


def test_several_unreadable_images_find_the_readable_one(records: list[dict[str, Any]]) -> None:
    for record in records[:3]:
        spoil(record, "missing")
    skipping = SkippingMapper(mapper(True), records)
    assert [skipping(record)["image_id"] for record in records] == [3, 3, 3, 3]


@pytest.mark.parametrize("training", [True, False])
def test_damaged_neighbours_end_neither_training_nor_evaluation(records: list[dict[str, Any]], training: bool) -> None:
    spoil(records[0], "truncated")
    many = [{**records[0], "file_name": str(Path(records[0]["file_name"]).with_stem(f"cut{n}"))} for n in range(12)]
    for record in many:
        Path(record["file_name"]).write_bytes(Path(records[0]["file_name"]).read_bytes())
    mapped = SkippingMapper(mapper(training), [*many, *records[1:] * 9] if training else None)
    assert all(mapped(record).get("unreadable", False) is not training for record in many)
    assert mapped.skipped >= len(many)


@pytest.mark.parametrize("training", [True, False])
def test_a_disk_that_is_gone_is_an_error(records: list[dict[str, Any]], training: bool) -> None:
    for record in records:
        spoil(record, "missing")
    skipping = SkippingMapper(mapper(training), records if training else None)
    with pytest.raises(DatasetError, match=r"^\S+\.jpg does not exist.* 10 "):
        for _ in range(10):
            skipping(records[0])


def test_the_name_is_logged_once(records: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    spoil(records[0], "missing")
    skipping = SkippingMapper(mapper(True), records)
    for _ in range(3):
        skipping(records[0])
    assert skipping.skipped == 3
    assert len([line for line in caplog.messages if records[0]["file_name"] in line]) == 1


def test_an_error_of_the_code_is_not_swallowed(records: list[dict[str, Any]]) -> None:
    def broken(record: dict[str, Any]) -> dict[str, Any]:
        raise AttributeError(record["file_name"])

    with pytest.raises(AttributeError):
        SkippingMapper(broken, records)(records[0])


def test_evaluation_can_be_sent_to_processes_that_are_not_forked(records: list[dict[str, Any]]) -> None:
    spoil(records[0], "missing")
    loader = build_detection_test_loader(records[:2], mapper=SkippingMapper(mapper(False)), num_workers=2)
    sent = pickle.loads(pickle.dumps(loader.dataset))  # as spawn and forkserver do
    assert [sent[number].get("unreadable", False) for number in (0, 1)] == [True, False]
    assert [batch[0].get("unreadable", False) for batch in loader] == [True, False]


def test_a_picture_that_the_resize_cannot_take_is_passed_over(records: list[dict[str, Any]]) -> None:
    Image.new("RGB", (5000, 1)).save(records[1]["file_name"])
    records[1] |= {"width": 5000, "height": 1}
    resizing = [transforms.ResizeShortestEdge(800, 1333)]
    evaluating = SkippingMapper(DetectionMapper(False, augmentations=resizing, image_format="BGR"))
    assert [evaluating(record).get("unreadable", False) for record in records[:2]] == [False, True]
    training = SkippingMapper(DetectionMapper(True, augmentations=resizing, image_format="BGR"), records)
    assert training(records[1])["image_id"] == 2


def test_a_picture_annotated_as_stored_is_not_turned(records: list[dict[str, Any]]) -> None:
    path = records[0]["file_name"]
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
    with pytest.raises(OSError, match=r"60 x 80.*80 x 60"):
        mapper(True)(records[0])
    assert mapper(True)({**records[0], "turn": False})["image"].shape == (3, 120, 160)
