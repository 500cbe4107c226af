"""Data sets looked over before training begins: what cannot be right is an error at once, what is of no use is left
out, counted and named.

This stands between detectron2's catalog and its loaders, so it covers every registered data set, not only COCO's.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from nasnet_det.detection.data.coco_format import CocoFormatError, named, read_annotations
from nasnet_det.detection.data.datasets import SPLITS

logger = logging.getLogger(__name__)
Record = dict[str, Any]


class DatasetError(ValueError):
    """A data set that cannot be used as it is."""


def load_checked(names: Sequence[str], filter_empty: bool = True, num_classes: int | None = None) -> list[Record]:
    """The records of registered data sets, looked over: detectron2's ``get_detection_dataset_dicts``, made careful.

    Boxes without area or outside their image are left out, and then, if asked for, images without objects; both are
    counted and named in the log. (COCO's metrics read the annotation file, not these records: they see every box.)

    Args:
        names: registered data sets.
        filter_empty: leave out images without objects; False for a set to be judged on, which must stay whole.
        num_classes: how many classes the model has; None if that is not known.

    Returns:
        detectron2's records: ``file_name``, ``height``, ``width``, ``image_id`` and ``annotations``.

    Raises:
        DatasetError: for a data set that is not registered, whose annotation file is missing or broken, whose images
            are missing, whose classes do not go with the model or with the other data sets, or without any object.
    """
    records: list[Record] = []
    for name in names:
        mine = _load(name)
        _check_images(name, mine)
        _check_classes(name, names[0], num_classes)
        mine = _without_useless_boxes(name, mine)
        records += _with_objects(name, mine) if filter_empty else mine
    if not records:
        raise DatasetError(f"data set {', '.join(names)}: no image has an object to learn")
    return records


def _load(name: str) -> list[Record]:
    """A data set from detectron2's catalog, its errors in clear words."""
    if name not in DatasetCatalog:
        ours = ", ".join(SPLITS)
        raise DatasetError(f"there is no data set {name!r}; COCO's are {ours}; register others with detectron2")
    try:
        records = DatasetCatalog.get(name)
    except FileNotFoundError as error:
        raise DatasetError(f"data set {name}: {error.filename} does not exist. {_how_to_get(name)}") from error
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        file = MetadataCatalog.get(name).get("json_file", "")
        try:
            read_annotations(file)
        except CocoFormatError as precise:
            raise DatasetError(f"data set {name}: {precise}") from error
        raise DatasetError(f"data set {name}: {file} cannot be used: {type(error).__name__}: {error}") from error
    if not records:
        raise DatasetError(f"data set {name} has no image")
    return records


def _how_to_get(name: str) -> str:
    if name in SPLITS:
        return "Run nasnet-det prepare-coco, which says what to download where, or set DETECTRON2_DATASETS"
    return "Check the paths that it was registered with"


def _check_images(name: str, records: Sequence[Record]) -> None:
    """Refuse a data set of which images are missing; each folder is listed once, not each file looked for."""
    folders: dict[str, set[str]] = {}
    missing = []
    for record in records:
        folder, file = os.path.split(record["file_name"])
        if folder not in folders:
            folders[folder] = {path.name for path in Path(folder).iterdir()} if Path(folder).is_dir() else set()
        if file not in folders[folder]:
            missing.append(record["file_name"])
    if missing:
        count = f"{len(missing)} of {len(records)} images are missing"
        raise DatasetError(f"data set {name}: {count}: {named(missing)}. {_how_to_get(name)}")


def _check_classes(name: str, first: str, num_classes: int | None) -> None:
    classes = MetadataCatalog.get(name).get("thing_classes", [])
    if classes != MetadataCatalog.get(first).get("thing_classes", []):
        raise DatasetError(f"data sets {first} and {name} are not of the same classes, so they cannot be used together")
    if num_classes is not None and len(classes) > num_classes:
        raise DatasetError(
            f"data set {name} has {len(classes)} classes ({named(classes)}), the model {num_classes}: set "
            f"MODEL.ROI_HEADS.NUM_CLASSES (MODEL.RETINANET.NUM_CLASSES) to {len(classes)}"
        )


def _without_useless_boxes(name: str, records: Sequence[Record]) -> list[Record]:
    """The records without boxes that show nothing."""
    kept, useless = [], []
    for record in records:
        objects = []
        for annotation in record.get("annotations", ()):
            reason = _uselessness(annotation, record["width"], record["height"])
            if reason:
                useless.append(f"{annotation['bbox']} {reason} in {record['file_name']}")
            else:
                objects.append(annotation)
        kept.append({**record, "annotations": objects})
    _report(name, "boxes", useless)
    return kept


def _with_objects(name: str, records: Sequence[Record]) -> list[Record]:
    """The records that show an object that is no crowd."""
    kept: list[Record] = []
    empty: list[Record] = []
    for record in records:
        crowds_only = all(annotation.get("iscrowd", 0) for annotation in record["annotations"])
        (empty if crowds_only else kept).append(record)
    _report(name, "images without objects", [record["file_name"] for record in empty])
    return kept


def _report(name: str, what: str, left_out: Sequence[str]) -> None:
    if left_out:
        logger.warning(f"data set {name}: left out {len(left_out)} {what}: {named(left_out, limit=20)}")


def _uselessness(annotation: Record, width: int, height: int) -> str:
    """Why a box is of no use, empty if it is of use."""
    box = annotation["bbox"]
    if len(box) != 4 or not all(map(math.isfinite, box)):
        return "that is not four finite numbers"
    left, top, right, bottom = BoxMode.convert(list(map(float, box)), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    if right <= left or bottom <= top:
        return "without area"
    if min(right, width) <= max(left, 0) or min(bottom, height) <= max(top, 0):
        return f"outside its {width} x {height} image"
    return ""
