"""Data sets in Pascal VOC's form: an XML file for each image, and perhaps lists of images in ``ImageSets``."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.labelled import (
    BARE,
    SPLITS,
    Labelled,
    Object,
    add_notes,
    as_coco,
    match_files,
    read_lines,
    split_of,
)
from nasnet_det.detection.data.look import TURNED, CocoData, Trouble, note
from nasnet_det.detection.data.other_forms import tell_form
from nasnet_det.safe_io.extras import refuse_outdated
from nasnet_det.safe_io.files import protect
from nasnet_det.safe_io.folders import IMAGE_SUFFIXES, Listings, bare_name, find_files, find_pictures

#: What the folder of the images beside that of the annotations is called.
_SISTERS = ("JPEGImages", "images", "Images", "data")
#: The lists of sets that are not divided, the second Datumaro's and CVAT's.
_WHOLE = ("trainval", "default")
#: The database that LabelImg, CVAT and Datumaro name, whose coordinates are not shifted.
_FROM_ZERO = "Unknown"


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
    labelled = {path: entry for path in files if (entry := _labelled(path, folder, listings)) is not None}
    if not labelled:
        return {}
    labelled, notes = _in_pixels_from_zero(labelled)
    classes = sorted({name for entry in labelled.values() for name, *_ in entry.objects})
    homes: dict[Path, list[Path]] = {}
    for path in labelled:
        homes.setdefault(_home(path, folder), []).append(path)
    groups: dict[str, dict[Path, Labelled]] = {}
    absent: set[str] = set()
    for home, paths in homes.items():
        absent |= _divide(home, paths, labelled, groups)
    rest = groups.pop("", {})
    if "train" in groups:
        groups.pop("all", None)
    elif rest:
        groups.setdefault("all", rest)
    sets = {key: as_coco(entries.values(), classes, folder) for key, entries in groups.items()}
    grouped = {path: entry for entries in groups.values() for path, entry in entries.items()}
    return add_notes(sets, [*notes, *_notes(labelled, grouped, absent)])


def _home(path: Path, folder: Path) -> Path:
    """Return the folder of the development kit that a file belongs to, as VOC2007: the one with ``ImageSets/Main``."""
    inside = path.parents[: path.parents.index(folder) + 1]
    return next((home for home in inside if (home / "ImageSets" / "Main").is_dir()), folder)


def _divide(
    home: Path, paths: Sequence[Path], labelled: Mapping[Path, Labelled], groups: dict[str, dict[Path, Labelled]]
) -> set[str]:
    """Add the annotation files of a development kit to the groups of its lists, or of their folders.

    Images that are listed and have no annotation file are without objects.

    Args:
        home: its folder.
        paths: the files.
        labelled: all files' images.
        groups: images by ``train``, ``val``, ``all`` or, for those of no split, an empty text.

    Returns:
        the names in the lists that are of no file.
    """
    names = {path: _list_names(path, home) for path in paths}
    known = {name for those in names.values() for name in those}
    lists = {key: _listed(home, words, known) for key, words in (SPLITS | {"all": _WHOLE}).items()}
    for path in paths:
        named = "" if any(lists.values()) else split_of(path.parent.relative_to(home).as_posix())
        for key in [key for key, listed in lists.items() if names[path] & listed] or [named]:
            groups.setdefault(key, {})[path] = labelled[path]
    absent = {name for listed in lists.values() for name in listed} - known
    places = [home / name for name in _SISTERS] if absent else []
    bare = {
        image.relative_to(place).with_suffix("").as_posix(): image for place in places for image in find_pictures(place)
    }
    for key, listed in lists.items():
        for name in sorted(listed & absent & {*bare}):
            groups.setdefault(key, {})[bare[name]] = Labelled(bare[name], [], None)
    return absent - {*bare}


def _list_names(path: Path, home: Path) -> set[str]:
    """Return what lists may call the image of an annotation file: its base name, or its path below ``Annotations``."""
    inside = path.relative_to(home).with_suffix("").parts
    return {path.stem, "/".join(inside[1:]) or path.stem}


def _notes(
    labelled: Mapping[Path, Labelled], grouped: Mapping[Path, Labelled], absent: Collection[str]
) -> list[Trouble]:
    """Return the files without a partner."""
    used = {entry.image for entry in (*labelled.values(), *grouped.values())}
    pictures = {image for folder in {path.parent for path in used if path.is_file()} for image in find_pictures(folder)}
    unused = {*labelled} - {*grouped}
    turned = [path for path, entry in labelled.items() if entry.is_turned]
    return [
        *note("annotation files have rotated boxes ('attributes', 'rotation')", turned, TURNED, len(labelled)),
        *note("annotation files are in neither the training nor the validation set", unused, "Unused", len(labelled)),
        *note("images have no annotation file", pictures - used, "Unused", len(pictures)),
        *note("images of the lists in ImageSets have no annotation file", {*grouped} - {*labelled}, BARE),
        *note("names of the lists in ImageSets have neither an image nor an annotation file", absent, "Unused"),
    ]


def _listed(folder: Path, names: Sequence[str], known: Collection[str]) -> set[str]:
    """Return the names of the images that ``ImageSets/Main`` lists for a split.

    The lists of single classes (``dog_train.txt``) count where they are the only ones. As in VOC's development kit,
    such a list has all images of the split: lines ``NAME 1`` are those with the class, ``-1`` those without it, and
    ``0`` those that show it with difficulty.

    Args:
        folder: the folder of ``ImageSets``.
        names: what the split is called.
        known: the names of the annotation files.
    """
    for form in ("", "*_"):
        if files := match_files(folder, *(f"ImageSets/Main/{form}{name}.txt" for name in names)):
            return {_listed_name(line, known) for file in files for line in read_lines(file)}
    return set()


def _listed_name(line: str, known: Collection[str]) -> str:
    """Return the name of the image of a line: all of it, or what is before the flag of a class; perhaps in a folder."""
    paths = [Path(text.replace("\\", "/")) for text in (line, re.sub(r"\s+(-1|0|1)$", "", line))]
    paths = [path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path for path in paths]
    names = [name for path in paths for name in (path.as_posix(), path.name)]
    return next((name for name in names if name in known), names[-2])


def _labelled(path: Path, folder: Path, listings: Listings) -> Labelled | None:
    """Return the image and objects of a file; None for XML of another kind."""
    from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

    refuse_outdated("supervision")
    protect([path])
    try:
        element = _root(path)
        for part in element.iter():
            part.tag = part.tag.rpartition("}")[2].lower()  # without its namespace
        if element.tag != "annotation":
            return None
        image, named = _image(path, folder, (element.findtext("filename") or "").strip(), listings)
        sides = [int(_number(element.find(f"size/{name}"), "0")) for name in ("width", "height")]
        polygons = [_polygons(entry) for entry in element.findall("object")]
        found, names = detections_from_xml_obj(element, [], (1, 1))
        _check_boxes(element)
    except (OSError, ValueError) as error:
        raise CocoFormatError(f"{path}: {error}" + "; ".join(["", *filter(None, [tell_form(path)])])) from error
    corners = found.xyxy.astype(np.float64)
    labels = [names[number].strip() for number in ([] if found.class_id is None else found.class_id.tolist())]
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    objects = list(zip(labels, boxes, polygons, strict=True))
    first_pixel = _first_pixel(element, corners[:, :2] + 1)
    return Labelled(
        image, objects, (sides[0], sides[1]) if min(sides) > 0 else None, named, _is_turned(element), first_pixel
    )


def _root(path: Path) -> Any:
    """Return the root of an XML file.

    Raises:
        OSError, ValueError: if it cannot be read.
    """
    from defusedxml.ElementTree import parse

    try:
        return parse(path).getroot()
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"it is not XML in UTF-8: {error}") from error


def _number(element: Any, default: str = "") -> float:
    """Return the number in an element; ``default`` if it is absent or empty."""
    text = ("" if element is None else element.text or "").strip() or default
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise ValueError(f"{element.tag!r} is {text!r}, expected a number")


def _check_boxes(element: Any) -> None:
    """Refuse objects of several boxes, of which ``supervision`` takes the first, boxes whose corners are exchanged,
    which it orders: they may be of another form; and objects that LabelMe has marked as deleted."""
    for entry in element.findall("object"):
        if (entry.findtext("deleted") or "0").strip() != "0":
            raise ValueError(f"an object {entry.findtext('name')!r} is marked as 'deleted': remove it")
        boxes = entry.findall("bndbox")
        if len(boxes) != 1:
            raise ValueError(f"an object {entry.findtext('name')!r} has {len(boxes)} 'bndbox', expected one")
        low, high = ([float(boxes[0].findtext(f"{axis}{end}")) for axis in "xy"] for end in ("min", "max"))
        if low[0] > high[0] or low[1] > high[1]:
            raise ValueError(f"expected xmin, ymin, xmax, ymax, the first two at most the others, not {low + high}")


def _polygons(entry: Any) -> list[list[float]]:
    """Take the polygons out of an object, which ``supervision`` would draw: ``x1 y1 x2 y2`` or ``pt`` of ``x y``."""
    polygons = []
    for element in entry.findall("polygon"):
        numbers = [_number(part) - 1 for part in element.iter() if re.fullmatch(r"[xy]\d*", part.tag)]
        polygons.append(numbers)
        entry.remove(element)
    return polygons


def _in_pixels_from_zero(labelled: dict[Path, Labelled]) -> tuple[dict[Path, Labelled], list[Trouble]]:
    """Undo the shift of a pixel where most files that tell count pixels from 0; name those files.

    Pascal VOC's begin at 1. Tools that write coordinates, of which 0 is the least, mostly leave VOC's 1 in no file.
    """
    zeros = [path for path, entry in labelled.items() if entry.first_pixel == 0]
    ones = sum(entry.first_pixel == 1 for entry in labelled.values())
    if len(zeros) <= ones:
        return labelled, []
    moved = {path: entry._replace(objects=[*map(_from_zero, entry.objects)]) for path, entry in labelled.items()}
    done = "All boxes are read so, without the shift of a pixel of Pascal VOC, which counts from 1"
    return moved, note(
        "annotation files count pixels from 0, as their boxes or their tool show", zeros, done, len(labelled)
    )


def _is_turned(element: Any) -> bool:
    """Return True for a file with a box that has an angle, as CVAT and Datumaro write it."""
    attributes = element.iterfind("object/attributes/attribute")
    return any(
        entry.findtext("name") == "rotation" and entry.findtext("value") not in ("0.0", "0") for entry in attributes
    )


def _first_pixel(element: Any, starts: np.ndarray) -> int | None:
    """Return the number of the first pixel in the coordinates of a file, if its tool or boxes there show it.

    Args:
        element: the file's root.
        starts: ``xmin`` and ``ymin`` of its boxes, ``(N, 2)``.
    """
    if element.findtext("source/database") == _FROM_ZERO or (starts < 1).any():
        return 0
    return 1 if (starts < 2).any() else None


def _from_zero(entry: Object) -> Object:
    name, (x, y, width, height), polygons = entry
    return name, [x + 1, y + 1, width - 1, height - 1], [[number + 1 for number in polygon] for polygon in polygons]


def _image(path: Path, folder: Path, name: str, listings: Listings) -> tuple[Path, Path]:
    """Return the image of an annotation file, and its path as named, which may be written otherwise.

    The image has the file's own name, as in detectron2, or else the one in the file, which is often that before both
    were renamed. It is beside it or in a sister folder, below which it may be in the same folders as the file.
    """
    folders = _image_folders(path.parent, folder)
    base = Path(name.replace("\\", "/")).name
    stem = bare_name(path.with_suffix(".jpg").name)
    for text in filter(None, (base, path.stem) if bare_name(base) == stem else (path.stem, base)):
        if exact := next(filter(Path.is_file, (place / text for place in folders)), None):
            return exact, exact
        for place, files in ((place / text, listings.fitting(place / text)) for place in folders):
            if files:
                image = files[0] if len(files) == 1 else place
                return image, place if text == base else image
    missing = next(filter(Path.is_dir, folders[1:]), path.parent) / (base or f"{path.stem}.jpg")
    return missing, missing


@functools.lru_cache
def _image_folders(place: Path, folder: Path) -> list[Path]:
    """Return the folders that may hold the images of the annotation files in a place below the folder of the data."""
    inside = [up for up in (place, *place.parents) if folder in (up, *up.parents)]
    below = [up.parent / name / place.relative_to(up) for up in inside for name in _SISTERS]
    return [place, *below, *(up.parent / name for up in inside for name in _SISTERS)]
