"""Data sets as folders: COCO's, YOLO's or Pascal VOC's form, detected, read into COCO's content in memory.

Label files are read by ``supervision``; nothing is written. Where a folder has no validation set, one is taken from the
training set by a seed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nasnet_det.detection.data.coco_format import read_complete
from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.labelled import add_notes, match_files, note_other_copy, split_of
from nasnet_det.detection.data.look import CocoData, DatasetError, Trouble, note
from nasnet_det.detection.data.other_forms import tell_form, tell_forms
from nasnet_det.detection.data.voc_folder import read_voc
from nasnet_det.detection.data.yolo_folder import read_yolo
from nasnet_det.safe_io.files import protect
from nasnet_det.safe_io.folders import find_named, find_pictures, subfolders
from nasnet_det.safe_io.values import named, parse_json

#: Annotations of other tasks beside COCO's instances; those of keypoints have boxes, too.
_KEYPOINTS = "person_keypoints_"
_OTHER_TASKS = ("captions_", _KEYPOINTS, "panoptic_", "stuff_", "image_info_")
#: What files of sets that are not divided are called.
_WHOLE = ("annotations", "instances", "trainval", "default", "all")
#: The files of Roboflow and FiftyOne, whose set is the name of their folder.
_NAMED_BY_FOLDER = ("_annotations.coco.json", "labels.json")


def open_dataset(root: str | Path, val_share: float = 0.2, seed: int = 0) -> tuple[CocoData, CocoData, list[str]]:
    """Open a folder of annotated images for training.

    Args:
        root: the folder; or its annotation file (COCO) or ``data.yaml`` (YOLO).
        val_share: the share of the training images to validate on, where the folder has no validation set; 0 to
            validate on all of those that are trained on.
        seed: of that choice.

    Returns:
        the training set, the validation set, and the class names in the order of the training set's category ids.

    Raises:
        DatasetError: if the folder is in none of the forms, or too small to be split.
        CocoFormatError: if a file of it cannot be read; names the file.
    """
    splits = read_folder(root)
    train, val = _training_part(splits), splits.get("val")
    if val is None or val is train:
        train, val = split(train, val_share, seed) if val_share else (train, train)
    return train, val, [category["name"] for category in train.categories]


def read_training(root: str | Path) -> CocoData:
    """Return the training set of a folder, or all of it where it is not divided; raises as :func:`read_folder`."""
    return _training_part(read_folder(root))


def _training_part(splits: Mapping[str, CocoData]) -> CocoData:
    return splits.get("train") or splits.get("all") or splits["val"]


def read_folder(root: str | Path) -> dict[str, CocoData]:
    """Return the data sets of a folder by ``train``, ``val`` or, where it is not divided, ``all``.

    Its files are protected from being written over (:mod:`nasnet_det.safe_io.files`).

    Raises:
        DatasetError: if the folder is in none of the forms.
        CocoFormatError: if a file of it cannot be read.
    """
    root = Path(root)
    if not root.exists():
        raise DatasetError(f"{root} does not exist")
    folder = root if root.is_dir() else root.parent
    if found := _first_form(folder, root) or (_split_folders(folder) if root.is_dir() else {}):
        name = root.resolve().name if root.is_dir() else root.stem
        for data in found.values():
            protect(data.find_images().paths)
        return {key: replace(data, name=f"{name}_{key}") for key, data in found.items()}
    inner = subfolders(folder)
    if len(inner) == 1 and root.is_dir():  # as archives are often packed
        with contextlib.suppress(DatasetError):
            return read_folder(inner[0])
    there = named([path.relative_to(folder) for path in match_files(folder, "*", "annotations/*")], limit=5)
    raise DatasetError(
        f"{root} is in no known form: expected COCO (train.json and val.json, annotations/instances_NAME.json, or one "
        "annotations.json), YOLO (data.yaml with names, train and val, or classes.txt) or Pascal VOC (an .xml file for "
        f"each image), or the file of annotations itself, found {there or 'nothing'}"
        + ". ".join(["", *filter(None, [tell_forms(folder) if root.is_dir() else tell_form(root)])])
    )


def _split_folders(folder: Path) -> dict[str, CocoData]:
    """Return the sets of folders that are named for the splits, each a whole data set in some form."""
    found: dict[str, CocoData] = {}
    for inner in subfolders(folder):
        sets = _first_form(inner, inner) if split_of(inner.name) else {}
        if len(sets) == 1:
            found.setdefault(split_of(inner.name), *sets.values())
    rest = [inner for inner in subfolders(folder) if not split_of(inner.name) and inner.name.lower() != "test"]
    others = filter(find_pictures, rest)
    return add_notes(found, note("folders with images are of no set", others, "Unused")) if found else {}


def _first_form(folder: Path, root: Path) -> dict[str, CocoData]:
    """Return the sets of a folder in the first form that can be read; none if it is in no form.

    Raises:
        CocoFormatError: if there are files of a form, but none can be read; those beside data of another are noted.
    """
    errors: list[str] = []
    for read in (_read_coco, read_yolo, read_voc, _read_lone_file):
        try:
            found = read(folder, root)
        except CocoFormatError as error:
            errors.append(str(error))
            continue
        if found:
            return add_notes(found, [Trouble("", error, done="It is not used") for error in errors])
    if errors:
        raise CocoFormatError("\n".join(dict.fromkeys(errors)))
    return {}


def split(data: CocoData, val_share: float, seed: int) -> tuple[CocoData, CocoData]:
    """Divide a data set at random into one to train and one to validate on.

    Raises:
        DatasetError: if it has fewer than two images.
    """
    images = sorted(data.content["images"], key=lambda image: image["file_name"])
    if len(images) < 2:
        raise DatasetError(
            f"data set {data.name} has {len(images)} image: at least 2 are needed to validate on others than those "
            "trained on (--val-share 0 validates on these)"
        )
    number = min(max(1, round(val_share * len(images))), len(images) - 1)
    chosen = {images[i]["id"] for i in np.random.default_rng(seed).permutation(len(images))[:number]}
    stem = data.name.rpartition("_")[0] or data.name
    chosen_by = f"{number} of its {len(images)} images, chosen by seed {seed}; all with --val-share 0"

    def part(name: str, keep: Callable[[int], bool], **more: Any) -> CocoData:
        content = dict(data.content)
        content["images"] = [image for image in data.content["images"] if keep(image["id"])]
        content["annotations"] = [a for a in data.content.get("annotations", []) if keep(a["image_id"])]
        return replace(data, name=f"{stem}_{name}", content=content, **more)

    val = part("val", lambda image: image in chosen, notes=(), origin=f"{data.origin} ({chosen_by})")
    return part("train", lambda image: image not in chosen), val


def _read_coco(folder: Path, root: Path) -> dict[str, CocoData]:
    if root.is_file():
        return {"all": _coco_file(root, folder)} if root.suffix.lower() == ".json" else {}
    found: dict[str, Path] = {}
    for path in _main_files(folder):
        found.setdefault(_set_of(path, folder), path)
    found.pop("", None)
    if "train" in found:
        found.pop("all", None)
    return _coco_files(found, folder)


def _set_of(path: Path, folder: Path) -> str:
    """Return the set that a JSON file is named for: ``train``, ``val``, ``all`` or none."""
    name = path.parent.name if path.name in _NAMED_BY_FOLDER and path.parent != folder else path.stem
    return split_of(name) or ("all" if _bare_stem(name) in _WHOLE else "")


def _read_lone_file(folder: Path, root: Path) -> dict[str, CocoData]:
    files = _main_files(folder) if root.is_dir() else []
    if len(files) > 1:
        files = [path for path in files if _is_annotated(path)]
    if len(files) != 1 or _set_of(files[0], folder):  # a set beside one that cannot be read is not all of the data
        return {}
    return _coco_files({"all": files[0]}, folder)


def _is_annotated(path: Path) -> bool:
    """Return True for a JSON file with images and annotations."""
    with contextlib.suppress(OSError, ValueError):
        content = parse_json(path.read_bytes())
        return isinstance(content, dict) and {"images", "annotations"} <= content.keys()
    return False


def _main_files(folder: Path) -> list[Path]:
    """Return the JSON files that may be a set: those of instances, where there are such, else all, or of keypoints."""
    files = _json_files(folder)
    first = [path for path in files if path.name.startswith("instances_")] or files
    return first or match_files(folder, f"{_KEYPOINTS}*.json", f"annotations/{_KEYPOINTS}*.json")


def _bare_stem(name: str) -> str:
    return name.removeprefix("instances_").removeprefix(_KEYPOINTS)


def _json_files(folder: Path) -> list[Path]:
    files = match_files(folder, "*.json", "annotations/*.json", *(f"*/{name}" for name in _NAMED_BY_FOLDER))
    return [path for path in files if not path.name.startswith(_OTHER_TASKS)]


def _coco_files(found: Mapping[str, Path], folder: Path) -> dict[str, CocoData]:
    sets = {key: _coco_file(path, folder) for key, path in found.items()}
    unused = {*_json_files(folder)} - {*found.values()}
    notes = note("JSON files are of no set, or a second one of their set", unused, "Unused")
    return add_notes(sets, notes) if sets else {}


def _coco_file(path: Path, root: Path) -> CocoData:
    name = _bare_stem(path.stem)
    roots = [root, path.parent, *([path.parent.parent] if path.parent.name == "annotations" else [])]
    content, images = read_complete(path, lambda names: _image_folder(name, roots, names))
    done = "It can be predicted on, but neither trained nor scored with"
    notes = [] if "annotations" in content else [Trouble("", "it has no annotations", done=done)]
    data = CocoData(name, content, images, f"annotation file {path}")
    whole = [Path(image["file_name"]) for image in content["images"] if image["file_name"].startswith("/")]
    home = min(roots, key=lambda folder: len(folder.absolute().parts))
    return replace(data, notes=(*notes, *note_other_copy(filter(Path.is_file, whole), home, path)))


def _image_folder(name: str, roots: Sequence[Path], images: Sequence[str]) -> Path:
    """Return the folder with the most of some images: one of the usual names, else any in the folder of the data.

    One that is named for the same split goes before others: names such as ``0001.jpg`` are in all splits.

    Args:
        name: of the set.
        roots: the folder of the data, that of the annotation file, and the one around ``annotations``.
        images: names of images, relative to the folder.
    """

    def count(folder: Path) -> tuple[int, int]:
        found = find_named(folder, images)
        there = found.missing.count(False)
        return there, there - sum(found.renamed)

    def rank(folder: Path) -> tuple[bool, int, int]:
        there, exact = count(folder)
        return exact > 0 and split_of(folder.name) == wanted, there, exact

    wanted = split_of(name) or "train"
    usual = [root / inner for root in roots for inner in (name, f"images/{name}", "images", "data", ".")]
    best = max(filter(Path.is_dir, usual), key=count)
    places = [root / inner for root in dict.fromkeys((roots[0], roots[-1])) for inner in (".", "images", "data")]
    others = [folder for place in filter(Path.is_dir, places) for folder in subfolders(place)]
    if count(best)[0]:
        is_other = split_of(name) and split_of(best.name) != wanted
        others = [folder for folder in others if is_other and split_of(folder.name) == wanted]
    return max([best, *others], key=rank)
