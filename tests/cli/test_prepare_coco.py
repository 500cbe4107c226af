"""The command that makes COCO's data sets ready: what it asks for, what it makes, when it says ready."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nasnet_det.cli.prepare_coco import main

OFFICIAL = {
    "instances_train2014": ("train2014", [1, 2, 3], "COCO_train2014_{:012}.jpg"),
    "instances_val2014": ("val2014", [11, 12, 13], "COCO_val2014_{:012}.jpg"),
    "instances_train2017": ("train2017", [1, 11], "{:012}.jpg"),
    "instances_val2017": ("val2017", [12, 13], "{:012}.jpg"),
    "image_info_test-dev2017": ("test2017", [21, 22], "{:012}.jpg"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """All that COCO's archives would hold, small."""
    for number, (name, (folder, ids, form)) in enumerate(OFFICIAL.items()):
        images = [{"id": i, "width": 8, "height": 8, "file_name": form.format(i)} for i in ids]
        data = {"images": images, "categories": [{"id": 1, "name": "person"}]}
        if name.startswith("instances"):
            box = {"category_id": 1, "bbox": [1, 1, 2, 2], "iscrowd": 0, "area": 4}
            data["annotations"] = [{"id": 100 * number + i, "image_id": i, **box} for i in ids]
        (tmp_path / "coco" / folder).mkdir(parents=True)
        for image in images:
            (tmp_path / "coco" / folder / str(image["file_name"])).touch()
        (tmp_path / "coco" / "annotations").mkdir(exist_ok=True)
        (tmp_path / "coco" / "annotations" / f"{name}.json").write_text(json.dumps(data))
    (tmp_path / "ids.txt").write_text("11\n12\n")
    return tmp_path


def run(root: Path, *more: str) -> int:
    return main([str(root), "--minival-ids", str(root / "ids.txt"), *more])


def test_everything_is_made_and_said_to_be_ready(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(root) == 0
    out = capsys.readouterr().out
    assert out.count("ready    ") == 5
    assert "note: 1 of val2017's 2 images are in coco_2014_trainval_minus_minival_8k" in out
    assert f"DETECTRON2_DATASETS={root}" in out
    made = json.loads((root / "coco" / "annotations" / "instances_minival_8k2014.json").read_text())
    assert [image["id"] for image in made["images"]] == [11, 12]
    assert run(root) == 0
    assert "written" not in capsys.readouterr().out


def test_other_ids_make_new_files_and_no_file_of_the_user_s_is_replaced(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    minival = root / "coco" / "annotations" / "instances_minival_8k2014.json"
    assert run(root) == 0
    (root / "ids.txt").write_text("12\n13\n")
    assert run(root) == 0
    assert [image["id"] for image in json.loads(minival.read_text())["images"]] == [12, 13]
    capsys.readouterr()
    minival.write_text(mine := json.dumps({"images": [], "annotations": [], "categories": []}))
    os.utime(minival, (0, 0))
    for words in ([str(root)], [str(root), "--minival-ids", str(root / "ids.txt")]):
        assert main(words) == 2
        assert minival.name in capsys.readouterr().err
    assert minival.read_text() == mine


def test_what_to_download_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(tmp_path)]) == 2
    printed = capsys.readouterr()
    for archive in (
        "zips/val2014.zip",
        "annotations/annotations_trainval2014.zip",
        "annotations/image_info_test2017.zip",
    ):
        assert printed.out.count(archive) == 1
    assert str(tmp_path / "coco") in printed.out
    assert "5 of 5 data sets are not ready" in printed.err


def test_missing_images_are_counted_and_named(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "coco" / "val2017" / "000000000013.jpg").unlink()
    assert run(root, "--only", "coco_2017_val") == 2
    assert "1 of 2 images" in (out := capsys.readouterr().out) and "000000000013.jpg" in out


def test_a_broken_annotation_file_is_an_error(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "coco" / "annotations" / "instances_val2014.json").write_text("{")
    assert run(root) == 2
    assert "instances_val2014.json is not JSON" in capsys.readouterr().err
    assert not (root / "coco" / "annotations" / "instances_minival_8k2014.json").exists()
