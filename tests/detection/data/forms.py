"""A small data set, and its folders in COCO's, YOLO's and Pascal VOC's form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from nasnet_det.detection.data.folders import read_folder
from nasnet_det.detection.data.inspection import look_at
from nasnet_det.detection.data.look import CocoData

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


def by_image(content: Content) -> dict[int, list[Any]]:
    """Return the annotations of each image by its id."""
    found: dict[int, list[Any]] = {image["id"]: [] for image in content["images"]}
    for entry in content["annotations"]:
        found[entry["image_id"]].append(entry)
    return found


def write_coco(root: Path, sets: dict[str, Content], pictures: Path) -> None:
    """Write sets in COCO's form."""
    (root / "annotations").mkdir(parents=True)
    for split, content in sets.items():
        (root / split).mkdir()
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for image in content["images"]:
            shutil.copy(pictures / image["file_name"], root / split)


def write_yolo(root: Path, sets: dict[str, Content], pictures: Path) -> None:
    """Write sets in YOLO's form, labels as shares of the image."""
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
    """Write sets in Pascal VOC's form, pixels counted from 1."""
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


FORMS: dict[str, Writer] = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}


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


def notes_of(root: Path, split: str = "train") -> dict[str, list[str]]:
    """Names of the files of each note of a look."""
    found = look_at(read_folder(root)[split], training=False)
    return {trouble.what: [Path(name).name for name in trouble.examples] for trouble in found.troubles}
