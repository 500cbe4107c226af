"""Data sets as folders: COCO's, YOLO's or Pascal VOC's form, detected, read into COCO's content in memory.

Label files are read by ``supervision``; nothing is written. Where a folder has no validation set, one is taken from the
training set by a seed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nasnet_det.detection.data.coco_format import COMPLETE, check_annotations, read_annotations
from nasnet_det.detection.data.columns import CocoFormatError, Record
from nasnet_det.detection.data.image_paths import IMAGE_SUFFIXES
from nasnet_det.detection.data.look import EXAMPLES, CocoData, DatasetError, Trouble
from nasnet_det.safe_io.files import exists, protect
from nasnet_det.safe_io.images import ImageError, is_hidden, read_header
from nasnet_det.safe_io.values import format_names, format_value, parse_yaml

#: What splits are called, in folders, files and keys.
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "minival")}
#: Annotations of other tasks beside COCO's instances.
_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")

#: An object's class, its box as x, y, width, height, and its polygons.
Object = tuple[str, list[float], list[list[float]]]


class Labelled(NamedTuple):
    """An image with its objects, and the width and height that it is annotated with, if known."""

    image: Path
    objects: list[Object]
    size: tuple[int, int] | None


def open_dataset(root: str | Path, val_share: float = 0.2, seed: int = 0) -> tuple[CocoData, CocoData, list[str]]:
    """Open a folder of annotated images for training.

    Args:
        root: the folder; or its annotation file (COCO) or ``data.yaml`` (YOLO).
        val_share: the share of the training images to validate on, where the folder has no validation set.
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
        train, val = split(train, val_share, seed)
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
    for read in (_read_coco, _read_yolo, _read_voc):
        if found := read(folder, root):
            name = root.resolve().name if root.is_dir() else root.stem
            for data in found.values():
                protect(data.path(image) for image in data.content["images"])
            return {key: replace(data, name=f"{name}_{key}") for key, data in found.items()}
    inner = [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path, folder)]
    if len(inner) == 1 and root.is_dir():  # as archives are often packed
        return read_folder(inner[0])
    raise DatasetError(
        f"{root} is in no known form: expected COCO (train.json and val.json, annotations/instances_NAME.json, or one "
        "annotations.json), YOLO (data.yaml with names, train and val) or Pascal VOC (an .xml file for each image)"
    )


def split(data: CocoData, val_share: float, seed: int) -> tuple[CocoData, CocoData]:
    """Divide a data set at random into one to train and one to validate on.

    Raises:
        DatasetError: if it has fewer than two images.
    """
    images = sorted(data.content["images"], key=lambda image: image["file_name"])
    if len(images) < 2:
        raise DatasetError(f"data set {data.name} has {len(images)} image: at least 2 are needed to validate on others")
    number = min(max(1, round(val_share * len(images))), len(images) - 1)
    chosen = {images[i]["id"] for i in np.random.default_rng(seed).permutation(len(images))[:number]}
    stem = data.name.rpartition("_")[0] or data.name

    def part(name: str, keep: Callable[[int], bool]) -> CocoData:
        content = dict(data.content)
        content["images"] = [image for image in data.content["images"] if keep(image["id"])]
        content["annotations"] = [a for a in data.content.get("annotations", []) if keep(a["image_id"])]
        return replace(data, name=f"{stem}_{name}", content=content, notes=data.notes if name == "train" else ())

    return part("train", lambda image: image not in chosen), part("val", lambda image: image in chosen)


def _split_of(name: str) -> str:
    """Return ``train`` or ``val`` for a name such as ``instances_train2017``; an empty text for others."""
    words = "".join(c if c.isalpha() else " " for c in name.lower()).split()
    return next((key for key, names in _SPLITS.items() if set(words) & set(names)), "")


def _files(folder: Path, *patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if not is_hidden(path, folder))


# COCO


def _read_coco(folder: Path, root: Path) -> dict[str, CocoData]:
    if root.is_file():
        return {"all": _coco_file(root, folder)} if root.suffix == ".json" else {}
    files = _files(folder, "*.json", "annotations/*.json", "*/_annotations.coco.json")
    files = [path for path in files if not path.name.startswith(_OTHER_TASKS)]
    instances = [path for path in files if path.name.startswith("instances_")]
    found: dict[str, Path] = {}
    for path in instances or files:
        name = path.parent.name if path.name == "_annotations.coco.json" else path.stem
        found.setdefault(_split_of(name) or ("all" if name in ("annotations", "instances") else ""), path)
    found.pop("", None)
    if not found and len(files) == 1:
        found = {"all": files[0]}
    if "train" in found:
        found.pop("all", None)
    return {key: _coco_file(path, folder) for key, path in found.items()}


def _coco_file(path: Path, root: Path) -> CocoData:
    content = read_annotations(path, required=COMPLETE, sound=False)
    name = path.stem.removeprefix("instances_")
    folders = [root / name, root / "images" / name, path.parent / "images", root / "images", path.parent, root]
    some = [image["file_name"].replace("\\", "/") for image in content["images"][:20]]
    images = max(folders, key=lambda folder: sum(exists(folder / name) for name in some))
    return CocoData(name, content, images, f"annotation file {path}")


# YOLO


def _read_yolo(folder: Path, root: Path) -> dict[str, CocoData]:
    files = [root] if root.is_file() else _files(folder, "data.yaml", "*.yaml", "*.yml")
    for path in files:
        try:
            settings = parse_yaml(_text(path))
        except ValueError as error:
            if path.name == "data.yaml":
                raise CocoFormatError(f"{path} is not YAML: {error}") from None
            continue
        if isinstance(settings, dict) and "names" in settings:
            return _yolo_sets(path, settings)
    return {}


def _yolo_sets(path: Path, settings: dict[str, Any]) -> dict[str, CocoData]:
    classes, keypoints = _yolo_names(path, settings), settings.get("kpt_shape") or (0, 0)
    base = path.parent / str(settings.get("path") or "")
    if not base.is_dir():  # of the machine that wrote it
        base = path.parent
    found: dict[str, list[Path]] = {}
    for key, names in _SPLITS.items():
        given: Any = next((settings[name] for name in names if settings.get(name)), [])
        for entry in given if isinstance(given, list) else [given]:
            found.setdefault(key, []).extend(_yolo_images(base, str(entry), path))
    if not found:
        found["all"] = _pictures(base / "images" if (base / "images").is_dir() else base)
    if not any(found.values()):
        raise CocoFormatError(f"{path} names no folder with images")
    known: set[Path] = set()
    return {
        key: _yolo_set(list(dict.fromkeys(images)), classes, keypoints, path, known) for key, images in found.items()
    }


def _yolo_set(
    images: Sequence[Path], classes: Sequence[str], keypoints: Sequence[int], origin: Path, known: set[Path]
) -> CocoData:
    """Return a data set of images; ``known`` gets the label files that were looked at for it."""
    labelled = [_yolo_labelled(image, classes, math.prod(keypoints)) for image in images]
    bare = [image for image in images if not _yolo_label(image).is_file()]
    notes = [_note("images have no label file", bare, "They are used as images without objects", len(images))]
    pictures = {image for folder in {image.parent for image in images} for image in _pictures(folder)}
    labels = {
        file for folder in {_yolo_label(image).parent for image in pictures} for file in _files(folder, "**/*.txt")
    }
    lone = labels - known - {_yolo_label(image) for image in pictures}
    known |= labels
    notes.append(_note("label files have no image", [path for path in lone if not _is_other_text(path)], "Unused"))
    return _as_coco(labelled, classes, origin, notes)


def _yolo_names(path: Path, settings: dict[str, Any]) -> list[str]:
    names = settings["names"]
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise CocoFormatError(
                f"{path}: the keys of 'names' must be 0 to {len(names) - 1}, not {format_names(names)}"
            )
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(type(name) in (str, int) for name in names):
        raise CocoFormatError(
            f"{path}: 'names' must be a list of class names, or a mapping from numbers to names, not "
            f"{format_value(names)} (names such as no and yes need quotes)"
        )
    if repeated := {name for name in names if names.count(name) > 1}:
        raise CocoFormatError(f"{path}: 'names' has {format_names(sorted(map(str, repeated)))} more than once")
    if settings.get("nc", len(names)) != len(names):
        raise CocoFormatError(f"{path}: 'nc' is {format_value(settings['nc'])}, but 'names' has {len(names)}")
    return list(map(str, names))


def _yolo_images(base: Path, entry: str, path: Path) -> list[Path]:
    """Return the images of an entry of ``data.yaml``: a folder, or a list of files; Roboflow's begin with ``../``."""
    place = next((p for p in (base / entry, base / entry.lstrip("./"), path.parent / entry) if p.exists()), None)
    if place is None:
        raise CocoFormatError(f"{path} names {entry}, which is not in {base}")
    if place.is_dir():
        return _pictures(place)
    return [place.parent / line for line in _lines(place)]


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _files(folder, "**/*") if path.suffix.lower() in IMAGE_SUFFIXES]


def _yolo_labelled(image: Path, classes: Sequence[str], keypoints: int) -> Labelled:
    """Return an image with the objects of its label file, if any; ``keypoints`` numbers may follow a box."""
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    labels = _yolo_label(image)
    try:
        size = read_header(image).size
        lines = _lines(labels) if labels.is_file() else []
        found = yolo_annotations_to_detections(lines, (1, 1), with_masks=False)
    except ImageError:
        return Labelled(image, [], None)  # which the look at the images reports
    except ValueError as error:
        raise CocoFormatError(f"{labels}: {error}") from error
    objects: list[Object] = []
    numbers: list[int] = [] if found.class_id is None else found.class_id.tolist()
    for line, number in zip(lines, numbers, strict=True):
        if not 0 <= number < len(classes):
            raise CocoFormatError(f"{labels}: class {number} is not one of data.yaml's, 0 to {len(classes) - 1}")
        values = list(map(float, line.split()[1:]))
        corners, polygons = _outline(
            values[:4] if len(values) == 4 + keypoints else values, np.array(size, dtype=np.float64)
        )
        low, high = corners.min(axis=0), corners.max(axis=0)
        objects.append((classes[number], [*low, *(high - low)], polygons))
    return Labelled(image, objects, size)


def _outline(numbers: Sequence[float], size: np.ndarray) -> tuple[np.ndarray, list[list[float]]]:
    """Return corners ``(N, 2)`` and polygons, in pixels, of the numbers of a line: box or polygon, perhaps a score."""
    if len(numbers) < 6:
        centre, extent = np.array(numbers[:2]), np.array(numbers[2:4])
        return np.stack([centre - extent / 2, centre + extent / 2]) * size, []
    polygon = np.array(numbers[: len(numbers) // 2 * 2]).reshape(-1, 2) * size
    return polygon, [polygon.ravel().tolist()]


def _yolo_label(image: Path) -> Path:
    """Return the label file of an image: beside it, or in ``labels`` where its path has ``images``."""
    parts = list(image.with_suffix(".txt").parts)
    number = max((number for number, part in enumerate(parts[:-1]) if part == "images"), default=None)
    if number is not None:
        parts[number] = "labels"
    return Path(*parts)


def _is_other_text(path: Path) -> bool:
    """Return True for a text file that is known not to be of one image: class names, notes, lists of a split."""
    name = path.stem.lower()
    return name.startswith(("classes", "readme", "notes")) or name in (
        "test",
        *(n for v in _SPLITS.values() for n in v),
    )


# Pascal VOC


def _read_voc(folder: Path, root: Path) -> dict[str, CocoData]:
    files = _files(folder, "**/*.xml") if root.is_dir() else []
    labelled = {path: entry for path in files if (entry := _voc_labelled(path)) is not None}
    if not labelled:
        return {}
    classes = sorted({name for entry in labelled.values() for name, *_ in entry.objects})
    lists = {key: _voc_list(folder, names) for key, names in _SPLITS.items()}
    groups: dict[str, list[Path]] = {}
    for path in labelled:
        listed = next((key for key, stems in lists.items() if path.stem in stems), "")
        named = "" if any(lists.values()) else _split_of(path.parent.relative_to(folder).as_posix())
        groups.setdefault(listed or named or "all", []).append(path)
    unused = groups.pop("all", []) if "train" in groups else []
    used = {entry.image for entry in labelled.values()}
    pictures = {image for place in {image.parent for image in used if image.is_file()} for image in _pictures(place)}
    absent = {stem for stems in lists.values() for stem in stems} - {path.stem for path in labelled}
    notes = [
        _note("annotation files are in neither the training nor the validation set", unused, "Unused", len(labelled)),
        _note("images have no annotation file", pictures - used, "Unused", len(pictures)),
        _note("images of the lists in ImageSets have no annotation file", absent, "Unused"),
    ]
    found = {key: _as_coco([labelled[path] for path in paths], classes, folder) for key, paths in groups.items()}
    first = next(key for key in ("train", "all", "val") if key in found)
    return found | {first: replace(found[first], notes=tuple(note for note in notes if note.count))}


def _voc_list(folder: Path, names: Sequence[str]) -> set[str]:
    """Return the base names of the images that ``ImageSets/Main`` lists for a split."""
    files = [folder / "ImageSets" / "Main" / f"{name}.txt" for name in names]
    lines = [Path(line) for file in files if file.is_file() for line in _lines(file)]
    return {line.stem if line.suffix.lower() in IMAGE_SUFFIXES else line.name for line in lines}


def _voc_labelled(path: Path) -> Labelled | None:
    """Return the image and objects of a file; None for XML of another kind."""
    from defusedxml.ElementTree import parse
    from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

    protect([path])
    try:
        element = parse(path).getroot()
        if element.tag != "annotation":
            return None
        image = _voc_image(path, element.findtext("filename") or "")
        sides = [int(float(element.findtext(f"size/{name}") or 0)) for name in ("width", "height")]
        polygons = [_voc_polygons(entry) for entry in element.findall("object")]
        found, names = detections_from_xml_obj(element, [], (1, 1))
    except (OSError, SyntaxError, ValueError) as error:
        raise CocoFormatError(f"{path}: {error}") from error
    corners = found.xyxy.astype(np.float64)
    labels = [names[number] for number in ([] if found.class_id is None else found.class_id.tolist())]
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    objects = list(zip(labels, boxes, polygons, strict=True))
    return Labelled(image, objects, (sides[0], sides[1]) if min(sides) > 0 else None)


def _voc_polygons(entry: Any) -> list[list[float]]:
    """Take the polygons out of an object, which ``supervision`` would draw: ``x1 y1 x2 y2`` or ``pt`` of ``x y``."""
    polygons = []
    for element in entry.findall("polygon"):
        numbers = [float(part.text) - 1 for part in element.iter() if re.fullmatch(r"[xy]\d*", part.tag)]
        polygons.append(numbers)
        entry.remove(element)
    return polygons


def _voc_image(path: Path, name: str) -> Path:
    """Return the image of a file: by the name in it or by its own, beside it or in a sister folder."""
    folders = [path.parent, *(path.parent.parent / name for name in ("JPEGImages", "images", "Images"))]
    base = Path(name.replace("\\", "/")).name or f"{path.stem}.jpg"
    names = [base, *(path.stem + suffix for suffix in (*IMAGE_SUFFIXES, ".JPG", ".JPEG", ".PNG"))]
    found = (folder / name for name in names for folder in folders)
    return next((image for image in found if image.is_file()), path.parent / base)


def _note(what: str, paths: Iterable[Path | str], done: str, total: int = 0) -> Trouble:
    names = sorted(map(str, paths))
    return Trouble("", what, len(names), total, names[:EXAMPLES], done)


def _text(path: Path) -> str:
    """Return the text of a file of the data.

    Raises:
        CocoFormatError: if it cannot be read.
    """
    protect([path])
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise CocoFormatError(f"{path} cannot be read: {error}") from error


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _as_coco(
    labelled: Iterable[Labelled], classes: Sequence[str], origin: Path, notes: Iterable[Trouble] = ()
) -> CocoData:
    """Return COCO's content of labelled images; their paths are kept whole, so the folder is empty."""
    images: list[Record] = []
    annotations: list[Record] = []
    ids = {name: number for number, name in enumerate(classes, start=1)}
    for number, (path, objects, size) in enumerate(labelled, start=1):
        try:
            width, height = size or read_header(path).size
        except ImageError:  # which the look at the images reports
            width = height = 1
        images.append({"id": number, "file_name": str(path), "width": width, "height": height})
        for name, box, polygons in objects:
            entry = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": ids[name],
                "bbox": list(map(float, box)),
            }
            annotations.append(entry | ({"segmentation": polygons} if polygons else {}))
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": ids[name], "name": name} for name in classes],
    }
    check_annotations(content, str(origin), required=COMPLETE, sound=False)
    return CocoData("", content, Path(), str(origin), tuple(note for note in notes if note.count))
