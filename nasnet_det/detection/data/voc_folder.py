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
    match_files,
    note,
    read_lines,
    split_of,
)
from nasnet_det.detection.data.look import CocoData, Trouble
from nasnet_det.safe_io.files import protect
from nasnet_det.safe_io.folders import IMAGE_SUFFIXES, Listings, find_files, find_pictures


def read_voc(folder: Path, root: Path) -> dict[str, CocoData]:
    """Return the sets of a folder in Pascal VOC's form; none if it is in another.

    Args:
        folder: the folder.
        root: the same; a file in it is not of this form.

    Raises:
        CocoFormatError: naming the file that is wrong.
    """
    files = [path for path in find_files(folder) if path.suffix.lower() == ".xml"] if root.is_dir() else []
    listings = Listings()
    labelled = {path: entry for path in files if (entry := _labelled(path, listings)) is not None}
    if not labelled:
        return {}
    classes = sorted({name for entry in labelled.values() for name, *_ in entry.objects})
    stems = {path.stem for path in labelled}
    lists = {key: _listed(folder, names, stems) for key, names in (SPLITS | {"all": ("trainval",)}).items()}
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


def _listed(folder: Path, names: Sequence[str], known: Collection[str]) -> set[str]:
    """Return the base names of the images that ``ImageSets/Main`` lists for a split.

    The lists of single classes (``dog_train.txt``) count where they are the only ones. As in VOC's development kit,
    such a list has all images of the split: lines ``NAME 1`` are those with the class, ``-1`` those without it, and
    ``0`` those that show it with difficulty.

    Args:
        folder: the folder of ``ImageSets``.
        names: what the split is called.
        known: the base names of the annotation files.
    """
    for form in ("", "*_"):
        if files := match_files(folder, *(f"ImageSets/Main/{form}{name}.txt" for name in names)):
            return {_base_name(line, known) for file in files for line in read_lines(file)}
    return set()


def _base_name(line: str, known: Collection[str]) -> str:
    """Return the base name of the image of a line: all of it, or what is before the flag of a class."""
    paths = [Path(line), Path(re.sub(r"\s+(-1|0|1)$", "", line))]
    names = [path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name for path in paths]
    return next((name for name in names if name in known), names[-1])


def _labelled(path: Path, listings: Listings) -> Labelled | None:
    """Return the image and objects of a file; None for XML of another kind."""
    from defusedxml.ElementTree import parse
    from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

    protect([path])
    try:
        element = parse(path).getroot()
        if element.tag != "annotation":
            return None
        image, named = _image(path, element.findtext("filename") or "", listings)
        sides = [int(float(element.findtext(f"size/{name}") or 0)) for name in ("width", "height")]
        polygons = [_polygons(entry) for entry in element.findall("object")]
        found, names = detections_from_xml_obj(element, [], (1, 1))
        _check_corners(element)
    except (OSError, SyntaxError, ValueError) as error:
        raise CocoFormatError(f"{path}: {error}") from error
    corners = found.xyxy.astype(np.float64)
    labels = [names[number] for number in ([] if found.class_id is None else found.class_id.tolist())]
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    objects = list(zip(labels, boxes, polygons, strict=True))
    return Labelled(image, objects, (sides[0], sides[1]) if min(sides) > 0 else None, named)


def _check_corners(element: Any) -> None:
    """Refuse boxes whose corners are exchanged, which ``supervision`` orders: they may be of another form."""
    for box in element.findall("object/bndbox"):
        low, high = ([float(box.findtext(f"{axis}{end}")) for axis in "xy"] for end in ("min", "max"))
        if low[0] > high[0] or low[1] > high[1]:
            raise ValueError(f"expected xmin, ymin, xmax, ymax, the first two at most the others, not {low + high}")


def _polygons(entry: Any) -> list[list[float]]:
    """Take the polygons out of an object, which ``supervision`` would draw: ``x1 y1 x2 y2`` or ``pt`` of ``x y``."""
    polygons = []
    for element in entry.findall("polygon"):
        numbers = [float(part.text) - 1 for part in element.iter() if re.fullmatch(r"[xy]\d*", part.tag)]
        polygons.append(numbers)
        entry.remove(element)
    return polygons


def _image(path: Path, name: str, listings: Listings) -> tuple[Path, Path]:
    """Return the image of an annotation file, and its path as named, which may be written otherwise.

    The image has the name in the file or the file's own, and is beside it or in a sister folder.
    """
    folders = [path.parent, *(path.parent.parent / name for name in ("JPEGImages", "images", "Images"))]
    base = Path(name.replace("\\", "/")).name
    for text in filter(None, (base, path.stem)):
        named = [folder / text for folder in folders]
        if exact := next(filter(Path.is_file, named), None):
            return exact, exact
        for place, files in ((place, listings.fitting(place)) for place in named):
            if files:
                image = files[0] if len(files) == 1 else place
                return image, place if text == base else image
    missing = next(filter(Path.is_dir, folders[1:]), path.parent) / (base or f"{path.stem}.jpg")
    return missing, missing
