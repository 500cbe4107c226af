"""The files that COCO's evaluation server takes for its test sets."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from nasnet_det.detection.data.columns import Record
from nasnet_det.safe_io.files import check_writable, replacing, write_json

#: The name of a file of detections, as detectron2 gives it.
RESULTS = "coco_instances_results.json"
#: A regular expression that is found at the beginning of such a file.
OWN_RESULTS = rb'\A\[(\]|\{"image_id": )'


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
    path, archive = check_submission(folder, algorithm, test_set)
    write_json(path, best_per_image(results, 100))
    with replacing(archive) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(path, path.name)
    return path, archive


def check_submission(folder: str | Path, algorithm: str, test_set: str = "test-dev2017") -> tuple[Path, Path]:
    """Return the paths of a submission's files.

    Raises:
        ValueError: if the algorithm's name has other characters than a file's name should.
        OverwriteError: if another file than a submission has one of these names.
    """
    if not algorithm or not all(c.isalnum() or c in "-.+" for c in algorithm):
        raise ValueError(
            f"an algorithm's name for the server holds letters, digits, '-', '.' and '+', not {algorithm!r}"
        )
    path = Path(folder) / f"detections_{test_set}_{algorithm}_results.json"
    archive = path.with_suffix(".zip")
    check_writable(path, OWN_RESULTS)
    check_writable(archive, rb"(?s)\APK.{28}detections_")
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
