"""Data sets in Pascal VOC's form: an XML file for each image, and perhaps lists of images in ``ImageSets``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.labelled import (
    SPLITS,
    Labelled,
    add_notes,
    as_coco,
    note,
    read_lines,
    split_of,
)
from nasnet_det.detection.data.look import CocoData, Trouble
from nasnet_det.safe_io.files import protect
from nasnet_det.safe_io.folders import IMAGE_SUFFIXES, find_files, find_pictures


def read_voc(folder: Path, root: Path) -> dict[str, CocoData]:
    """Return the sets of a folder in Pascal VOC's form; none if it is in another.

    Args:
        folder: the folder.
        root: the same; a file in it is not of this form.

    Raises:
        CocoFormatError: naming the file that is wrong.
    """
    files = [path for path in find_files(folder) if path.suffix == ".xml"] if root.is_dir() else []
    labelled = {path: entry for path in files if (entry := _labelled(path)) is not None}
    if not labelled:
        return {}
    classes = sorted({name for entry in labelled.values() for name, *_ in entry.objects})
    lists = {key: _listed(folder, names) for key, names in (SPLITS | {"all": ("trainval",)}).items()}
    groups: dict[str, list[Path]] = {}
    for path in labelled:
        named = "" if any(lists.values()) else split_of(path.parent.relative_to(folder).as_posix())
        for key in [key for key, stems in lists.items() if path.stem in stems] or [named]:
            groups.setdefault(key, []).append(path)
    rest = groups.pop("", [])
    if "train" in groups:
        groups.pop("all", None)
    elif rest:
        groups.setdefault("all", rest)
    unused = set(labelled).difference(*groups.values())
    notes = _notes(labelled, unused, {stem for stems in lists.values() for stem in stems})
    sets = {key: as_coco([labelled[path] for path in paths], classes, folder) for key, paths in groups.items()}
    return add_notes(sets, notes)


def _notes(labelled: Mapping[Path, Labelled], unused: Collection[Path], listed: set[str]) -> list[Trouble]:
    """Return the files without a partner."""
    used = {entry.image for entry in labelled.values()}
    pictures = {image for folder in {path.parent for path in used if path.is_file()} for image in find_pictures(folder)}
    absent = listed - {path.stem for path in labelled}
    return [
        *note("annotation files are in neither the training nor the validation set", unused, "Unused", len(labelled)),
        *note("images have no annotation file", pictures - used, "Unused", len(pictures)),
        *note("images of the lists in ImageSets have no annotation file", absent, "Unused"),
    ]


def _listed(folder: Path, names: Sequence[str]) -> set[str]:
    """Return the base names of the images that ``ImageSets/Main`` lists for a split."""
    files = [folder / "ImageSets" / "Main" / f"{name}.txt" for name in names]
    lines = [Path(line) for file in files if file.is_file() for line in read_lines(file)]
    return {line.stem if line.suffix.lower() in IMAGE_SUFFIXES else line.name for line in lines}


def _labelled(path: Path) -> Labelled | None:
    """Return the image and objects of a file; None for XML of another kind."""
    from defusedxml.ElementTree import parse
    from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

    protect([path])
    try:
        element = parse(path).getroot()
        if element.tag != "annotation":
            return None
        image = _image(path, element.findtext("filename") or "")
        sides = [int(float(element.findtext(f"size/{name}") or 0)) for name in ("width", "height")]
        polygons = [_polygons(entry) for entry in element.findall("object")]
        found, names = detections_from_xml_obj(element, [], (1, 1))
    except (OSError, SyntaxError, ValueError) as error:
        raise CocoFormatError(f"{path}: {error}") from error
    corners = found.xyxy.astype(np.float64)
    labels = [names[number] for number in ([] if found.class_id is None else found.class_id.tolist())]
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    objects = list(zip(labels, boxes, polygons, strict=True))
    return Labelled(image, objects, (sides[0], sides[1]) if min(sides) > 0 else None)


def _polygons(entry: Any) -> list[list[float]]:
    """Take the polygons out of an object, which ``supervision`` would draw: ``x1 y1 x2 y2`` or ``pt`` of ``x y``."""
    polygons = []
    for element in entry.findall("polygon"):
        numbers = [float(part.text) - 1 for part in element.iter() if re.fullmatch(r"[xy]\d*", part.tag)]
        polygons.append(numbers)
        entry.remove(element)
    return polygons


def _image(path: Path, name: str) -> Path:
    """Return the image of a file: by the name in it or by its own, beside it or in a sister folder."""
    folders = [path.parent, *(path.parent.parent / name for name in ("JPEGImages", "images", "Images"))]
    base = Path(name.replace("\\", "/")).name or f"{path.stem}.jpg"
    names = [base, *(path.stem + suffix for suffix in (*IMAGE_SUFFIXES, ".JPG", ".JPEG", ".PNG"))]
    found = (folder / name for name in names for folder in folders)
    return next((image for image in found if image.is_file()), path.parent / base)
