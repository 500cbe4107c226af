"""Small versions of the files that the pages presume, by the names that the pages use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from nasnet_det.detection.data.minival import minival_ids
from nasnet_det.genotypes.published import PUBLISHED
from nasnet_det.training.models import ModelChoice, save_local_dir
from tests.docs.pages import PROJECT
from tests.helpers import ONE_BLOCK, write_cifar, write_image_folder

SAMPLES = PROJECT / "nasnet_det" / "detection" / "assets" / "samples"


def make_world(root: Path, files: tuple[str, ...]) -> None:
    """Fill ``root`` with the project's own folders and with ``files``, names of :data:`MAKERS`."""
    for name in ("tools", "configs", "examples", "benchmarks"):
        (root / name).symlink_to(PROJECT / name)
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        MAKERS[name](path)


def annotations(*names: str) -> dict[str, Any]:
    """Return COCO annotations of some of the bundled photographs, each object a hen or a fox."""
    content = json.loads((SAMPLES / "annotations.json").read_text(encoding="utf-8"))
    images = [image for image in content["images"] if Path(image["file_name"]).stem in names]
    ids = {image["id"] for image in images}
    objects = [entry for entry in content["annotations"] if entry["image_id"] in ids]
    objects = [{**entry, "category_id": 1 + entry["category_id"] % 2} for entry in objects]
    return {
        "images": images,
        "annotations": objects,
        "categories": [{"id": 1, "name": "hen"}, {"id": 2, "name": "fox"}],
    }


def _coco(path: Path, folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(annotations(*names)), encoding="utf-8")
    for name in names:
        shutil.copy(SAMPLES / f"{name}.jpg", folder)


def _my_data(path: Path) -> None:
    _coco(path / "train.json", path / "train", "cat", "coffee", "coins")
    _coco(path / "val.json", path / "val", "rocket", "dahlia")


def _pictures(path: Path) -> None:
    path.mkdir()
    for name in ("cat", "coffee"):
        shutil.copy(SAMPLES / f"{name}.jpg", path)


def _toy_data_set(path: Path) -> None:
    """Register the data set ``toy``; the fixture ``forget`` of the pages' tests removes it."""
    from detectron2.data.datasets import register_coco_instances

    _coco(path.parent / "toy.json", path.parent / "toy", "cat", "coffee")
    register_coco_instances("toy", {}, str(path.parent / "toy.json"), str(path.parent / "toy"))


def _image_folder(path: Path) -> None:
    write_image_folder(path, val=2)


def _tiny_model(path: Path) -> None:
    choice = ModelChoice.of_genotype(ONE_BLOCK, 1, 8, "imagenet")
    torch.manual_seed(0)
    state = choice.build(num_classes=5).state_dict()
    save_local_dir(choice, state, path.parent / "tiny", 5, choice.input_config(64))


def _scored(path: Path) -> None:
    """Write annotations of two images, one of them in minival; without objects for a test set."""
    ids = [min(minival_ids()), 1]
    content: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in ids],
        "categories": [{"id": 1, "name": "hen"}],
    }
    if "image_info" not in path.name:
        objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [10, 10, 40, 40]} for i in ids]
        content["annotations"] = [{**entry, "area": 1600, "iscrowd": 0} for entry in objects]
    path.write_text(json.dumps(content), encoding="utf-8")


def _detections(path: Path) -> None:
    found = [{"image_id": min(minival_ids()), "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9}]
    path.write_text(json.dumps(found), encoding="utf-8")


def _stand_in(path: Path) -> None:
    save_weights("nasnet_a_mobile", path)


def save_weights(name: str, path: Path) -> None:
    """Write a substitute for a member's published weights: random ones, in this package's own format."""
    torch.manual_seed(0)
    save_file(timm.create_model(name).state_dict(), path)


MAKERS: dict[str, Callable[[Path], None]] = {
    "DATA": _image_folder,
    "datasets/cifar10": write_cifar,
    "my_cell.json": lambda path: PUBLISHED["nasnet_a"].save(path),
    "my_data": _my_data,
    "pictures": _pictures,
    "cat.jpg": lambda path: shutil.copy(SAMPLES / "cat.jpg", path),
    "toy data set": _toy_data_set,
    "tiny model": _tiny_model,
    "instances_val2017.json": _scored,
    "instances_minival_8k2014.json": _scored,
    "image_info_test-dev2017.json": _scored,
    "coco_instances_results.json": _detections,
    "NASNet-mobile.h5": _stand_in,
    "model.ckpt": _stand_in,
    "runs/s1": Path.mkdir,
    "runs/random": Path.mkdir,
}
