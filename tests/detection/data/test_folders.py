"""Folders in COCO's, YOLO's and Pascal VOC's form: the same data set in each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("supervision")
from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.folders import open_dataset, read_folder
from nasnet_det.detection.data.inspection import look_at
from nasnet_det.detection.data.look import CocoData, DatasetError
from tests.detection.data.forms import FORMS, Content, essence, notes_of, small, write_coco, write_yolo


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name][:2] == other[name][:2]
        for mine, theirs in zip(one[name][2], other[name][2], strict=True):
            assert mine[0] == theirs[0] and mine[1:] == pytest.approx(theirs[1:], abs=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(tmp_path: Path, pictures: Path, form: str) -> None:
    sets = {split: small(split) for split in ("train", "val")}
    FORMS[form](tmp_path / "data", sets, pictures)
    before = sorted(tmp_path.rglob("*"))
    train, val, classes = open_dataset(tmp_path / "data")
    assert classes == ["fox", "hen"]
    assert (train.name, val.name) == ("data_train", "data_val")
    for data, split in ((train, "train"), (val, "val")):
        assert_same(essence(data), essence(CocoData("x", small(split) | _defaults(small(split)), pictures, "x")))
    assert sorted(tmp_path.rglob("*")) == before


def _defaults(content: Content) -> Content:
    return {"annotations": [{**entry, "iscrowd": 0, "area": 1} for entry in content["annotations"]]}


def test_coco_mini_is_the_same_in_every_form(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "coco_mini"
    sets = {}
    for split in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
        content["annotations"] = [entry for entry in content["annotations"] if not entry["iscrowd"]]
        # Pascal VOC knows only the classes that occur.
        sets[split] = content
    for split, content in sets.items():
        for form in ("yolo", "voc"):
            FORMS[form](tmp_path / form / split, {"train": content}, root / f"{split}2017")
        wanted = essence(open_coco(tmp_path / "coco" / split, content, root / f"{split}2017"))
        for form in ("yolo", "voc"):
            assert_same(essence(read_folder(tmp_path / form / split)["train"]), wanted)


def open_coco(folder: Path, content: Content, pictures: Path) -> CocoData:
    write_coco(folder, {"train": content}, pictures)
    return read_folder(folder)["train"]


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_split_is_made_by_seed(tmp_path: Path, pictures: Path, form: str) -> None:
    content = small("train")
    content["images"] += [{**image, "id": image["id"] + 2} for image in small("val")["images"]]
    FORMS[form](tmp_path / "data", {"train": content}, pictures)
    train, val, _ = open_dataset(tmp_path / "data", val_share=0.25, seed=1)
    names = [{Path(image["file_name"]).name for image in data.content["images"]} for data in (train, val)]
    assert (len(names[0]), len(names[1])) == (3, 1) and not names[0] & names[1]
    assert all(words in val.origin for words in ("1 of its 4", "seed 1", "--val-share 0"))
    again = open_dataset(tmp_path / "data", val_share=0.25, seed=1)[1]
    assert again.content == val.content
    with pytest.raises(DatasetError, match="1 image"):
        open_dataset(write_one(tmp_path / "one", form, pictures))


def test_a_lone_validation_set_is_not_trained_on_whole(tmp_path: Path, pictures: Path) -> None:
    write_coco(tmp_path / "data", {"val": small("val")}, pictures)
    train, val, _ = open_dataset(tmp_path / "data")
    assert len(train.content["images"]) == len(val.content["images"]) == 1


def write_one(root: Path, form: str, pictures: Path) -> Path:
    content = small("train")
    content["images"], content["annotations"] = content["images"][:1], content["annotations"][:1]
    FORMS[form](root, {"train": content}, pictures)
    return root


@pytest.mark.parametrize(
    ("layout", "annotations", "folder"),
    [
        ("own", "train.json", "train"),
        ("images", "train.json", "images"),
        ("one file", "annotations.json", "images"),
        ("roboflow", "train/_annotations.coco.json", "train"),
        ("packed", "inner/train.json", "inner/images"),
        ("fiftyone", "labels.json", "data"),
        ("label studio", "result.json", "."),
        ("cvat", "annotations/instances_default.json", "images/default"),
        ("any folder", "annotations.json", "photos"),
        ("undivided", "annotations/instances_trainval.json", "images"),
        ("keypoints", "annotations/person_keypoints_train2017.json", "train2017"),
    ],
)
def test_layouts_of_coco(tmp_path: Path, pictures: Path, layout: str, annotations: str, folder: str) -> None:
    root = tmp_path / "root"
    shutil.copytree(pictures, root / folder, dirs_exist_ok=True)
    (root / annotations).parent.mkdir(exist_ok=True)
    (root / annotations).write_text(json.dumps(small("train")))
    train, val, _ = open_dataset(root)
    assert len(train.content["images"]) == len(val.content["images"]) == 1
    assert len(look_at(train, training=True).records) == 1


@pytest.mark.parametrize(("form", "name"), [("yolo", "notes.json"), ("yolo", "val_log.json"), ("voc", "train.json")])
def test_json_files_of_other_tools_hide_no_form(tmp_path: Path, pictures: Path, form: str, name: str) -> None:
    root = tmp_path / "root"
    FORMS[form](root, {split: small(split) for split in ("train", "val")}, pictures)
    (root / name).write_text('{"categories": []}')
    found = read_folder(root)
    assert [len(found[split].content["annotations"]) for split in ("train", "val")] == [2, 2]
    (next(root.glob("labels/train/*"), None) or next(root.glob("Annotations/*"))).write_text("0 <")
    with pytest.raises(CocoFormatError, match=r"\.(txt|xml): "):
        read_folder(root)


def test_the_images_of_a_file_in_annotations_are_beside_that_folder(tmp_path: Path, pictures: Path) -> None:
    write_coco(tmp_path / "data", {"train": small("train")}, pictures)
    (data,) = read_folder(tmp_path / "data" / "annotations" / "instances_train.json").values()
    assert len(essence(data)) == 2


def test_sets_in_fiftyones_folders(tmp_path: Path, pictures: Path) -> None:
    for split, folder in (("train", "train"), ("val", "validation")):
        shutil.copytree(pictures, tmp_path / "root" / folder / "data")
        (tmp_path / "root" / folder / "labels.json").write_text(json.dumps(small(split)))
    for split, data in read_folder(tmp_path / "root").items():
        assert len(essence(data)) == 2 and all(name.startswith(split) for name in essence(data))


@pytest.mark.parametrize("names", ["obj.names", "_darknet.labels"])
def test_folders_of_the_splits_may_be_data_sets_of_their_own(tmp_path: Path, pictures: Path, names: str) -> None:
    """COCO as SAHI and OpenMMLab have it, YOLO as FiftyOne and Roboflow have it for Darknet."""
    root = tmp_path / "root"
    write_yolo(tmp_path / "yolo", {split: small(split) for split in ("train", "val")}, pictures)
    wanted = {split: essence(data) for split, data in read_folder(tmp_path / "yolo").items()}
    for split, folder in (("train", "train"), ("val", "valid"), ("val", "test")):
        for kind in ("images", "labels"):
            shutil.copytree(tmp_path / "yolo" / kind / split, root / folder, dirs_exist_ok=True)
        (root / folder / names).write_text("fox\nhen\n")
    assert {split: essence(data) for split, data in read_folder(root).items()} == wanted
    for path in [*root.glob("*/*.txt"), *root.glob(f"*/{names}")]:
        path.unlink()
    for split, folder in (("train", "train"), ("val", "valid")):
        (root / folder / f"{folder}_coco.json").write_text(json.dumps(small(split)))
    found = {split: essence(data) for split, data in read_folder(root).items()}
    assert {split: [*images] for split, images in found.items()} == {s: [*images] for s, images in wanted.items()}
    (root / "valid").rename(root / "dev")
    assert ["dev"] in notes_of(root).values()


def test_sizes_that_are_null_are_measured(tmp_path: Path, pictures: Path) -> None:
    """As Label Studio writes them for images without annotations."""
    write_coco(tmp_path / "data", {"train": small("train")}, pictures)
    wanted = essence(read_folder(tmp_path / "data")["train"])
    path = tmp_path / "data" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["images"][1] |= {"width": None, "height": None}
    path.write_text(json.dumps(content))
    assert essence(read_folder(tmp_path / "data")["train"]) == wanted
    (tmp_path / "data" / "train" / "train2.png").unlink()
    with pytest.raises(CocoFormatError, match=r"id 2.*'width'"):
        read_folder(tmp_path / "data")


def test_whole_paths_into_another_copy_are_told(tmp_path: Path, pictures: Path) -> None:
    """As FiftyOne's with abs_paths."""
    root = tmp_path / "root"
    write_coco(root, {"train": small("train")}, pictures)
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["file_name"] = str(root / "train" / image["file_name"])
    path.write_text(json.dumps(content))
    assert not notes_of(root)
    shutil.copytree(root, tmp_path / "copy")
    assert list(notes_of(tmp_path / "copy").values()) == [["train"]]
    assert list(notes_of(tmp_path / "copy" / "annotations" / path.name, "all").values()) == [["train"]]


def test_images_without_a_name_are_named_by_their_address(tmp_path: Path, pictures: Path) -> None:
    """As LVIS's."""
    content = small("train")
    wanted = [image["file_name"] for image in content["images"]]
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    (tmp_path / "data" / "annotations" / "lvis_v1_train.json").write_text(json.dumps(content))
    shutil.copytree(pictures, tmp_path / "data" / "train2017")
    assert [*essence(read_folder(tmp_path / "data")["train"])] == wanted


def test_a_lone_file_of_instances_is_the_set(tmp_path: Path, pictures: Path) -> None:
    write_coco(tmp_path / "data", {"default": small("train"), "train": small("train")}, pictures)
    (tmp_path / "data" / "annotations" / "instances_train.json").rename(tmp_path / "data" / "labels.json")
    assert list(notes_of(tmp_path / "data", "all").values()) == [["labels.json"]]


def test_the_only_file_with_annotations_is_the_set(tmp_path: Path, pictures: Path) -> None:
    """As Label Studio's result.json, among files of other tools and of this package."""
    write_coco(tmp_path / "data", {"train": small("train")}, pictures)
    (tmp_path / "data" / "annotations" / "instances_train.json").rename(tmp_path / "data" / "result.json")
    for name, text in (
        ("notes.json", "{}"),
        ("results.json", "[]"),
        ("broken.json", "{"),
        ("scores.json", '{"images": 1}'),
    ):
        (tmp_path / "data" / name).write_text(text)
    (others,) = notes_of(tmp_path / "data", "all").values()
    assert others == ["broken.json", "notes.json", "results.json", "scores.json"]
    shutil.copy(tmp_path / "data" / "result.json", tmp_path / "data" / "second.json")
    with pytest.raises(DatasetError, match=r"data is .*result\.json"):
        read_folder(tmp_path / "data")


def test_other_json_files_are_named(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_coco(root, {"train": small("train"), "val": small("val")}, pictures)
    assert not notes_of(root)
    for name in ("instances_train_old.json", "instances_test.json", "captions_train.json"):
        (root / "annotations" / name).write_text("{}")
    assert list(notes_of(root).values()) == [["instances_test.json", "instances_train_old.json"]]
    assert not notes_of(root, "val")


def test_a_set_beside_a_damaged_one_is_not_all_of_the_data(tmp_path: Path, pictures: Path) -> None:
    write_coco(tmp_path / "data", {"train": small("train"), "val": small("val")}, pictures)
    damaged = tmp_path / "data" / "annotations" / "instances_train.json"
    damaged.write_text(damaged.read_text()[:-9])
    with pytest.raises(CocoFormatError, match=r"instances_train\.json"):
        read_folder(tmp_path / "data")


def test_a_folder_in_no_form_is_an_error(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "root").mkdir()
    shutil.copytree(pictures, tmp_path / "root" / "inner")
    (tmp_path / "root" / "labels.csv").touch()
    with pytest.raises(DatasetError, match=r"root is .*labels\.csv"):
        open_dataset(tmp_path / "root")
    with pytest.raises(DatasetError, match="pictures"):
        open_dataset(pictures)
    with pytest.raises(DatasetError, match=r"labels\.csv is "):
        read_folder(tmp_path / "root" / "labels.csv")
    with pytest.raises(DatasetError, match="nowhere"):
        open_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("form", FORMS)
def test_links_to_folders_are_followed(tmp_path: Path, pictures: Path, form: str) -> None:
    root = tmp_path / "data"
    FORMS[form](root, {split: small(split) for split in ("train", "val")}, pictures)
    wanted = {split: essence(data) for split, data in read_folder(root).items()}
    linked = tmp_path / "linked" / "data"
    linked.mkdir(parents=True)
    for path in root.iterdir():
        (linked / path.name).symlink_to(path)
    for path in [path for path in root.glob("*/*") if path.is_dir()]:
        path.rename(tmp_path / f"{path.parent.name}-{path.name}")
        path.symlink_to(tmp_path / f"{path.parent.name}-{path.name}")
    (next(path for path in root.iterdir() if path.is_dir()) / "circle").symlink_to(root)
    assert {split: essence(data) for split, data in read_folder(linked).items()} == wanted


@pytest.mark.parametrize(
    ("file", "folder"),
    [("annotations_{}.json", "{}"), ("{}_annotations.json", "{}_images"), ("my_{}.json", "images/{}2024")],
)
def test_images_of_one_name_in_all_splits_are_those_of_their_own(tmp_path: Path, file: str, folder: str) -> None:
    for split, side in (("test", 10), ("train", 20), ("val", 30)):
        (place := tmp_path / folder.format(split)).mkdir(parents=True)
        Image.new("RGB", (side, side)).save(place / "1.png")
        content = {**small(split), "images": [{"id": 1, "file_name": "1.png", "width": side, "height": side}]}
        content["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]
        (tmp_path / file.format(split)).write_text(json.dumps(content))
    found = {split: data.folder for split, data in read_folder(tmp_path).items()}
    assert found == {split: tmp_path / folder.format(split) for split in ("train", "val")}
    (tmp_path / "annotations").mkdir()
    shutil.copy(tmp_path / file.format("val"), named := tmp_path / "annotations" / file.format("val"))
    assert [data.folder for data in read_folder(named).values()] == [tmp_path / folder.format("val")]
    named.unlink()
    (tmp_path / folder.format("train")).rename(tmp_path / "data")
    found = {split: data.folder for split, data in read_folder(tmp_path).items()}
    assert found == {"train": tmp_path / "data", "val": tmp_path / folder.format("val")}
