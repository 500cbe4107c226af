"""Folders in Pascal VOC's form."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("supervision")
from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.folders import open_dataset, read_folder
from nasnet_det.detection.data.inspection import look_at
from tests.detection.data.forms import essence, notes_of, small, write_voc


def test_voc_files_without_a_partner_are_named(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_voc(root, {split: small(split) for split in ("train", "val")}, pictures)
    assert not notes_of(root)
    shutil.copy(pictures / "train1.png", root / "JPEGImages" / "extra.png")
    (root / "ImageSets" / "Main" / "train.txt").write_text("train1.png\nnowhere")
    assert sorted(notes_of(root).values()) == [["extra.png"], ["nowhere"], ["train2.xml"]]


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"trainval": ["train1", "val1"], "test": ["val2"]}, {"all": ["train1", "val1"]}),
        (
            {"train": ["train1"], "val": ["val1"], "trainval": ["train1", "val1"]},
            {"train": ["train1"], "val": ["val1"]},
        ),
        ({"train": ["train1", "val1"], "val": ["val1"]}, {"train": ["train1", "val1"], "val": ["val1"]}),
        ({"default": ["train1", "train2", "val1"]}, {"all": ["train1", "train2", "val1"]}),
        ({"val": ["val1"]}, {"val": ["val1"], "all": ["train1", "train2", "val2"]}),
    ],
)
def test_voc_lists_are_kept_to(tmp_path: Path, pictures: Path, lists: Any, expected: Any) -> None:
    root = tmp_path / "data"
    write_voc(root, {split: small(split) for split in ("train", "val")}, pictures)
    shutil.rmtree(root / "ImageSets")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, stems in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems))
    found = read_folder(root)
    names = {key: sorted(Path(i["file_name"]).stem for i in data.content["images"]) for key, data in found.items()}
    assert names == expected


@pytest.mark.parametrize(
    "lists",
    [
        {"train": "train1  1\ntrain2 -1\nval1  0"},
        {"fox_train": "train1 1\ntrain2 -1\n", "hen_train": "train2 1\nval1 0\n"},
        {"train": "train1.png\ntrain2.png 1\nval1.png -1", "fox_train": "val2 1"},
    ],
)
def test_voc_lists_of_classes_hold_all_images_of_the_set(tmp_path: Path, pictures: Path, lists: Any) -> None:
    root = tmp_path / "data"
    write_voc(root, {split: small(split) for split in ("train", "val")}, pictures)
    for path in (root / "ImageSets" / "Main").iterdir():
        path.unlink()
    for name, text in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    images = read_folder(root)["train"].content["images"]
    assert [Path(image["file_name"]).stem for image in images] == ["train1", "train2", "val1"]


def test_voc_names_that_end_like_a_flag_are_whole(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_voc(root, {"train": small("train")}, pictures)
    (root / "Annotations" / "train1.xml").rename(root / "Annotations" / "train 1.xml")
    (root / "ImageSets" / "Main" / "train.txt").write_text("train 1\ntrain2 1\nnowhere -1")
    assert list(notes_of(root).values()) == [["nowhere"]]


@pytest.mark.parametrize(("named", "renamed"), [("train1.jpg", 1), ("TRAIN1.png", 1), ("", 0), ("photo.jpg", 0)])
def test_voc_files_may_name_their_image_in_another_way(
    tmp_path: Path, pictures: Path, named: str, renamed: int
) -> None:
    root = tmp_path / "data"
    write_voc(root, {"train": small("train")}, pictures)
    path = root / "Annotations" / "train1.xml"
    path.write_text(path.read_text().replace("train1.png", named))
    found = look_at(read_folder(root)["train"], training=False)
    assert [Path(record["file_name"]).name for record in found.records] == ["train1.png", "train2.png"]
    assert [trouble.count for trouble in found.troubles] == [1] * renamed
    shutil.copy(pictures / "train1.png", root / "JPEGImages" / "train1.bmp")
    if named != "TRAIN1.png":
        found = look_at(read_folder(root)["train"], training=False)
        assert any(trouble.fatal and "train1.bmp, train1.png" in str(trouble) for trouble in found.troubles)


def test_voc_annotations_in_folders_of_the_splits_share_a_folder_of_images(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_voc(root, {split: small(split) for split in ("train", "val")}, pictures)
    shutil.rmtree(root / "ImageSets")
    for split in ("train", "val"):
        (root / "Annotations" / split).mkdir()
        for path in (root / "Annotations").glob(f"{split}*.xml"):
            path.rename(root / "Annotations" / split / path.name)
    assert all(essence(data) for data in read_folder(root).values())


@pytest.mark.parametrize(
    "polygon",
    [
        "<x1>2</x1><y1>3</y1><x2>10</x2><y2>3</y2><x3>10</x3><y3>12.5</y3>",
        "<pt> <x>2</x><y>3</y> </pt><pt><x>10</x><y>3</y></pt><pt><x>10</x><y>12.5</y></pt><username>me</username>",
    ],
)
def test_voc_polygons_are_masks(tmp_path: Path, pictures: Path, polygon: str) -> None:
    root = tmp_path / "data"
    write_voc(root, {"train": small("train")}, pictures)
    path = root / "Annotations" / "train1.xml"
    path.write_text(path.read_text().replace("</object>", f"<polygon>{polygon}</polygon></object>"))
    data = read_folder(root)["train"]
    assert [entry.get("segmentation") for entry in data.content["annotations"]] == [[[1, 2, 9, 2, 9, 11.5]], None]
    found = look_at(data, training=True, masks="polygon")
    assert [len(record["annotations"]) for record in found.records] == [1] and found.counts["masks"] == 1
    path = path.rename(path.with_suffix(".XML"))
    path.write_text(path.read_text().replace("12.5", "none"))
    with pytest.raises(CocoFormatError, match=r"train1\.XML"):
        read_folder(root)


def test_voc_sizes_are_compared_with_the_pictures(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_voc(root, {"train": small("train")}, pictures)
    for name, size in (("train1", (80, 60)), ("train2", (0, 0))):
        path = root / "Annotations" / f"{name}.xml"
        text = "<size><width>{}</width><height>{}</height></size>".format(*size)
        path.write_text(path.read_text().replace("</filename>", f"</filename>{text}"))
    (trouble,) = look_at(read_folder(root)["train"], training=False).troubles
    assert trouble.count == 1 and "80 x 60" in str(trouble)


def write_plain_voc(path: Path, image: str, corners: tuple[float, float, float, float], database: str = "") -> None:
    """Write a file with one box and, where it is named, its database."""
    path.parent.mkdir(parents=True, exist_ok=True)
    box = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    source = f"<source><database>{database}</database></source>" if database else ""
    text = f"<filename>{image}</filename>{source}<object><name>fox</name><bndbox>{box}</bndbox></object>"
    path.write_text(f"<annotation>{text}</annotation>")


def test_voc_files_renamed_with_their_images_are_those_of_these(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_plain_voc(tmp_path / f"{name}.xml", "b.jpg" if name == "a" else "a.jpg", (4, 5, 16, 21))
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.jpg")
    write_plain_voc(tmp_path / "c.xml", "photo.jpg", (4, 5, 16, 21))
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.jpg")
    images = read_folder(tmp_path)["all"].content["images"]
    assert [Path(image["file_name"]).name for image in images] == ["a.jpg", "b.jpg", "photo.jpg"]


@pytest.mark.parametrize(
    ("corners", "database", "first"),
    [
        ((4, 5, 16, 21), "", [3, 4, 13, 17]),
        ((4, 5, 16, 21), "The VOC2007 Database", [3, 4, 13, 17]),
        ((4, 5, 16, 21), "Unknown", [4, 5, 12, 16]),  # LabelImg, CVAT, Datumaro
        ((0, 5, 16, 21), "", [0, 5, 16, 16]),
        ((1, 5, 16, 21), "", [0, 4, 16, 17]),
    ],
)
def test_voc_pixels_count_from_1_unless_files_show_0(
    tmp_path: Path, pictures: Path, corners: Any, database: str, first: list[int]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    write_plain_voc(root / "train1.xml", "train1.png", corners, database)
    write_plain_voc(root / "train2.xml", "train2.png", (7, 8, 9, 10))
    (data,) = read_folder(root).values()
    boxes = [entry["bbox"] for entry in data.content["annotations"]]
    assert boxes == [first, [7, 8, 2, 2] if first[:2] == [*corners[:2]] else [6, 7, 3, 3]]
    assert bool(
        notes_of(root, "all").get("annotation files count pixels from 0, as their boxes or their tool show")
    ) == (first[:2] == [*corners[:2]])


def test_voc_folders_below_annotations_are_those_of_the_images(tmp_path: Path, pictures: Path) -> None:
    """As CVAT and Datumaro write them; equal names in two folders are two images, and listed ones may have no file."""
    root = tmp_path / "data"
    for camera, split in (("cam A", "train"), ("cam B", "val")):
        (root / "JPEGImages" / camera).mkdir(parents=True)
        for number in (1, 2):
            shutil.copy(pictures / f"{split}{number}.png", root / "JPEGImages" / camera / f"{number}.png")
        write_plain_voc(root / "Annotations" / camera / "1.xml", f"{camera}/1.png", (4, 5, 16, 21))
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{camera}/1\n{camera}/2\n")
    found = read_folder(root)
    for camera, split in (("cam A", "train"), ("cam B", "val")):
        look = look_at(found[split], training=False)
        records = [(Path(record["file_name"]), len(record["annotations"])) for record in look.records]
        assert records == [(root / "JPEGImages" / camera / f"{number}.png", 2 - number) for number in (1, 2)]
    assert list(notes_of(root).values()) == [["2.png", "2.png"]]


def test_voc_boxes_with_an_angle_are_named(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_voc(root, {"train": small("train")}, pictures)
    for name, angle in (("train1", "30.0"), ("train2", "0.0")):
        path = root / "Annotations" / f"{name}.xml"
        attribute = f"<attribute><name>rotation</name><value>{angle}</value></attribute>"
        path.write_text(path.read_text().replace("</object>", f"<attributes>{attribute}</attributes></object>"))
    assert list(notes_of(root).values()) == [["train1.xml"]]


def test_voc_lists_are_found_in_the_development_kit(tmp_path: Path, pictures: Path) -> None:
    kit = tmp_path / "data" / "VOCdevkit" / "VOC2007"
    kit.parent.mkdir(parents=True)
    write_voc(kit, {split: small(split) for split in ("train", "val")}, pictures)
    shutil.copytree(kit, kit.with_name("VOC2012"))
    found = read_folder(tmp_path / "data")
    assert {key: len(data.content["images"]) for key, data in found.items()} == {"train": 4, "val": 4}


def test_voc_images_in_fiftyones_folders(tmp_path: Path, pictures: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(pictures, tmp_path / "data" / split / "data")
        write_plain_voc(tmp_path / "data" / split / "labels" / f"{split}1.xml", f"{split}1.png", (4, 5, 16, 21))
    for split, data in read_folder(tmp_path / "data").items():
        (record,) = look_at(data, training=False).records
        assert record["file_name"] == str(tmp_path / "data" / split / "data" / f"{split}1.png")


def test_voc_tags_in_capitals_or_of_a_namespace_and_texts_on_lines_of_their_own(tmp_path: Path, pictures: Path) -> None:
    write_voc(tmp_path / "data", {"train": small("train")}, pictures)
    expected = open_dataset(tmp_path / "data", val_share=0)[0].content["annotations"]
    for path, old, new in (
        ("train1", "object>", "OBJECT>"),
        ("train2", "<annotation>", '<annotation xmlns="a:b">'),
        ("train2", "name>", "name>\n"),
    ):
        file = tmp_path / "data" / "Annotations" / f"{path}.xml"
        file.write_text(file.read_text().replace(old, new))
    data, _, classes = open_dataset(tmp_path / "data", val_share=0)
    assert data.content["annotations"] == expected and classes == ["fox", "hen"]


@pytest.mark.parametrize(
    ("tag", "other"),
    [
        ("xmin>", "left>"),
        ("<xmin>", "<xmin>90"),
        ("bndbox>", "box>"),
        ("<object>", "<size><width>40px</width></size><object>"),
        ("<object>", "<size><width>inf</width></size><object>"),
        ("<bndbox>", "<polygon><x1/></polygon><bndbox>"),
        ("<annotation>", "<?xml version='1.0' encoding='gbk'?><annotation>"),
        ("<bndbox>", "<deleted>1</deleted><bndbox>"),
        ("</bndbox>", "</bndbox><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"),
    ],
)
def test_bad_xml_names_its_file(tmp_path: Path, pictures: Path, tag: str, other: str) -> None:
    write_voc(tmp_path / "data", {"train": small("train")}, pictures)
    path = tmp_path / "data" / "Annotations" / "train1.xml"
    path.write_text(path.read_text().replace(tag, other))
    with pytest.raises(CocoFormatError, match=r"train1\.xml"):
        open_dataset(tmp_path / "data")
