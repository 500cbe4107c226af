"""COCO's files of annotations and results.

Content is checked on reading, column by column (:mod:`nasnet_det.detection.data.columns`). Format reference:
cocodataset.org, "Data format" and "Results format".
"""

from __future__ import annotations

import functools
import json
import logging
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasnet_det.detection.data.coco_masks import is_mask
from nasnet_det.detection.data.columns import CocoFormatError, Kind, Record, check_column, entry_name
from nasnet_det.detection.data.other_forms import tell_form
from nasnet_det.safe_io.file_kinds import other_content
from nasnet_det.safe_io.files import protect
from nasnet_det.safe_io.folders import find_named
from nasnet_det.safe_io.images import ImageHeader, read_headers
from nasnet_det.safe_io.values import collection_paused, format_names, format_value, named, parse_json

logger = logging.getLogger(__name__)
#: A file may be read for several uses.
_warn_once = functools.cache(logger.warning)


def _is_four_numbers(value: Sequence[Any]) -> bool:
    return len(value) == 4 and {*map(type, value)} <= {int, float}


#: Beyond this COCO's tools, which count in doubles, confuse whole numbers.
_LARGEST = 2**53
_NUMBERS = (int, float)
#: Tools that keep tables of floats write whole numbers as floats; some tools write null or a truth value for a flag.
WHOLE = Kind("a whole number below 2^53", _NUMBERS, lambda v: v == int(v) and abs(v) <= _LARGEST, int)
SIDE = Kind("a whole number of pixels, at least 1", _NUMBERS, lambda v: v == int(v) and 1 <= v <= _LARGEST, int)
FLAG = Kind("0 or 1", (*_NUMBERS, bool, type(None)), lambda v: v in (None, 0, 1), lambda v: int(v or 0))
NUMBER = Kind("a finite number", _NUMBERS, math.isfinite)
AREA = Kind("a finite number, at least 0", _NUMBERS, lambda v: math.isfinite(v) and v >= 0)
TEXT = Kind("a text that is not blank", (str,), str.strip)
#: One form of Unicode, in which names are compared.
one_form = functools.partial(unicodedata.normalize, "NFC")
NAME = Kind("a text of valid characters that is not blank", (str,), lambda v: visible(v) and v.encode(), one_form)
BOX = Kind("[x, y, width, height] of four numbers", (list, tuple), lambda v: _is_four_numbers(v) and [*map(float, v)])
SOUND_BOX = Kind(
    "[x, y, width, height] of four finite numbers, width and height at least 0",
    (list, tuple),
    lambda v: _is_four_numbers(v) and all(map(math.isfinite, v)) and v[2] >= 0 and v[3] >= 0,
)
RLE = Kind("a compressed RLE, {'size', 'counts' as text}", (dict,), lambda v: isinstance(v.get("counts"), str))

#: The keys of each list besides ``id`` that only some uses need; where an entry has them they must be right.
_OPTIONAL = {"images": {"width": SIDE, "height": SIDE, "file_name": TEXT}, "categories": {"name": NAME}}
_RESULTS = (
    "a list of detections, each with image_id, category_id, bbox [x, y, width, height] and score, as in detectron2's "
    "coco_instances_results.json and in the JSON that mmdetection writes for its outfile_prefix"
)
#: Marks of tools for annotations that are neither to be learnt nor to be counted, besides COCO's ``iscrowd``.
_MARKS = ("ignore", "is_crowd", "isCrowd", "crowd", "is_group_of", "IsGroupOf", "isGroupOf", "deleted")
#: What training and drawing need of images and categories.
COMPLETE = ("width", "height", "file_name", "name")


def visible(text: str) -> str:
    """Return what is seen of a text: without spaces and invisible characters, as tables and web pages bring them."""
    return "".join(c for c in text if c.isprintable() and not c.isspace())


def read_annotations(path: str | Path, required: Collection[str] = (), sound: bool = True) -> dict[str, Any]:
    """Read and check a file of COCO annotations, or of image information only: then without ``annotations``.

    Args:
        path: the JSON file.
        required, sound: see :func:`check_annotations`.

    Returns:
        the file's content: ``images``, ``categories`` by ascending id and, where there are any, ``annotations``.

    Raises:
        CocoFormatError: if the file is missing, is not JSON, or breaks the format.
    """
    data, unmeasured = _read_annotations(path)
    for image in unmeasured:
        del image["width"], image["height"]
    return _checked(data, path, required, sound)


def read_complete(
    path: str | Path, find_folder: Callable[[Sequence[str]], Path], sound: bool = False
) -> tuple[dict[str, Any], Path]:
    """Read a file of COCO annotations with what training and drawing need: see :func:`read_annotations`.

    Images whose width and height are null, as Label Studio writes them where nothing is annotated, are measured.

    Args:
        path: the JSON file.
        find_folder: returns the folder of the images from the names of some of them.
        sound: see :func:`check_annotations`.

    Returns:
        the content, where every image has the keys of :data:`COMPLETE`, and the folder of the images.
    """
    data, unmeasured = _read_annotations(path)
    names = check_column(data["images"], "file_name", TEXT, f"annotation file {path}, images")
    folder = find_folder(names[:20])
    paths = find_named(folder, [image["file_name"] for image in unmeasured]).paths
    for image, header in zip(unmeasured, read_headers(paths), strict=True):
        if isinstance(header, ImageHeader):
            image["width"], image["height"] = header.size
    return _checked(data, path, COMPLETE, sound), folder


def _read_annotations(path: str | Path) -> tuple[dict[str, Any], list[Record]]:
    """Return the content of a file that has a list of images, and those whose width and height are null.

    Images without a ``file_name``, as LVIS's, get the folder and name in their ``coco_url``.
    """
    data = _read_json(path, "annotation file", dict, "an object with 'images', 'annotations' and 'categories'")
    _expect_list(data, "images", f"annotation file {path}", path)
    images = [image for image in data["images"] if isinstance(image, dict)]
    for image in images:
        if "file_name" not in image and isinstance(image.get("coco_url"), str):
            image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    return data, [image for image in images if (image.get("width", 0), image.get("height", 0)) == (None, None)]


def _checked(data: dict[str, Any], path: str | Path, required: Collection[str], sound: bool) -> dict[str, Any]:
    check_annotations(data, f"annotation file {path}", required, sound)
    data["categories"].sort(key=lambda category: category["id"])
    return data


def _expect_list(data: Mapping[str, Any], group: str, name: str, path: str | Path = "") -> None:
    records = data.get(group)
    if not isinstance(records, list):
        found = format_value(records) if group in data else f"only {format_names(data) or 'nothing'}"
        hint = f". {form}" if path and (form := tell_form(Path(path))) else ""
        raise CocoFormatError(f"{name}, {group}: expected a list '{group}', not {found}{hint}")


def check_annotations(data: dict[str, Any], name: str, required: Collection[str] = (), sound: bool = True) -> None:
    """Refuse annotations that break the format, and bring the others into one form.

    ``iscrowd`` becomes 0 and ``area`` that of the box where an annotation has none or null.

    Args:
        data: ``images``, ``categories`` and perhaps ``annotations``.
        name: the file's name in errors.
        required: which of the keys of :data:`COMPLETE` images and categories must have; scoring needs none of them.
        sound: refuse boxes that are not finite, and boxes and areas of negative size.

    Raises:
        CocoFormatError: naming the first wrong entry.
    """
    for group in ("images", "categories", *(["annotations"] if "annotations" in data else [])):
        _expect_list(data, group, name)
        records, where = data[group], f"{name}, {group}"
        if group == "annotations":
            _number(records, where)
        ids = Counter(check_column(records, "id", WHOLE, where))
        if len(ids) < len(records):
            shared = named([number for number, count in ids.items() if count > 1])
            raise CocoFormatError(f"{where}: id is not unique: {shared}; remove the copies, or renumber them")
        for key, kind in _OPTIONAL.get(group, {}).items():
            check_column(records, key, kind, where, key in required)
    annotations, where = data.get("annotations", []), f"{name}, annotations"
    _refuse_unknown(annotations, data, where)
    check_column(annotations, "bbox", SOUND_BOX if sound else BOX, where)
    for entry in annotations:
        entry.setdefault("iscrowd", 0)
        if entry.get("area") is None:
            area = float(entry["bbox"][2]) * entry["bbox"][3]
            entry["area"] = area if math.isfinite(area) else 0.0
    check_column(annotations, "iscrowd", FLAG, where)
    check_column(annotations, "area", AREA if sound else NUMBER, where)


def read_results(path: str | Path, annotations: Mapping[str, Any], segmentation: bool = False) -> list[Record]:
    """Read and check a file of detections, ``[{image_id, category_id, bbox [x, y, width, height], score}, ...]``.

    Args:
        annotations: checked annotations; detections may name only their images and categories.
        segmentation: expect a mask as compressed RLE in ``segmentation``, not a ``bbox``.

    Raises:
        CocoFormatError: if the file is missing, is not JSON, or breaks the format.
    """
    data: list[Record] = _read_json(path, "results file", list, _RESULTS)
    check_results(data, annotations, f"results file {path}", segmentation)
    return data


def check_results(
    results: Sequence[Record], annotations: Mapping[str, Any], name: str = "results", segmentation: bool = False
) -> None:
    """Refuse detections that break the format or name images and categories that the annotations lack.

    Raises:
        CocoFormatError: naming the first wrong entry.
    """
    _refuse_unknown(results, annotations, name)
    check_column(results, "score", NUMBER, name)
    if segmentation:
        check_column(results, "segmentation", RLE, name)
        _check_masks(results, annotations, "a compressed RLE", name)
    else:
        check_column(results, "bbox", SOUND_BOX, name)


def check_true_masks(annotations: Mapping[str, Any]) -> None:
    """Refuse annotations whose masks pycocotools does not support.

    Args:
        annotations: checked by :func:`check_annotations`.

    Raises:
        CocoFormatError: naming the first annotation without a mask, with one that is damaged or far outside its image,
            or of an image of unknown size.
    """
    forms = "polygons [[x, y, x, y, x, y, ...], ...], or an RLE"
    _check_masks(annotations["annotations"], annotations, forms, "annotations")


def _number(annotations: Sequence[Any], where: str) -> None:
    """Renumber annotations if some have no id, or several the same, as some tools write them: nothing refers to it.

    An annotation that is there twice keeps its id.
    """
    ids = Counter(repr(entry.get("id")) for entry in annotations if isinstance(entry, dict))
    if len(ids) == len(annotations) and "None" not in ids:
        return
    different = {json.dumps(entry, sort_keys=True, default=str) for entry in annotations}
    if len(different) == len(annotations):
        _warn_once(f"{where}: some have no id, or that of another: they are renumbered")
        for number, entry in enumerate(annotations, start=1):
            if isinstance(entry, dict):
                entry["id"] = number


def unknown_marks(entry: Record) -> list[str]:
    """Return the marks of an annotation to leave out that COCO does not know, also those in CVAT's attributes."""
    attributes = entry.get("attributes")
    inner = attributes if isinstance(attributes, dict) else {}
    set_inside = [mark for mark in (*_MARKS, "iscrowd") if inner.get(mark) in (1, "1", "true", "True")]
    return [mark for mark in _MARKS if entry.get(mark)] + set_inside


def category_labels(categories: Sequence[Record]) -> dict[int, str]:
    """Return a label of each category by its id, no two the same: its name, with the id where several have it."""
    labels = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    while len(count := Counter(labels.values())) < len(labels):
        labels = {number: text if count[text] == 1 else f"{text} (id {number})" for number, text in labels.items()}
    return labels


def _read_json(path: str | Path, what: str, form: type, expected: str) -> Any:
    protect([path])
    try:
        with collection_paused():
            data = parse_json(Path(path).read_bytes())
    except OSError as error:
        raise CocoFormatError(f"{what} {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        reason = (form is dict and tell_form(Path(path))) or f"{other_content(path) or error}; expected {expected}"
        raise CocoFormatError(f"{what} {path} is not JSON: {reason}") from error
    if not isinstance(data, form):
        content = f"an object with {format_names(data)}" if isinstance(data, dict) else format_value(data)
        found = (form is dict and tell_form(Path(path))) or f"not {content}"
        raise CocoFormatError(f"{what} {path}: expected {expected}; {found}")
    return data


def _refuse_unknown(records: Sequence[Record], annotations: Mapping[str, Any], name: str) -> None:
    """Refuse records whose image or category is not in the annotation file."""
    for key, home in (("image_id", "images"), ("category_id", "categories")):
        values = check_column(records, key, WHOLE, name)
        known = {entry["id"] for entry in annotations[home]}
        if unknown := set(values) - known:
            wrong = [number for number, value in enumerate(values) if value in unknown]
            raise CocoFormatError(
                f"{name}: the {key} of {len(wrong)} of {len(records)} entries is not among the annotation file's "
                f"{len(known)} {home}: {named(sorted(unknown))}; the first is {entry_name(records, wrong[0])}"
            )


def _check_masks(entries: Sequence[Record], annotations: Mapping[str, Any], forms: str, where: str) -> None:
    """Refuse entries without a mask of the size of their image."""
    sizes = {image["id"]: [image.get("height"), image.get("width")] for image in annotations["images"]}
    for number, entry in enumerate(entries):
        size, image, mask = sizes[entry["image_id"]], f"image {entry['image_id']}", entry.get("segmentation")
        if None in size or size[0] * size[1] >= 1 << 32:  # RLE counts in 32 bits
            raise CocoFormatError(
                f"{where}: {entry_name(entries, number)}: the height and width of {image} are {size} in the annotation "
                "file, expected numbers of pixels, fewer than 2^32 in all"
            )
        if not is_mask(mask, size):
            raise CocoFormatError(
                f"{where}: {entry_name(entries, number)}: 'segmentation' must be {forms} of the size of {image}, "
                f"{size}, not {format_value(mask)}"
            )
