"""The errors of a detector by kind, and what each kind costs in AP: TIDE (Bolya et al., ECCV 2020).

Each false positive is of one kind: *classification*, *localization*, *both*, *duplicate* or *background*; an object
that no detection found, nor would with another class or box, is *missed*. The cost of a kind is the AP at IoU 0.5
gained if all its errors were corrected. Detections of crowds are not errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.evaluation.evaluation import IouType

#: IoU from which a detection finds an object, and up to which it is of the background.
FOUND, BACKGROUND = 0.5, 0.1
#: Detections of an image that count, the best first.
_LIMIT = 100
#: The kinds in the paper's order.
KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
#: Kinds that another class or box would turn into a find.
_CORRECTABLE = ("classification", "localization")
_RECALLS = np.linspace(0, 1, 101)


@dataclass
class JudgedImage:
    """One image's objects and detections, matched.

    Args:
        image_id: the image.
        objects: annotations without crowds.
        detections: the best detections, by falling score.
        kinds: for each detection ``found``, ``ignored`` or the kind of its error.
        nearest: for each detection the object that it found, or that its error concerns; -1 for none.
        missed: for each object, whether it is a missed one.
    """

    image_id: int
    objects: list[Record]
    detections: list[Record]
    kinds: list[str] = field(default_factory=list)
    nearest: list[int] = field(default_factory=list)
    missed: list[bool] = field(default_factory=list)

    def judged(self, threshold: float = 0.0) -> list[tuple[Record, str]]:
        """Return the detections with at least this score, each with its kind."""
        pairs = zip(self.detections, self.kinds, strict=True)
        return [(entry, kind) for entry, kind in pairs if entry["score"] >= threshold]

    def false(self, threshold: float = 0.0) -> list[Record]:
        """Return the false detections with at least this score."""
        return [entry for entry, kind in self.judged(threshold) if kind in KINDS]


@dataclass(frozen=True)
class ErrorAnalysis:
    """The errors of a detector.

    Args:
        ap: AP at IoU 0.5, the mean over the categories with objects.
        counts: the number of errors of each kind.
        costs: the AP that correcting each kind would gain.
        images: every image's objects and detections.
    """

    ap: float
    counts: dict[str, int]
    costs: dict[str, float]
    images: list[JudgedImage]


def analyse_errors(
    annotations: Mapping[str, Any], results: Sequence[Record], iou_type: IouType = "bbox"
) -> ErrorAnalysis:
    """Return the kinds of a detector's errors and their costs.

    Args:
        annotations: checked ``images``, ``annotations``, ``categories``.
        results: checked detections of those images.
        iou_type: compare boxes, or masks.
    """
    truths: dict[int, list[Record]] = {image["id"]: [] for image in annotations["images"]}
    found: dict[int, list[Record]] = {image["id"]: [] for image in annotations["images"]}
    for entry in annotations["annotations"]:
        truths[entry["image_id"]].append(entry)
    for entry in results:
        found[entry["image_id"]].append(entry)
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in annotations["images"]}
    images = [_judge(number, truths[number], found[number], iou_type, sizes[number]) for number in truths]
    plain = _mean_ap(images, "")
    counts = {kind: sum(image.kinds.count(kind) for image in images) for kind in KINDS}
    counts["missed"] = sum(sum(image.missed) for image in images)
    costs = {kind: max(0.0, _mean_ap(images, kind) - plain) for kind in KINDS}
    return ErrorAnalysis(plain, counts, costs, images)


def _judge(
    number: int, truths: Sequence[Record], results: Sequence[Record], iou_type: IouType, size: tuple[int, int]
) -> JudgedImage:
    """Match an image's detections, best first, to its objects, and name the error of each false one."""
    crowds = [entry for entry in truths if entry["iscrowd"]]
    detections = sorted(results, key=lambda entry: -entry["score"])[:_LIMIT]
    image = JudgedImage(number, [entry for entry in truths if not entry["iscrowd"]], detections)
    overlap = _overlaps(detections, image.objects, iou_type, size, crowd=False)
    on_crowd = _overlaps(detections, crowds, iou_type, size, crowd=True)
    same = _classes(detections)[:, None] == _classes(image.objects)[None, :]
    on_crowd = on_crowd * (_classes(detections)[:, None] == _classes(crowds)[None, :])
    finder = np.full(len(image.objects), -1)
    of_class = overlap * same
    for row in range(len(detections)):
        free = np.where(finder < 0, of_class[row], 0)
        best = int(free.argmax()) if free.size else -1
        if best >= 0 and free[best] >= FOUND:
            finder[best] = row
    corrected = np.zeros(len(image.objects), dtype=bool)
    for row in range(len(detections)):
        kind, nearest = "ignored", -1
        if row in finder:
            kind, nearest = "found", int(np.flatnonzero(finder == row)[0])
        elif not (on_crowd[row] > FOUND).any():
            kind, nearest = _error(overlap[row], same[row], finder >= 0)
        image.kinds.append(kind)
        image.nearest.append(nearest)
        if kind in _CORRECTABLE:
            corrected[nearest] = True
    image.missed = [bool(finder[i] < 0 and not corrected[i]) for i in range(len(image.objects))]
    return image


def _error(overlap: np.ndarray, same: np.ndarray, taken: np.ndarray) -> tuple[str, int]:
    """Return the kind of a false detection and the object that it concerns."""
    if not overlap.size:
        return "background", -1
    own, other = overlap * same, overlap * ~same
    if BACKGROUND <= own.max() <= FOUND:
        return "localization", int(own.argmax())
    if other.max() >= FOUND:
        return "classification", int(other.argmax())
    if (own * taken).max() >= FOUND:
        return "duplicate", int((own * taken).argmax())
    return ("background", -1) if overlap.max() <= BACKGROUND else ("both", int(overlap.argmax()))


def _mean_ap(images: Sequence[JudgedImage], kind: str) -> float:
    """Return the mean AP at IoU 0.5 with the errors of a kind corrected."""
    positives: dict[int, int] = {}
    points: dict[int, list[tuple[float, bool]]] = {}
    for image in images:
        for entry, missed in zip(image.objects, image.missed, strict=True):
            gone = kind == "missed" and missed
            positives[entry["category_id"]] = positives.get(entry["category_id"], 0) + (not gone)
        for category, score, right in _points(image, kind):
            points.setdefault(category, []).append((score, right))
    # A category whose objects were all missed, and that nothing was taken for, is gone once they are corrected.
    found = [_ap(points.get(category, []), n) for category, n in positives.items() if n or category in points]
    return float(np.mean(found)) if found else -1.0


def _points(image: JudgedImage, kind: str) -> list[tuple[int, float, bool]]:
    """Return category, score and correctness of the detections that count, those of an error's kind corrected.

    An object is given to the best of the detections whose correction would find it; the others are dropped.
    """
    rows = range(len(image.detections))
    found = {image.nearest[row] for row in rows if image.kinds[row] == "found"}
    given: dict[int, int] = {}
    for row in rows:
        if image.kinds[row] in _CORRECTABLE and image.nearest[row] not in found:
            given.setdefault(image.nearest[row], row)
    points = []
    for row, entry, name, nearest in zip(rows, image.detections, image.kinds, image.nearest, strict=True):
        if name not in (kind, "ignored"):
            points.append((entry["category_id"], entry["score"], name == "found"))
        elif name == kind and given.get(nearest) == row:
            points.append((image.objects[nearest]["category_id"], entry["score"], True))
    return points


def _ap(points: list[tuple[float, bool]], positives: int) -> float:
    """Return AP by 101 recalls, as COCO's evaluation interpolates it."""
    if not positives:
        return 0.0
    right = np.array([ok for _, ok in sorted(points, key=lambda point: -point[0])], dtype=np.float64)
    true = right.cumsum()
    precision = true / np.arange(1, len(true) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(true / positives, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())


def _overlaps(
    detections: Sequence[Record], truths: Sequence[Record], iou_type: IouType, size: tuple[int, int], crowd: bool
) -> np.ndarray:
    """Return IoU ``(detections, truths)``; with crowds, the share of the detection that is in the crowd."""
    from pycocotools import mask as masks

    if not detections or not truths:
        return np.zeros((len(detections), len(truths)))
    pairs: list[Any]
    if iou_type == "bbox":
        pairs = [np.array([entry["bbox"] for entry in entries], dtype=np.float64) for entries in (detections, truths)]
    else:
        pairs = [[_rle(entry["segmentation"], size) for entry in entries] for entries in (detections, truths)]
    return np.asarray(masks.iou(*pairs, [int(crowd)] * len(truths)))


def _rle(mask: Any, size: tuple[int, int]) -> Any:
    from pycocotools import mask as masks

    if isinstance(mask, list):
        return masks.merge(masks.frPyObjects(mask, *size))
    return masks.frPyObjects(mask, *size) if isinstance(mask["counts"], list) else mask


def _classes(entries: Sequence[Record]) -> np.ndarray:
    return np.array([entry["category_id"] for entry in entries], dtype=np.int64)


def confusion_matrix(images: Sequence[JudgedImage], categories: Sequence[int], threshold: float = 0.5) -> np.ndarray:
    """Return how often objects of each category were found as each category, ``(N + 1, N + 1)``.

    Rows are true categories, columns predicted ones; the last row is the background, the last column "not found". An
    object counts where a detection of any category with a score of at least ``threshold`` overlaps it by half.
    """
    number = {category: row for row, category in enumerate(categories)}
    matrix = np.zeros((len(number) + 1, len(number) + 1), dtype=np.int64)
    for image in images:
        sure = [row for row, entry in enumerate(image.detections) if entry["score"] >= threshold]
        seen: set[int] = set()
        for row in sorted(sure, key=lambda row: image.kinds[row] != "found"):
            kind, nearest = image.kinds[row], image.nearest[row]
            if kind == "ignored":
                continue
            predicted = number[image.detections[row]["category_id"]]
            if kind in ("found", "classification") and nearest not in seen:
                seen.add(nearest)
                matrix[number[image.objects[nearest]["category_id"]], predicted] += 1
            else:
                matrix[-1, predicted] += 1
        for nearest, entry in enumerate(image.objects):
            if nearest not in seen:
                matrix[number[entry["category_id"]], -1] += 1
    return matrix
