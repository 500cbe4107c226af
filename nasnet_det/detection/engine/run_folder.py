"""A run's folder: new, or marked as a run of the same kind; never somebody else's files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.look import CocoData
from nasnet_det.safe_io.files import write_text
from nasnet_det.safe_io.folders import is_vacant
from nasnet_det.safe_io.values import format_value, parse_json

logger = logging.getLogger(__name__)

#: The file that marks a run's folder and describes the run.
RUN = "run.json"


class RunFolderError(ValueError):
    """A folder that cannot be used for a run: names it, what it holds and what to do."""


def read_run(folder: Path, kind: str) -> dict[str, Any] | None:
    """Return the description of the run in a folder, or None for a folder that is absent or empty.

    Args:
        folder: the output folder of a command.
        kind: ``finetune`` or ``demo``.

    Raises:
        RunFolderError: if it holds other files, or a run of another kind.
    """
    path = folder / RUN
    if is_vacant(folder):
        return None
    if not path.is_file():
        raise RunFolderError(f"{folder} holds other files and no run: give a new folder as --output")
    try:
        run = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}): give another --output") from None
    if not isinstance(run, dict) or run.get("format") != f"nasnet_det.{kind}":
        found = run.get("format") if isinstance(run, dict) else run
        raise RunFolderError(f"{folder} holds no {kind} but {format_value(found)}: give another --output")
    return run


def run_of(detector: Path) -> dict[str, Any]:
    """Return the description of the fine-tuning that a run folder, or a file in it, is of; empty if of none."""
    try:
        return read_run(detector if detector.is_dir() else detector.parent, "finetune") or {}
    except RunFolderError:
        return {}


def split_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``val_share`` and ``seed`` with which a fine-tuning divided its data, as far as recorded."""
    kept = run.get("options", {})
    return {name: kept[name] or 0 for name in ("val_share", "seed") if name in kept}


def image_digest(root: Path, *sets: CocoData) -> str:
    """Return a hash of the names of images, relative to ``root``."""
    return _hash([_names(root, data) for data in sets])


def data_digest(root: Path, *sets: CocoData) -> str:
    """Return a hash of what a training depends on: names of images, relative to ``root``, sizes, boxes, classes."""
    parts = []
    for data in sets:
        sizes = [[image[key] for key in ("id", "width", "height")] for image in data.content["images"]]
        parts.append([_names(root, data), sizes, data.content["annotations"], data.content["categories"]])
    return _hash(parts)


def describe_records(records: Sequence[Record]) -> dict[str, Any]:
    """Return how many images and boxes records to train on have, and a hash of their names, boxes and classes."""
    state, boxes = hashlib.sha256(), 0
    for record in records:
        entries = [[*entry["bbox"], entry["category_id"]] for entry in record["annotations"]]
        state.update(os.fsencode(Path(record["file_name"]).name) + b"\0" + array("d", chain(*entries)).tobytes())
        boxes += len(entries)
    return {"images": len(records), "boxes": boxes, "digest": state.hexdigest()}


def warn_of_other_data(checkpoint: str, given: Any, now: Any) -> None:
    """Warn where a run resumes on other data than its checkpoint's, both as :func:`describe_records` returns them."""
    if given and now and given != now:
        counts = [f"{data['images']} images with {data['boxes']} boxes" for data in (given, now)]
        logger.warning(
            f"{checkpoint} is of other training data: {counts[0]}, now {counts[1]}. The run continues with those of "
            "now, and is not what one on either would be; a new run in another folder, which starts from its weights, "
            "has a schedule of its own"
        )


def _names(root: Path, data: CocoData) -> list[str]:
    return [os.path.relpath(data.folder / image["file_name"], root) for image in data.content["images"]]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def mark_run(folder: Path, kind: str, description: Mapping[str, Any]) -> None:
    """Mark a folder as that of a run and describe it in plain values."""
    write_text(folder / RUN, json.dumps({"format": f"nasnet_det.{kind}", **description}, indent=2) + "\n")
