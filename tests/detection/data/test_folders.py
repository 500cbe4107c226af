"""Folders in COCO's, YOLO's and Pascal VOC's form: the same data set in each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from PIL import Image

pytest.importorskip("supervision")
from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.folders import open_dataset, read_folder
from nasnet_det.detection.data.inspection import look_at
from nasnet_det.detection.data.look import CocoData, DatasetError

Content = dict[str, Any]
Writer = Callable[[Path, dict[str, Content], Path], None]


def small(split: str) -> Content:
    """Two images of two classes."""
    images = [{"id": i, "file_name": f"{split}{i}.png", "width": 40, "height": 30} for i in (1, 2)]
    boxes = [[2.0, 3.0, 10.0, 12.0], [20.5, 4.25, 8.0, 9.5]]
    annotations = [{"id": i, "image_id": i, "category_id": i, "bbox": box} for i, box in enumerate(boxes, start=1)]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "fox"}, {"id": 2, "name": "hen"}],
    }


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for split in ("train", "val"):
        for image in small(split)["images"]:
            Image.new("RGB", (40, 30)).save(folder / image["file_name"])
    return folder


def by_image(content: Content) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {image["id"]: [] for image in content["images"]}
    for entry in content["annotations"]:
        found[entry["image_id"]].append(entry)
    return found


def write_coco(root: Path, sets: dict[str, Content], pictures: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split, content in sets.items():
        (root / split).mkdir()
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for image in content["images"]:
            shutil.copy(pictures / image["file_name"], root / split)


def write_yolo(root: Path, sets: dict[str, Content], pictures: Path) -> None:
    names = [category["name"] for category in sets["train"]["categories"]]
    ids = [category["id"] for category in sets["train"]["categories"]]
    for split, content in sets.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for image in content["images"]:
            shutil.copy(pictures / image["file_name"], root / "images" / split)
            lines = []
            for entry in by_image(content)[image["id"]]:
                x, y, w, h = entry["bbox"]
                shares = (
                    (x + w / 2) / image["width"],
                    (y + h / 2) / image["height"],
                    w / image["width"],
                    h / image["height"],
                )
                lines.append(" ".join(map(repr, (ids.index(entry["category_id"]), *shares))))
            (root / "labels" / split / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines))
    splits = "".join(f"{split}: images/{split}\n" for split in sets)
    (root / "data.yaml").write_text(f"path: .\n{splits}names: {json.dumps(names)}\n")


def write_voc(root: Path, sets: dict[str, Content], pictures: Path) -> None:
    names = {category["id"]: category["name"] for category in sets["train"]["categories"]}
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, content in sets.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(
            "\n".join(Path(i["file_name"]).stem for i in content["images"])
        )
        for image in content["images"]:
            shutil.copy(pictures / image["file_name"], root / "JPEGImages")
            objects = ""
            for entry in by_image(content)[image["id"]]:
                x, y, w, h = entry["bbox"]
                corners = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
                objects += (
                    f"<object><name>{escape(names[entry['category_id']])}</name><bndbox>{corners}</bndbox></object>"
                )
            text = f"<annotation><filename>{image['file_name']}</filename>{objects}</annotation>"
            (root / "Annotations" / image["file_name"]).with_suffix(".xml").write_text(text)


FORMS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}


def essence(data: CocoData) -> dict[str, Any]:
    """Size and labelled boxes of each picture, as training sees them."""
    found = look_at(data, training=False)
    assert not found.troubles
    return {
        Path(record["file_name"]).name: (
            record["width"],
            record["height"],
            sorted((data.names[entry["category_id"]], *entry["bbox"]) for entry in record["annotations"]),
        )
        for record in found.records
    }


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


def test_yolo_lists_polygons_and_another_machines_path(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(pictures, root / "images")
    (root / "labels").mkdir()
    (root / "labels" / "train1.txt").write_text("1 0.25 0.1 0.5 0.1 0.5 0.4\n")
    (root / "train.txt").write_text("images/train1.png\n./images/train2.png\n")
    (root / "data.yaml").write_text("path: /home/else\ntrain: train.txt\nval: images\nnames: {0: fox, 1: hen}\n")
    found = read_folder(root)
    (entry,) = found["train"].content["annotations"]
    assert entry["bbox"] == pytest.approx([10, 3, 10, 9])
    assert entry["segmentation"] == [pytest.approx([10, 3, 20, 3, 20, 12])]
    assert len(found["val"].content["images"]) == 4


@pytest.mark.parametrize(
    "settings",
    [
        "train: images\\train\nval: images\\val\nnames: [fox, hen]",
        "train: ../images/train\nval: [list.txt]\nnames: {'0': fox, '1': hen}",
    ],
)
def test_yolo_settings_of_other_systems_and_tools(tmp_path: Path, pictures: Path, settings: str) -> None:
    root = tmp_path / "root"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    wanted = {split: essence(data) for split, data in read_folder(root).items()}
    (root / "data.yaml").write_text(settings)
    (root / "list.txt").write_bytes(b"\xef\xbb\xbfimages\\val\\val1.png\r\nimages\\val\\val2.png\r\n")
    assert {split: essence(data) for split, data in read_folder(root).items()} == wanted


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


def notes_of(root: Path, split: str = "train") -> dict[str, list[str]]:
    """Names of the files of each note of a look."""
    found = look_at(read_folder(root)[split], training=False)
    return {trouble.what: [Path(name).name for name in trouble.examples] for trouble in found.troubles}


def test_yolo_files_without_a_partner_are_named(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_yolo(root, {split: small(split) for split in ("train", "val")}, pictures)
    assert not notes_of(root)
    labels = root / "labels" / "train"
    (labels / "train1.txt").rename(labels / "other.txt")
    (labels / "deeper").mkdir()
    (labels / "deeper" / "lost.txt").touch()
    (labels / "classes.txt").write_text("fox\nhen\n")
    found = notes_of(root)
    assert sorted(found.values()) == [["lost.txt", "other.txt"], ["train1.png"]]
    assert not notes_of(root, "val")
    # A list of images may leave some to another split.
    (root / "train.txt").write_text("images/train/train2.png")
    (root / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [fox, hen]")
    assert list(notes_of(root).values()) == [["lost.txt", "other.txt"]]


@pytest.mark.parametrize("inside", [True, False])
def test_yolo_folders_are_found_from_anywhere(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    write_yolo(tmp_path / "data", {"train": small("train")}, pictures)
    monkeypatch.chdir(tmp_path / "data" if inside else tmp_path)
    data = read_folder("." if inside else "data")["train"]
    assert len(data.content["annotations"]) == 2 and not data.notes


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
    path.write_text(path.read_text().replace("12.5", "none"))
    with pytest.raises(CocoFormatError, match=r"train1\.xml"):
        read_folder(root)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("1 0.5 0.5 0.2", "train1.txt"),
        ("7 0.5 0.5 0.2 0.2", "train1.txt"),
        ("x 0 0 1 1", "train1.txt"),
        (f"{10**20} 0.5 0.5 0.2 0.2", "train1.txt"),
        ("1 20 15 10 8", "train1.txt"),
    ],
)
def test_bad_labels_name_their_file(tmp_path: Path, pictures: Path, label: str, words: str) -> None:
    write_yolo(tmp_path / "data", {"train": small("train")}, pictures)
    (tmp_path / "data" / "labels" / "train" / "train1.txt").write_text(label)
    with pytest.raises(CocoFormatError, match=r"train1\.txt"):
        open_dataset(tmp_path / "data")


@pytest.mark.parametrize(
    "settings",
    ["nc: 2", "names: [no, yes]", "names: [fox, fox]", "names: fox", "names: {1: fox}", "names: [fox, hen]\nnc: 3"]
    + [f"names: [fox, hen]\nkpt_shape: {shape}" for shape in ("17", "[17, x]", "[17]")],
)
def test_class_names_that_would_be_misread_are_refused(tmp_path: Path, pictures: Path, settings: str) -> None:
    write_yolo(tmp_path / "data", {"train": small("train")}, pictures)
    (tmp_path / "data" / "data.yaml").write_text(f"train: images/train\n{settings}\n")
    with pytest.raises(CocoFormatError, match=r"data\.yaml.*n"):
        read_folder(tmp_path / "data")


def test_voc_sizes_are_compared_with_the_pictures(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_voc(root, {"train": small("train")}, pictures)
    for name, size in (("train1", (80, 60)), ("train2", (0, 0))):
        path = root / "Annotations" / f"{name}.xml"
        text = "<size><width>{}</width><height>{}</height></size>".format(*size)
        path.write_text(path.read_text().replace("</filename>", f"</filename>{text}"))
    (trouble,) = look_at(read_folder(root)["train"], training=False).troubles
    assert trouble.count == 1 and "80 x 60" in str(trouble)


def test_bad_xml_names_its_file(tmp_path: Path, pictures: Path) -> None:
    write_voc(tmp_path / "data", {"train": small("train")}, pictures)
    path = tmp_path / "data" / "Annotations" / "train1.xml"
    path.write_text(path.read_text().replace("<xmin>", "<left>").replace("</xmin>", "</left>"))
    with pytest.raises(CocoFormatError, match=r"train1\.xml"):
        open_dataset(tmp_path / "data")


def test_other_json_files_are_named(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "data"
    write_coco(root, {"train": small("train"), "val": small("val")}, pictures)
    assert not notes_of(root)
    for name in ("instances_train_old.json", "instances_test.json", "captions_train.json"):
        (root / "annotations" / name).write_text("{}")
    assert list(notes_of(root).values()) == [["instances_test.json", "instances_train_old.json"]]
    assert not notes_of(root, "val")


def test_a_folder_in_no_form_is_an_error(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "root").mkdir()
    shutil.copytree(pictures, tmp_path / "root" / "inner")
    (tmp_path / "root" / "labels.csv").touch()
    with pytest.raises(DatasetError, match=r"root is .*labels\.csv"):
        open_dataset(tmp_path / "root")
    with pytest.raises(DatasetError, match="pictures"):
        open_dataset(pictures)
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
