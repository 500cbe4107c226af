"""COCO's files: annotations, results, and what the test server takes; read with care, written whole.

Everything is checked where it enters, column by column, so that a bad file is one clear error at the start and not a
crash, or a quietly wrong number, hours later. The format: cocodataset.org, "Data format" and "Results format".
"""

from __future__ import annotations

import gc
import json
import sys
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nasnet_det.detection.data.coco_masks import is_mask
from nasnet_det.safe_io.files import replacing, write_text
from nasnet_det.safe_io.values import format_value, parse_json

Record = dict[str, Any]
#: Beyond this COCO's tools, which count in doubles, take different numbers for the same.
_LARGEST = 2**53


class CocoFormatError(ValueError):
    """A file that is not what COCO's format says, named with the first place where it is not."""


def read_annotations(path: str | Path) -> dict[str, Any]:
    """Read and check a file of COCO annotations (or of image information only: then without ``annotations``).

    ``iscrowd`` is 0 and ``area`` is that of the box where an annotation does not give them.

    Returns:
        the file's content: ``images``, ``categories`` and, where there are any, ``annotations``.

    Raises:
        CocoFormatError: if the file is missing, is no JSON, or breaks the format.
    """
    data = _read_json(path, "annotation file")
    if not isinstance(data, dict):
        raise CocoFormatError(
            f"annotation file {path}: expected an object with 'images', 'annotations' and 'categories', "
            f"not {_kind(data)}" + (" (is it a results file?)" if isinstance(data, list) else "")
        )
    check_annotations(data, f"annotation file {path}")
    return data


def check_annotations(data: dict[str, Any], name: str) -> None:
    """Refuse annotations that break the format; fill in ``iscrowd`` and ``area`` where they are left out.

    Args:
        data: ``images``, ``categories`` and perhaps ``annotations``.
        name: what errors call it.

    Raises:
        CocoFormatError: naming the first offender.
    """
    for key in ("images", "categories"):
        if not isinstance(data.get(key), list):
            raise CocoFormatError(f"{name}: no list of '{key}' in it")
        where = f"{name}, {key}"
        _refuse_repeats(_whole_numbers(data[key], "id", where), f"{where}: id")
    if "annotations" not in data:
        return
    where = f"{name}, annotations"
    annotations = data["annotations"]
    if not isinstance(annotations, list):
        raise CocoFormatError(f"{where}: expected a list, not {_kind(annotations)}")
    _refuse_repeats(_whole_numbers(annotations, "id", where), f"{where}: id")
    _refuse_unknown(annotations, data, where)
    boxes = _boxes(annotations, where)
    for annotation, area in zip(annotations, (boxes[:, 2] * boxes[:, 3]).tolist(), strict=True):
        crowd = annotation.setdefault("iscrowd", 0)
        if type(crowd) is bool:  # as some tools write it
            annotation["iscrowd"] = int(crowd)
        annotation.setdefault("area", area)
    crowds = np.asarray(_whole_numbers(annotations, "iscrowd", where))
    _refuse_first((crowds != 0) & (crowds != 1), annotations, where, "iscrowd", "0 or 1")
    areas = _numbers(annotations, "area", where)
    _refuse_first(~np.isfinite(areas), annotations, where, "area", "a finite number")


def read_results(path: str | Path, annotations: Mapping[str, Any], segmentation: bool = False) -> list[Record]:
    """Read and check a file of detections, ``[{image_id, category_id, bbox [x, y, width, height], score}, ...]``.

    Args:
        annotations: what :func:`read_annotations` gave; detections may name only its images and categories.
        segmentation: expect a mask as compressed RLE in ``segmentation``, not a ``bbox``.

    Raises:
        CocoFormatError: if the file is missing, is no JSON, or breaks the format.
    """
    data = _read_json(path, "results file")
    if not isinstance(data, list):
        hint = " (is it an annotation file?)" if isinstance(data, dict) and "images" in data else ""
        raise CocoFormatError(f"results file {path}: expected a list of detections, not {_kind(data)}{hint}")
    check_results(data, annotations, f"results file {path}", segmentation)
    return data


def check_results(
    results: Sequence[Record], annotations: Mapping[str, Any], name: str = "results", segmentation: bool = False
) -> None:
    """Refuse detections that break the format or name images and categories that the annotations lack.

    Raises:
        CocoFormatError: naming the first offender.
    """
    _refuse_unknown(results, annotations, name)
    scores = _numbers(results, "score", name)
    _refuse_first(~np.isfinite(scores), results, name, "score", "a finite number")
    if segmentation:
        _check_masks(results, annotations, name)
    else:
        _boxes(results, name)


def write_submission(
    results: Sequence[Record], folder: str | Path, algorithm: str, test_set: str = "test-dev2017"
) -> tuple[Path, Path]:
    """Write what COCO's evaluation server takes: ``detections_SET_ALGORITHM_results.json`` and the same as a zip.

    The server keeps the 100 best detections of an image; what is written here is cut to them.

    Args:
        results: checked detections.
        folder: where both files go.
        algorithm: the name shown on the server.
        test_set: ``test-dev2017``, ``test-challenge2017`` or ``val2017``.

    Returns:
        the paths of the JSON and of the zip.

    Raises:
        ValueError: if the algorithm's name cannot stand in a file name.
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
    """The ``limit`` detections of the highest score of every image, images in the order of their first detection."""
    images: dict[int, list[Record]] = {}
    for result in results:
        images.setdefault(result["image_id"], []).append(result)
    return [
        result
        for found in images.values()
        for result in sorted(found, key=lambda result: result["score"], reverse=True)[:limit]
    ]


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON to ``path`` whole or not at all."""
    write_text(path, json.dumps(data))


def named(items: Collection[Any], limit: int = 3) -> str:
    """The first few of some items, and how many more there are: ``a.jpg, b.jpg, c.jpg and 9 more``."""
    shown = ", ".join(str(item) for item in list(items)[:limit])
    return shown + (f" and {len(items) - limit} more" if len(items) > limit else "")


@contextmanager
def collection_paused() -> Iterator[None]:
    """Make many small objects without Python's cycle collector walking over all of them again and again.

    A million detections hold no cycles, and the walks take a third of the time of reading and scoring them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_json(path: str | Path, what: str) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8")
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
        known = {entry["id"] for entry in annotations[home]}
        unknown = sorted(set(_whole_numbers(records, key, name)) - known)
        if unknown:
            count = sum(record[key] in set(unknown) for record in records)
            raise CocoFormatError(
                f"{name}: {count} of {len(records)} entries name a {key} that is not among the annotation file's "
                f"{len(known)} {home}: {named(unknown)}"
            )


def _refuse_repeats(ids: Sequence[int], name: str) -> None:
    if len(set(ids)) < len(ids):
        seen: set[int] = set()
        repeated = sorted({i for i in ids if i in seen or seen.add(i)})  # type: ignore[func-returns-value]
        raise CocoFormatError(f"{name} is not unique: {named(repeated)}")


def _column(records: Sequence[Record], key: str, name: str) -> list[Any]:
    try:
        return [record[key] for record in records]
    except (KeyError, TypeError, IndexError):
        pass
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise CocoFormatError(f"{name}: entry {number} is {_kind(record)}, not an object")
        if key not in record:
            keys = named([format_value(key) for key in record], limit=20) or "none"
            raise CocoFormatError(f"{name}: entry {number} has no {key!r} (its keys: {keys})")
    raise AssertionError("unreachable: some record lacks the key")


def _whole_numbers(records: Sequence[Record], key: str, name: str) -> list[int]:
    values = _column(records, key, name)
    if not all(type(value) is int and abs(value) <= _LARGEST for value in values):
        number = next(i for i, v in enumerate(values) if type(v) is not int or abs(v) > _LARGEST)
        expected = "a whole number" + (" below 2^53" if type(values[number]) is int else "")
        raise CocoFormatError(f"{name}: entry {number}: {key!r} must be {expected}, not {format_value(values[number])}")
    return values


def _numbers(records: Sequence[Record], key: str, name: str) -> np.ndarray:
    values = _column(records, key, name)
    bad = [i for i, value in enumerate(values) if type(value) not in (int, float)]
    if bad:
        raise CocoFormatError(f"{name}: entry {bad[0]}: {key!r} must be a number, not {format_value(values[bad[0]])}")
    try:
        return np.asarray(values, dtype=np.float64)
    except OverflowError:
        raise CocoFormatError(f"{name}: {key!r} holds a number that is too large") from None


def _boxes(records: Sequence[Record], name: str) -> np.ndarray:
    """All boxes, ``(len(records), 4)`` as x, y, width, height."""
    values = _column(records, "bbox", name)
    expected = "[x, y, width, height] of four finite numbers, width and height at least 0"
    try:
        raw = np.asarray(values)  # without a type asked for, so that texts stay texts
        if values and raw.dtype.kind not in "iuf":
            raise ValueError
        boxes = raw.astype(np.float64).reshape(len(values), 4)
    except (ValueError, TypeError, OverflowError, RecursionError):
        number = next((i for i, value in enumerate(values) if not _is_four_numbers(value)), 0)
        raise CocoFormatError(
            f"{name}: entry {number}: 'bbox' must be {expected}, not {format_value(values[number])}"
        ) from None
    sound = np.isfinite(boxes).all(axis=1) & np.all(boxes[:, 2:] >= 0, axis=1)
    _refuse_first(~sound, records, name, "bbox", expected)
    return boxes


def _is_four_numbers(value: Any) -> bool:
    four = isinstance(value, list) and len(value) == 4
    return four and all(type(number) in (int, float) and abs(number) <= sys.float_info.max for number in value)


def _refuse_first(bad: np.ndarray, records: Sequence[Record], name: str, key: str, expected: str) -> None:
    if bad.any():
        number = int(bad.argmax())
        raise CocoFormatError(
            f"{name}: entry {number}: {key!r} must be {expected}, not {format_value(records[number][key])}"
        )


def _check_masks(results: Sequence[Record], annotations: Mapping[str, Any], name: str) -> None:
    sizes = _image_sizes(annotations)
    for number, (result, mask) in enumerate(zip(results, _column(results, "segmentation", name), strict=True)):
        where = f"{name}: entry {number}"
        if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str):
            raise CocoFormatError(
                f"{where}: 'segmentation' must be a compressed RLE, {{'size', 'counts' as text}}, not "
                f"{format_value(mask)}"
            )
        size = _checked_size(sizes, result, where)
        if mask.get("size") != size:
            raise CocoFormatError(
                f"{where}: the mask's size {format_value(mask.get('size'))} is not that of image "
                f"{result['image_id']}, {size}"
            )
        if not is_mask(mask, size):
            raise CocoFormatError(f"{where}: the mask's RLE is damaged, or of an image of another size")


def check_true_masks(annotations: Mapping[str, Any]) -> None:
    """Refuse annotations whose masks cannot be compared with others.

    Args:
        annotations: checked by :func:`check_annotations`.

    Raises:
        CocoFormatError: naming the first annotation without a mask, with one that is damaged or far outside its image,
            or of an image of unknown size.
    """
    sizes = _image_sizes(annotations)
    for entry in annotations["annotations"]:
        where, mask = f"annotation {entry['id']}", entry.get("segmentation")
        if not isinstance(mask, (list, dict)):
            raise CocoFormatError(f"{where} has no 'segmentation' to compare masks with")
        size = _checked_size(sizes, entry, where)
        if not is_mask(mask, size):
            raise CocoFormatError(
                f"{where}: 'segmentation' must be polygons [[x, y, x, y, x, y, ...], ...], or an RLE of the image's "
                f"size {size}, not {format_value(mask)}"
            )


def _image_sizes(annotations: Mapping[str, Any]) -> dict[int, list[Any]]:
    return {image["id"]: [image.get("height"), image.get("width")] for image in annotations["images"]}


def _checked_size(sizes: Mapping[int, list[Any]], entry: Record, where: str) -> list[int]:
    """Height and width of an entry's image; an RLE counts pixels in 32 bits."""
    size = sizes[entry["image_id"]]
    if any(type(side) is not int or side < 1 for side in size) or size[0] * size[1] >= 1 << 32:
        raise CocoFormatError(
            f"{where}: the height and width of image {entry['image_id']} are {format_value(size)} in the annotation "
            "file, "
            "expected whole numbers"
        )
    return size


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "a truth value"}
    return kinds.get(type(value), "a number")
