"""The paper's minival: 8,059 images of COCO val2014, and the training set that is the rest of train2014 and val2014.

The ids were published as ``mscoco_minival_ids.txt`` beside the label maps of the TF Object Detection API; a copy is in
``nasnet_det/detection/assets``. detectron2's own ``coco_2014_minival`` is another set, of the 5,000 images of val2017.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from nasnet_det.detection.data.coco_format import CocoFormatError
from nasnet_det.safe_io.files import replacing
from nasnet_det.safe_io.values import collection_paused, named

#: Annotations serialized at a time: all of train2014 at once would take gigabytes.
_CHUNK = 20000


def minival_ids() -> frozenset[int]:
    """Return the 8,059 image ids of minival."""
    text = resources.files("nasnet_det.detection").joinpath("assets/mscoco_minival_ids.txt").read_text(encoding="utf-8")
    return frozenset(map(int, text.split()))


def select_images(
    folders: Mapping[str, Mapping[str, Any]], keep: Callable[[str, int], bool]
) -> dict[str, list[dict[str, Any]]]:
    """Join annotation files, keeping some of their images.

    Args:
        folders: the annotations of each image folder (``train2014``, ``val2014``), all with the same categories.
        keep: called with a folder and an image id; True keeps the image.

    Returns:
        ``info``, ``licenses``, ``images``, ``annotations``, ``categories``; an image's ``file_name`` begins with its
        folder.

    Raises:
        CocoFormatError: if their categories differ, or two of them share an id.
    """
    first = next(iter(folders.values()))
    joined: dict[str, Any] = {key: first.get(key, []) for key in ("info", "licenses")}
    joined |= {"images": [], "annotations": [], "categories": first["categories"]}
    for folder, content in folders.items():
        if content["categories"] != first["categories"]:
            raise CocoFormatError(f"the annotations of {', '.join(folders)} have different categories")
        kept = {image["id"] for image in content["images"] if keep(folder, image["id"])}
        joined["images"] += [
            {**image, "file_name": f"{folder}/{image['file_name']}"}
            for image in content["images"]
            if image["id"] in kept
        ]
        joined["annotations"] += [entry for entry in content["annotations"] if entry["image_id"] in kept]
    for key in ("images", "annotations"):
        repeated = [i for i, count in Counter(entry["id"] for entry in joined[key]).items() if count > 1]
        if repeated:
            raise CocoFormatError(
                f"{', '.join(folders)}: {key} share ids and would be mixed up if joined: {named(repeated)}"
            )
    return joined


def select_minival(val2014: Mapping[str, Any], ids: Collection[int]) -> dict[str, Any]:
    """Return the annotations of minival.

    Args:
        val2014: the content of ``instances_val2014.json``.
        ids: the image ids of minival.

    Raises:
        CocoFormatError: if ids are missing in val2014.
    """
    missing = sorted(set(ids) - {image["id"] for image in val2014["images"]})
    if missing:
        raise CocoFormatError(
            f"{len(missing)} of minival's {len(ids)} images are not in val2014's annotations ({named(missing)}): "
            "is it the official instances_val2014.json?"
        )
    return select_images({"val2014": val2014}, lambda _, image: image in ids)


def select_training(train2014: Mapping[str, Any], val2014: Mapping[str, Any], ids: Collection[int]) -> dict[str, Any]:
    """Return the annotations of train2014 and val2014 without those of minival."""
    folders = {"train2014": train2014, "val2014": val2014}
    return select_images(folders, lambda folder, image: folder == "train2014" or image not in ids)


def write_annotations(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write annotations as JSON, in pieces to save memory; on an error the file at ``path`` is unchanged."""
    with replacing(path) as part, part.open("w", encoding="utf-8") as file, collection_paused():
        for number, (key, value) in enumerate(data.items()):
            file.write(("," if number else "{") + json.dumps(key) + ":")
            if not isinstance(value, list):
                file.write(json.dumps(value))
                continue
            for start in range(0, max(len(value), 1), _CHUNK):
                file.write(("," if start else "[") + json.dumps(value[start : start + _CHUNK])[1:-1])
            file.write("]")
        file.write("}")
