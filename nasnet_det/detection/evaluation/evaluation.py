"""COCO's twelve metrics, computed by faster-coco-eval where it is installed, else by pycocotools; both are equal.

detectron2 is not needed. The definition of the numbers is pycocotools' ``cocoeval.py``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nasnet_det.detection.data.coco_format import category_labels, check_true_masks, unknown_marks
from nasnet_det.detection.data.columns import Record
from nasnet_det.safe_io.values import collection_paused

IouType = Literal["bbox", "segm"]
Backend = Literal["faster-coco-eval", "pycocotools"]

logger = logging.getLogger(__name__)
#: Logs a warning once, as a run scores many times.
_warn_once = functools.cache(logger.warning)

#: The twelve numbers in pycocotools' order: average precision over IoU 0.5 to 0.95, at 0.5, at 0.75, of small, medium
#: and large objects; average recall with 1, 10 and 100 detections an image, of small, medium and large objects.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

#: Where each backend's classes are: module of COCO, of COCOeval and of the mask functions, and the evaluator's name.
_BACKENDS: dict[str, tuple[str, str, str, str]] = {
    "faster-coco-eval": ("faster_coco_eval", "faster_coco_eval", "faster_coco_eval.core.mask", "COCOeval_faster"),
    "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "pycocotools.mask", "COCOeval"),
}
#: The extra that brings each.
_EXTRAS = {"faster-coco-eval": "fast-eval", "pycocotools": "detection"}


@dataclass(frozen=True)
class Scores:
    """The result of an evaluation, in fractions of 1; -1 for undefined values, as in pycocotools.

    Args:
        metrics: the twelve numbers by the names of :data:`METRICS`.
        per_category: the AP of each category by its name, with the id where several have that name; -1 for one without
            objects.
        backend: what computed them.
        precision: the precisions ``(IoU, recall, category)`` of objects of any area, at the IoU 0.5 to 0.95 and the
            recalls 0 to 1; -1 for categories without objects.
    """

    metrics: dict[str, float]
    per_category: dict[str, float]
    backend: str
    precision: np.ndarray | None = field(default=None, repr=False, compare=False)

    def percent(self) -> dict[str, float]:
        """Return the twelve metrics and ``AP-<category>``, in percent and NaN for -1, as detectron2 reports them."""
        named = {**self.metrics, **{f"AP-{name}": value for name, value in self.per_category.items()}}
        return {name: 100 * value if value >= 0 else math.nan for name, value in named.items()}


def available_backends() -> tuple[Backend, ...]:
    """Return the installed backends, the fastest first."""
    names: tuple[Backend, ...] = ("faster-coco-eval", "pycocotools")
    return tuple(name for name in names if importlib.util.find_spec(_BACKENDS[name][0].partition(".")[0]))


def evaluate(
    annotations: Mapping[str, Any],
    results: Sequence[Record],
    iou_type: IouType = "bbox",
    backend: Backend | None = None,
) -> Scores:
    """Score detections against annotations, both checked (:mod:`nasnet_det.detection.data.coco_format`).

    The area of a detection, by which it counts as small, medium or large, is its box's for ``bbox`` and its mask's for
    ``segm``. Annotations are numbered from 1 for it; neither argument is changed.

    Args:
        annotations: ``images``, ``annotations``, ``categories``.
        results: detections of those images.
        iou_type: compare boxes, or masks.
        backend: None for the fastest installed.

    Raises:
        CocoFormatError: if masks are to be compared and an annotation has none, or none that can be.
        ValueError: if the annotations hold only image information, as those of a test set do.
        ModuleNotFoundError: if no backend is installed, or not the one asked for.
    """
    if "annotations" not in annotations:
        raise ValueError("the annotations of a test set are not public: COCO's server scores it")
    if iou_type == "segm":
        check_true_masks(annotations)
    if any(entry["id"] < 1 for entry in annotations["annotations"]):
        _warn_once("annotation ids below 1, which COCO's evaluation takes for 'unmatched', are renumbered from 1")
    others = [entry for entry in annotations["annotations"] if not entry["iscrowd"]]
    if marks := Counter(mark for entry in others for mark in unknown_marks(entry)):
        words = ", ".join(f"{count} annotations set {mark!r}" for mark, count in sorted(marks.items()))
        _warn_once(f"{words}, which COCO's evaluation does not know: they count as objects")
    name: str = backend or next(iter(available_backends()), "pycocotools")
    coco_class, evaluator_class, masks = _load(name)
    with collection_paused(), contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports to stdout
        # Copies, as COCO's evaluation writes marks into them.
        entries = [{**entry, "id": number} for number, entry in enumerate(annotations["annotations"], start=1)]
        truth = _indexed(coco_class, annotations, entries)
        found = _indexed(coco_class, annotations, _detections(results, iou_type, masks))
        evaluation = evaluator_class(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = dict(zip(METRICS, map(float, evaluation.stats), strict=False))
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    labels, ids = category_labels(annotations["categories"]), map(int, evaluation.params.catIds)
    per_category = {labels[category]: mean_precision(precision[:, :, number]) for number, category in enumerate(ids)}
    return Scores(metrics, per_category, name, precision)


def table(scores: Mapping[IouType, Scores]) -> str:
    """Return the twelve numbers of each IoU type in percent, as text with a line of names above each."""
    lines = []
    for iou_type, found in scores.items():
        lines.append(f"{iou_type:6}" + "".join(f"{name:>7}" for name in METRICS))
        lines.append(" " * 6 + "".join(f"{100 * v if v >= 0 else math.nan:7.2f}" for v in found.metrics.values()))
    return "\n".join(lines)


def _load(name: str) -> tuple[Any, Any, Any]:
    """Return the COCO class, the evaluator class and the mask functions of a backend."""
    home, evaluator_home, masks, evaluator = _BACKENDS[name]
    try:
        modules = [importlib.import_module(module) for module in (home, evaluator_home, masks)]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"COCO evaluation by {name} needs it installed: pip install 'nasnet-det[{_EXTRAS[name]}]'"
        ) from error
    return modules[0].COCO, getattr(modules[1], evaluator), modules[2]


def _indexed(coco_class: Any, annotations: Mapping[str, Any], entries: Sequence[Record]) -> Any:
    """Return a backend's COCO object over ``entries``, without reading files."""
    coco = coco_class()
    coco.dataset = {"images": annotations["images"], "categories": annotations["categories"], "annotations": entries}
    coco.createIndex()
    return coco


def _detections(results: Sequence[Record], iou_type: IouType, masks: Any) -> list[Record]:
    """Return detections as entries of a COCO object: numbered from 1, with their area."""
    if iou_type == "bbox":
        boxes = np.array([result["bbox"] for result in results], dtype=np.float64).reshape(-1, 4)
        key, areas = "bbox", (boxes[:, 2] * boxes[:, 3]).tolist()
    else:
        key, areas = "segmentation", [float(masks.area(result["segmentation"])) for result in results]
    return [
        {
            "id": number,
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            key: result[key],
            "score": result["score"],
            "area": area,
            "iscrowd": 0,
        }
        for number, (result, area) in enumerate(zip(results, areas, strict=True), start=1)
    ]


def mean_precision(precision: np.ndarray) -> float:
    """Return the mean of the defined precisions; -1 if there are none."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0
