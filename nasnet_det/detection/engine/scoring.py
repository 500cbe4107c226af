"""The results of a detector on a data set, to be scored. detectron2 is not needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from nasnet_det.detection.data.coco_format import check_results
from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.folders import open_dataset
from nasnet_det.detection.data.inspection import look_at
from nasnet_det.detection.data.look import CocoData, join, read_record, warn_of_unusable
from nasnet_det.detection.engine.prediction import Detector, coco_results
from nasnet_det.detection.engine.run_folder import image_digest, run_of, split_of
from nasnet_det.detection.evaluation.submission import RESULTS
from nasnet_det.safe_io.files import write_json
from nasnet_det.safe_io.images import ImageError, reason_with_name

logger = logging.getLogger(__name__)


def open_to_score(
    detector: str, root: Path, val_share: float | None = None, seed: int | None = None
) -> tuple[CocoData, list[str]]:
    """Open the validation set of a folder; of one that is not divided, the images that a detector was not trained on.

    Args:
        detector: a run folder, or a file in it, whose data are divided as it was; other data are not divided, nor is a
            folder that is only a validation set for a detector that is in no run.
        root: the folder.
        val_share, seed: of the division, instead of the run's; for a detector that is in no run 0.2 and 0.

    Returns:
        the data, and the class names in the order of the training set's category ids.
    """
    given = {name: value for name, value in (("val_share", val_share), ("seed", seed)) if value is not None}
    run = run_of(Path(detector))
    if not run and not given:
        _, val, names = open_dataset(root, val_share=0)
        if val.name.endswith("_val"):  # also without a training set beside it
            return val, names
    train, val, names = open_dataset(root, **{**split_of(run), **given})
    if "images" in run and not given and run["images"] != image_digest(root, train, val):
        _, val, names = open_dataset(root, val_share=0)
    return val, names


def detect_on_data(
    detector: Detector, data: CocoData, names: Sequence[str], output: Path, iou_types: Sequence[str] = ("bbox",)
) -> Path:
    """Run a detector on the images of a data set.

    Args:
        detector: a detector in evaluation mode, or a package.
        data: the data set.
        names: its class names in the order of the model's outputs, for a detector that knows none.
        output: the folder of the results.
        iou_types: ``bbox``, and ``segm`` if masks are to be scored.

    Returns:
        the file of COCO results.

    Raises:
        DatasetError: for data that cannot be used, of other classes than the detector's, or without masks to score.
    """
    classes = [str(category["name"]) for category in detector.categories] or list(names)
    found = look_at(data, training=False, masks="bitmask" if "segm" in iou_types else "")
    look = join([], [found], detector.num_classes, classes)
    look.refuse_fatal()
    for trouble in look.troubles:
        logger.warning(str(trouble))
    kept = [
        {**result, "category_id": number}
        for result in _detect(detector, found.records, data.name)
        if (number := found.category_ids[result["category_id"]]) is not None
    ]
    check_results(kept, data.content, f"detections on {data.name}")
    file = output / RESULTS
    write_json(file, kept)
    return file


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
    warn_of_unusable(name, unusable, len(records))
    return results
