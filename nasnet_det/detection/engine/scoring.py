"""A detector on a folder of data: its results on the validation images, to be scored. detectron2 is not needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from nasnet_det.detection.data.coco_format import check_results
from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.folders import open_dataset
from nasnet_det.detection.data.inspection import look_at
from nasnet_det.detection.data.look import CocoData, DatasetError, join, match_categories, read_record
from nasnet_det.detection.engine.prediction import Detector, coco_results
from nasnet_det.safe_io.files import write_json
from nasnet_det.safe_io.images import ImageError, reason_with_name
from nasnet_det.safe_io.values import named

logger = logging.getLogger(__name__)


def detect_on_folder(
    detector: Detector,
    root: Path,
    output: Path,
    iou_types: Sequence[str] = ("bbox",),
    val_share: float = 0.2,
    seed: int = 0,
) -> tuple[CocoData, Path]:
    """Run a detector on the validation images of a folder.

    Args:
        detector: a detector in evaluation mode, or a package.
        root: a folder in COCO's, YOLO's or Pascal VOC's form; where it has no split, the images are those that
            ``nasnet-det finetune`` with the same ``val_share`` and ``seed`` keeps for validation.
        output: the folder of the results.
        iou_types: ``bbox``, and ``segm`` if masks are to be scored.
        val_share, seed: of that choice.

    Returns:
        the validation data, and the file of COCO results.

    Raises:
        DatasetError: for data that cannot be used, of other classes than the detector's, or without masks to score.
    """
    _, val, names = open_dataset(root, val_share, seed)
    classes = [str(category["name"]) for category in detector.categories] or names
    found = look_at(val, training=False, masks="bitmask" if "segm" in iou_types else "")
    look = join([], [found], detector.num_classes, classes)
    look.refuse_fatal()
    for trouble in look.troubles:
        logger.warning(str(trouble))
    ids = match_categories(classes, val.categories, f"data set {val.name}")
    kept = [
        {**result, "category_id": number}
        for result in _detect(detector, found.records, val.name)
        if (number := ids[result["category_id"]]) is not None
    ]
    check_results(kept, val.content, f"detections on {val.name}")
    file = output / "coco_instances_results.json"
    write_json(file, kept)
    return val, file


def _detect(detector: Detector, records: Sequence[Record], name: str) -> list[Record]:
    """Return the detections on images by number of class; those that are not usable are named.

    Raises:
        DatasetError: if no image is usable.
    """
    results: list[Record] = []
    unusable: list[str] = []
    for record in tqdm(records, unit="image", disable=None):
        try:
            results += coco_results(detector(read_record(record)), record["image_id"])
        except ImageError as error:
            unusable.append(reason_with_name(record["file_name"], error))
    if unusable:
        count = f"{len(unusable)} of {len(records)} images count as without detections"
        message = f"data set {name}: {count}: {named(unusable, 20)}"
        if len(unusable) == len(records):
            raise DatasetError(message)
        logger.warning(message)
    return results
