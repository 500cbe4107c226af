"""COCO's files: annotations, results, and submissions to the test server.

Content is checked on reading, column by column (:mod:`nasnet_det.detection.data.columns`). Format reference:
cocodataset.org, "Data format" and "Results format".
"""

from __future__ import annotations

import gc
import json
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nasnet_det.detection.data.coco_masks import is_mask
from nasnet_det.detection.data.columns import (
    AREA,
    BOX,
    FLAG,
    NUMBER,
    RLE,
    SIDE,
    TEXT,
    WHOLE,
    CocoFormatError,
    Kind,
    Record,
    check_column,
    entry_name,
    kind_of,
    refuse_first,
)
from nasnet_det.safe_io.files import protect, replacing, write_text
from nasnet_det.safe_io.values import format_value, parse_json

#: The keys that only some uses need; where an entry has them they must be right.
_OPTIONAL: dict[str, dict[str, Kind]] = {
    "images": {"width": SIDE, "height": SIDE, "file_name": TEXT},
    "categories": {"name": TEXT},
}
#: What training and drawing need of images and categories.
COMPLETE = ("width", "height", "file_name", "name")
_SOUND_BOX = "[x, y, width, height] of four finite numbers, width and height at least 0"


def read_annotations(path: str | Path, required: Collection[str] = (), sound: bool = True) -> dict[str, Any]:
    """Read and check a file of COCO annotations, or of image information only: then without ``annotations``.

    Args:
        path: the JSON file.
        required, sound: see :func:`check_annotations`.

    Returns:
        the file's content: ``images``, ``categories`` and, where there are any, ``annotations``.

    Raises:
        CocoFormatError: if the file is missing, is not JSON, or breaks the format.
    """
    data = _read_json(path, "annotation file")
    if not isinstance(data, dict):
        raise CocoFormatError(
            f"annotation file {path}: expected an object with 'images', 'annotations' and 'categories', "
            f"not {kind_of(data)}" + (" (is it a results file?)" if isinstance(data, list) else "")
        )
    check_annotations(data, f"annotation file {path}", required, sound)
    return data


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
    for group, optional in _OPTIONAL.items():
        if not isinstance(data.get(group), list):
            raise CocoFormatError(f"{name}: no list of '{group}' in it")
        where = f"{name}, {group}"
        _refuse_repeats(check_column(data[group], "id", WHOLE, where), f"{where}: id")
        for key, kind in optional.items():
            having = data[group] if key in required else [entry for entry in data[group] if key in entry]
            check_column(having, key, kind, where)
    if "annotations" not in data:
        return
    where = f"{name}, annotations"
    annotations = data["annotations"]
    if not isinstance(annotations, list):
        raise CocoFormatError(f"{where}: expected a list, not {kind_of(annotations)}")
    _refuse_repeats(check_column(annotations, "id", WHOLE, where), f"{where}: id")
    _refuse_unknown(annotations, data, where)
    boxes = boxes_of(annotations, where, sound)
    check_column(annotations, "iscrowd", FLAG, where, default=0)
    with np.errstate(invalid="ignore", over="ignore"):
        areas = np.nan_to_num(boxes[:, 2] * boxes[:, 3], posinf=0, neginf=0).tolist()
    for annotation, area in zip(annotations, areas, strict=True):
        if annotation.get("area") is None:
            annotation["area"] = area
    check_column(annotations, "area", AREA if sound else NUMBER, where)


def boxes_of(records: Sequence[Record], where: str, sound: bool = True) -> np.ndarray:
    """Return all boxes, ``(len(records), 4)`` as x, y, width, height.

    Raises:
        CocoFormatError: naming the first that is not four numbers, or not sound.
    """
    boxes = np.asarray(check_column(records, "bbox", BOX, where), dtype=np.float64).reshape(-1, 4)
    if sound:
        bad = np.asarray(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1))
        refuse_first(bad, records, "bbox", _SOUND_BOX, where)
    return boxes


def read_results(path: str | Path, annotations: Mapping[str, Any], segmentation: bool = False) -> list[Record]:
    """Read and check a file of detections, ``[{image_id, category_id, bbox [x, y, width, height], score}, ...]``.

    Args:
        annotations: checked annotations; detections may name only their images and categories.
        segmentation: expect a mask as compressed RLE in ``segmentation``, not a ``bbox``.

    Raises:
        CocoFormatError: if the file is missing, is not JSON, or breaks the format.
    """
    data = _read_json(path, "results file")
    if not isinstance(data, list):
        hint = " (is it an annotation file?)" if isinstance(data, dict) and "images" in data else ""
        raise CocoFormatError(f"results file {path}: expected a list of detections, not {kind_of(data)}{hint}")
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
    if not segmentation:
        boxes_of(results, name)
        return
    check_column(results, "segmentation", RLE, name)
    sizes = _image_sizes(annotations)
    for number, result in enumerate(results):
        _check_mask(result, sizes, f"{name}: entry {number}", "a compressed RLE")


def check_true_masks(annotations: Mapping[str, Any]) -> None:
    """Refuse annotations whose masks pycocotools does not support.

    Args:
        annotations: checked by :func:`check_annotations`.

    Raises:
        CocoFormatError: naming the first annotation without a mask, with one that is damaged or far outside its image,
            or of an image of unknown size.
    """
    sizes = _image_sizes(annotations)
    for entry in annotations["annotations"]:
        _check_mask(entry, sizes, f"annotation {entry['id']}", "polygons [[x, y, x, y, x, y, ...], ...], or an RLE")


def write_submission(
    results: Sequence[Record], folder: str | Path, algorithm: str, test_set: str = "test-dev2017"
) -> tuple[Path, Path]:
    """Write a submission to COCO's server: ``detections_SET_ALGORITHM_results.json`` and a zip of it.

    Both hold the 100 best detections of each image, as the server evaluates no more.

    Args:
        results: checked detections.
        folder: the folder of both files.
        algorithm: the name displayed on the server.
        test_set: ``test-dev2017``, ``test-challenge2017`` or ``val2017``.

    Returns:
        the paths of the JSON and of the zip.

    Raises:
        ValueError: if the algorithm's name has other characters than a file's name should.
    """
    if not algorithm or not all(c.isalnum() or c in "-.+" for c in algorithm):
        raise ValueError(
            f"an algorithm's name for the server holds letters, digits, '-', '.' and '+', not {algorithm!r}"
        )
    name = f"detections_{test_set}_{algorithm}_results.json"
    path = Path(folder) / name
    write_json(path, best_per_image(results, 100))
    archive = path.with_suffix(".zip")
    with replacing(archive) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(path, name)
    return path, archive


def best_per_image(results: Iterable[Record], limit: int) -> list[Record]:
    """Return the ``limit`` best detections of every image, images in the order of their first detection."""
    images: dict[int, list[Record]] = {}
    for result in results:
        images.setdefault(result["image_id"], []).append(result)
    return [
        result
        for found in images.values()
        for result in sorted(found, key=lambda result: result["score"], reverse=True)[:limit]
    ]


def category_labels(categories: Sequence[Record]) -> dict[int, str]:
    """Return a label of each category by its id: its name, with the id where several have that name."""
    names = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    count = Counter(names.values())
    return {number: name if count[name] == 1 else f"{name} (id {number})" for number, name in names.items()}


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON to ``path``; on an error the file is unchanged."""
    write_text(path, json.dumps(data))


def named(items: Collection[Any], limit: int = 3) -> str:
    """Return the first few items and the number of the others: ``a.jpg, b.jpg, c.jpg and 9 more``."""
    shown = ", ".join(str(item) for item in list(items)[:limit])
    return shown + (f" and {len(items) - limit} more" if len(items) > limit else "")


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause Python's cycle collector while many small objects are created.

    A million detections hold no cycles, and collection takes a third of the time of reading and scoring them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_json(path: str | Path, what: str) -> Any:
    protect([path])
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise CocoFormatError(f"{what} {path} does not exist") from error
    except (OSError, ValueError) as error:
        raise CocoFormatError(f"{what} {path} cannot be read: {error}") from error
    try:
        with collection_paused():
            return parse_json(text)
    except ValueError as error:
        raise CocoFormatError(f"{what} {path} is not JSON: {error}") from error


def _refuse_unknown(records: Sequence[Record], annotations: Mapping[str, Any], name: str) -> None:
    """Refuse records whose image or category is not in the annotation file."""
    for key, home in (("image_id", "images"), ("category_id", "categories")):
        values = check_column(records, key, WHOLE, name)
        known = {entry["id"] for entry in annotations[home]}
        unknown = set(values) - known
        if unknown:
            wrong = [number for number, value in enumerate(values) if value in unknown]
            raise CocoFormatError(
                f"{name}: {len(wrong)} of {len(records)} entries name a {key} that is not among the annotation file's "
                f"{len(known)} {home}: {named(sorted(unknown))}; the first is {entry_name(records, wrong[0])}"
            )


def _refuse_repeats(ids: Sequence[int], name: str) -> None:
    if len(set(ids)) < len(ids):
        seen: set[int] = set()
        repeated = sorted({i for i in ids if i in seen or seen.add(i)})  # type: ignore[func-returns-value]
        raise CocoFormatError(f"{name} is not unique: {named(repeated)}")


def _image_sizes(annotations: Mapping[str, Any]) -> dict[int, list[Any]]:
    return {image["id"]: [image.get("height"), image.get("width")] for image in annotations["images"]}


def _check_mask(entry: Record, sizes: Mapping[int, list[Any]], where: str, forms: str) -> None:
    size, image = sizes[entry["image_id"]], f"image {entry['image_id']}"
    if any(type(side) is not int or side < 1 for side in size) or size[0] * size[1] >= 1 << 32:  # RLE counts in 32 bits
        raise CocoFormatError(
            f"{where}: the height and width of {image} are {format_value(size)} in the annotation file, expected whole "
            "numbers"
        )
    if not is_mask(mask := entry.get("segmentation"), size):
        raise CocoFormatError(
            f"{where}: 'segmentation' must be {forms} of the size of {image}, {size}, not {format_value(mask)}"
        )
