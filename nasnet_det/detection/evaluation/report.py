"""The report of an evaluation: a folder with one HTML page and the numbers in it as CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nasnet_det.detection.data.coco_format import category_labels
from nasnet_det.detection.data.coco_masks import box_of_mask
from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.look import read_record
from nasnet_det.detection.evaluation.errors import KINDS, ErrorAnalysis, JudgedImage, analyse_errors, confusion_matrix
from nasnet_det.detection.evaluation.evaluation import METRICS, IouType, Scores, mean_precision
from nasnet_det.draw.detections import Detection, draw, shrink, side_by_side
from nasnet_det.draw.evaluation import draw_confusion, draw_costs, draw_precision_recall
from nasnet_det.draw.fonts import readable_names
from nasnet_det.draw.page import OWN, Page
from nasnet_det.safe_io.files import NOTHING, begins_with, check_writable, write_json, write_text
from nasnet_det.safe_io.images import ImageError

#: Detections of at least this score are drawn, and count in the confusion matrix.
_SURE = 0.5
#: So many categories fit in a drawn confusion matrix.
_MOST_DRAWN = 25
_SIDE = 480

#: What a report consists of.
_FILES = (
    *("index.html", "categories.csv", "confusion.csv", "errors.json"),
    *("errors.svg", "precision_recall.svg", "confusion.svg"),
)
_MEANINGS = {
    "classification": "the box is right, the category wrong",
    "localization": "the category is right, the box overlaps by 0.1 to 0.5",
    "both": "category and box are wrong, but the box overlaps an object",
    "duplicate": "the object was found by a better detection",
    "background": "there is no object",
    "missed": "objects that no detection found, nor would with another category or box",
}


def write_report(
    folder: str | Path,
    annotations: Mapping[str, Any],
    results: Sequence[Record],
    scores: Scores,
    iou_type: IouType = "bbox",
    records: Sequence[Record] = (),
    title: str = "Evaluation",
    number: int = 24,
) -> Path:
    """Write ``index.html``, its drawings, ``categories.csv``, ``confusion.csv`` and ``errors.json``.

    Args:
        folder: the report's folder.
        annotations, results: checked, as :func:`nasnet_det.detection.evaluation.evaluation.evaluate` takes them.
        scores: what it returned for them.
        iou_type: compare boxes, or masks.
        records: detectron2's records of the images, for the sheets of the worst pictures; empty to leave those out.
        title: the page's heading.
        number: how many of the worst pictures to draw.

    Returns:
        the page.

    Raises:
        OverwriteError: if the folder has such files of something else.
    """
    folder = Path(folder)
    check_folder(folder)
    labels = category_labels(annotations["categories"])
    ids = sorted(labels)
    analysis = analyse_errors(annotations, results, iou_type)
    matrix = confusion_matrix(analysis.images, ids, _SURE)
    page = Page(title)
    page.text(f"{len(results)} detections of {len(annotations['images'])} images, {iou_type}, in percent.", "note")
    page.table(METRICS, [[_percent(scores.metrics[name]) for name in METRICS]])
    _add_errors(page, folder, analysis)
    _add_categories(page, folder, ids, labels, scores, analysis)
    _add_confusion(page, folder, matrix, [labels[number] for number in ids])
    if records:
        page.heading("The worst pictures")
        page.text(f"Those with the most missed objects and false detections with a score of {_SURE} or more.", "note")
        drawn = dict(zip(ids, readable_names([labels[number] for number in ids]), strict=True))
        page.sheet(worst_pictures(analysis.images, records, drawn, number), wide=True)
    write_json(folder / "errors.json", {"AP50": analysis.ap, "counts": analysis.counts, "costs": analysis.costs})
    write_text(folder / "index.html", str(page))
    return folder / "index.html"


def check_folder(folder: Path) -> None:
    """Raise OverwriteError if a folder has files of a report's names, but no report's page."""
    page = folder / _FILES[0]
    for name in _FILES:
        check_writable(folder / name, b"" if begins_with(page, OWN) else NOTHING)


def _add_errors(page: Page, folder: Path, analysis: ErrorAnalysis) -> None:
    page.heading("Errors")
    page.text(
        "By the kinds of TIDE; the cost is the AP at IoU 0.5 gained if all errors of a kind were corrected.", "note"
    )
    rows = [[kind, analysis.counts[kind], f"{100 * analysis.costs[kind]:.2f}", _MEANINGS[kind]] for kind in KINDS]
    page.table(["kind", "number", "cost", "meaning"], rows)
    draw_costs(analysis.costs, folder / "errors.svg")
    page.drawing((folder / "errors.svg").read_text(encoding="utf-8"), "Cost of each kind of error")


def _add_categories(
    page: Page, folder: Path, ids: Sequence[int], labels: Mapping[int, str], scores: Scores, analysis: ErrorAnalysis
) -> None:
    assert scores.precision is not None
    page.heading("Precision and recall")
    draw_precision_recall(scores.precision, folder / "precision_recall.svg")
    text = (folder / "precision_recall.svg").read_text(encoding="utf-8")
    page.drawing(text, "Precision against recall: the mean over categories, and each category at IoU 0.5 in grey")
    page.heading("Categories")
    head = ["category", "AP", "AP50", "AP75", "objects", "found", f"false, {_SURE} or more"]
    counts = _counts(analysis.images)
    rows: list[list[Any]] = []
    for number, category in enumerate(ids):
        parts = [scores.precision[:, :, number], scores.precision[0, :, number], scores.precision[5, :, number]]
        rows.append([labels[category], *map(mean_precision, parts), *(count[category] for count in counts)])
    rows.sort(key=lambda row: (row[1] < 0, row[1]))
    page.table(head, ([row[0], *map(_percent, row[1:4]), *row[4:]] for row in rows))
    _write_csv(folder / "categories.csv", head, rows)


def _counts(images: Sequence[JudgedImage]) -> tuple[Counter[int], Counter[int], Counter[int]]:
    """Return the objects of each category, those found, and the false detections that are drawn."""
    objects = Counter(entry["category_id"] for image in images for entry in image.objects)
    found = Counter(entry["category_id"] for image in images for entry, kind in image.judged() if kind == "found")
    false = Counter(entry["category_id"] for image in images for entry in image.false(_SURE))
    return objects, found, false


def _add_confusion(page: Page, folder: Path, matrix: np.ndarray, names: Sequence[str]) -> None:
    page.heading("Confusions")
    _write_csv(
        folder / "confusion.csv",
        ["", *names, "not found"],
        [[name, *row] for name, row in zip([*names, "background"], matrix.tolist(), strict=True)],
    )
    wrong = matrix[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    chosen = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:_MOST_DRAWN])
    if len(chosen) < len(names):
        page.text(f"The {len(chosen)} categories that are confused most; confusion.csv has all.", "note")
    shown = matrix[np.ix_([*chosen, len(names)], [*chosen, len(names)])]
    draw_confusion(shown, [names[number] for number in chosen], folder / "confusion.svg")
    caption = f"Detections with a score of {_SURE} or more: rows are annotated categories, columns detected ones"
    page.drawing((folder / "confusion.svg").read_text(encoding="utf-8"), caption)


def worst_pictures(
    images: Sequence[JudgedImage], records: Sequence[Record], labels: Mapping[int, str], number: int
) -> Iterator[tuple[Image.Image, str]]:
    """Yield the pictures with the most errors, missed objects and false detections side by side, and captions."""
    by_id = {record["image_id"]: record for record in records}
    ranked = sorted((image for image in images if _badness(image)), key=_badness, reverse=True)
    for image in ranked[:number]:
        record = by_id.get(image.image_id)
        if record is None:
            continue
        try:
            picture = read_record(record)
        except ImageError:
            continue
        scale = shrink(picture, _SIDE)
        objects = zip(image.objects, image.missed, strict=True)
        missed = [_drawn(entry, labels, scale) for entry, gone in objects if gone]
        false = [_drawn(entry, labels, scale, kind) for entry, kind in image.judged(_SURE) if kind in KINDS]
        caption = f"{Path(record['file_name']).name}: {len(missed)} missed, {len(false)} false"
        yield side_by_side([draw(picture, missed), draw(picture, false)], ["missed", "false"]), caption


def _badness(image: JudgedImage) -> int:
    return sum(image.missed) + len(image.false(_SURE))


def _drawn(entry: Record, labels: Mapping[int, str], scale: tuple[float, float], kind: str = "") -> Detection:
    box = entry["bbox"] if "bbox" in entry else box_of_mask(entry["segmentation"])
    label = labels[entry["category_id"]] + (f" {entry['score']:.0%} {kind}" if kind else "")
    return Detection.scaled(box, scale, entry["category_id"], label)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if value >= 0 else "-"


def _write_csv(path: Path, head: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([head, *rows])
    write_text(path, text.getvalue())
