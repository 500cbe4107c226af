"""detectron2's standard records of a data set, as functions in its catalog return them, as COCO's content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from detectron2.structures.masks import polygon_area

from nasnet_det.detection.data.coco_format import COMPLETE, check_annotations
from nasnet_det.detection.data.coco_masks import rle_area, rle_of
from nasnet_det.detection.data.columns import CocoFormatError, Record
from nasnet_det.safe_io.values import format_value

#: The keys of an image that are kept.
_IMAGE_KEYS = ("file_name", "width", "height", "neg_category_ids")


def as_coco_content(records: Sequence[Any], classes: Sequence[Record]) -> dict[str, Any]:
    """Convert records as detectron2's ``convert_to_coco_dict`` does, with full precision.

    Images keep their ``image_id`` where those are whole numbers that are all different; else they are numbered from 1.

    Args:
        records: the records; boxes may be of any type that holds four numbers.
        classes: ``id`` and ``name`` of each class that ``category_id`` counts.

    Raises:
        CocoFormatError: naming the first record that is wrong.
    """
    _check_types(records, "its records")
    ids = [plain(record.get("image_id")) for record in records]
    if {*map(type, ids)} != {int} or len({*ids}) < len(ids):
        ids = list(range(1, len(records) + 1))
    images: list[Record] = []
    annotations: list[Record] = []
    for number, (image_id, record) in enumerate(zip(ids, records, strict=True)):
        image = {key: plain(record[key]) for key in _IMAGE_KEYS if key in record}
        images.append({"id": image_id, **image})
        where = f"record {number} ({image.get('file_name')})"
        entries = record.get("annotations", [])
        entries = [] if entries is None else entries
        _check_types(entries, f"{where}: annotations")
        annotations += [{"image_id": image_id, **_annotation(entry, classes, where)} for entry in entries]
    numbered = [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)]
    content = {"images": images, "annotations": numbered, "categories": [*classes]}
    check_annotations(content, "its records", required=COMPLETE, sound=False)
    return content


def _check_types(values: Any, where: str) -> None:
    wrong = (
        [value for value in values if not isinstance(value, dict)] if isinstance(values, (list, tuple)) else [values]
    )
    if wrong:
        raise CocoFormatError(f"{where}: expected dictionaries of detectron2's form, not {format_value(wrong[0])}")


def _annotation(entry: Record, classes: Sequence[Record], where: str) -> Record:
    if missing := [key for key in ("bbox", "bbox_mode", "category_id") if key not in entry]:
        raise CocoFormatError(f"{where} has an annotation without {', '.join(missing)}")
    category = plain(entry["category_id"])
    if type(category) is not int or not 0 <= category < len(classes):
        known = f"it counts the {len(classes)} thing_classes of the data set's metadata from 0"
        absent = "it counts the thing_classes of the data set's metadata: set them"
        raise CocoFormatError(f"{where} has category_id {format_value(category)}: {known if classes else absent}")
    try:
        box = list(map(float, entry["bbox"]))
        box = list(map(float, BoxMode.convert(box, entry["bbox_mode"], BoxMode.XYWH_ABS)))
    except (TypeError, ValueError, OverflowError, AssertionError, NotImplementedError) as error:
        raise CocoFormatError(
            f"{where}: bbox {format_value(entry['bbox'])}: {error}; expected four numbers of pixels, as "
            "BoxMode.XYXY_ABS or XYWH_ABS"
        ) from None
    kept = {key: plain(entry[key]) for key in ("iscrowd", "ignore") if entry.get(key) is not None}
    if entry.get("segmentation") is not None:
        kept |= _segmentation(entry["segmentation"])
    return {"category_id": classes[category]["id"], "bbox": box, **kept}


def _segmentation(given: Any) -> Record:
    """Return ``segmentation`` in the types of JSON, and its ``area``.

    As detectron2 does, it takes polygons flat or as pairs of x and y, an RLE, and pixels as ``(H, W)``, of any array
    type. A mask of another form is returned unchanged, for the look at the masks to report.
    """
    try:
        if isinstance(given, (list, tuple)):
            polygons = [np.asarray(polygon, dtype=np.float64).ravel() for polygon in given]
            area = float(sum(polygon_area(polygon[0::2], polygon[1::2]) for polygon in polygons))
            return {
                "segmentation": [polygon.tolist() for polygon in polygons],
                "area": area if 0 < area < np.inf else None,
            }
        if not isinstance(given, dict):
            given = rle_of(np.asarray(given) != 0)
        counts = given["counts"]
        rle = {
            "size": list(map(int, given["size"])),
            "counts": counts.decode() if isinstance(counts, bytes) else counts,
        }
        return {"segmentation": rle, "area": rle_area(rle)}
    except (KeyError, TypeError, ValueError, RuntimeError):
        return {"segmentation": given}


def plain(value: Any) -> Any:
    """Return a path as text, and a number of NumPy or torch as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if getattr(value, "ndim", None) == 0 else value
