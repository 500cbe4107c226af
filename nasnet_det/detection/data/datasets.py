"""The COCO data sets that the paper and the configs use, by the names under which they are registered in detectron2.

Their files are in the folder ``coco`` below ``DETECTRON2_DATASETS`` (``datasets`` if it is not set). Those of 2017 are
registered by detectron2; the paper's minival and its training set are written by ``tools/prepare_coco.py``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SERVER = "http://images.cocodataset.org"
MINIVAL = "coco_2014_minival_8k"
TRAIN = "coco_2014_trainval_minus_minival_8k"


@dataclass(frozen=True)
class CocoSplit:
    """The files of a data set, below the folder ``coco``.

    Args:
        purpose: a description in a few words.
        annotations: the annotation file that detectron2 reads.
        folders: its image folders, each downloaded as ``zips/<folder>.zip``.
        archive: the archive of its official annotations on COCO's server.
        sources: the official annotation files that it is selected from; empty for an official data set.
    """

    purpose: str
    annotations: str
    folders: tuple[str, ...]
    archive: str
    sources: tuple[str, ...] = ()


_TRAINVAL2014 = "annotations/annotations_trainval2014.zip"
_TRAINVAL2017 = "annotations/annotations_trainval2017.zip"

#: Every data set by its registered name.
SPLITS: dict[str, CocoSplit] = {
    MINIVAL: CocoSplit(
        "the paper's minival, 8,059 images",
        "annotations/instances_minival_8k2014.json",
        ("val2014",),
        _TRAINVAL2014,
        ("annotations/instances_val2014.json",),
    ),
    TRAIN: CocoSplit(
        "the paper's training set: train2014 + val2014 - minival",
        "annotations/instances_trainval_minus_minival_8k2014.json",
        ("train2014", "val2014"),
        _TRAINVAL2014,
        ("annotations/instances_train2014.json", "annotations/instances_val2014.json"),
    ),
    "coco_2017_train": CocoSplit("train2017", "annotations/instances_train2017.json", ("train2017",), _TRAINVAL2017),
    "coco_2017_val": CocoSplit("val2017", "annotations/instances_val2017.json", ("val2017",), _TRAINVAL2017),
    "coco_2017_test-dev": CocoSplit(
        "test-dev 2017, scored by COCO's server",
        "annotations/image_info_test-dev2017.json",
        ("test2017",),
        "annotations/image_info_test2017.zip",
    ),
}


def datasets_root() -> Path:
    """Return the folder of all data sets: ``DETECTRON2_DATASETS``, or ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_coco_splits() -> None:
    """Register the data sets of :data:`SPLITS` with detectron2, except those that are registered; reads no file."""
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances
    from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

    coco = datasets_root() / "coco"
    for name, split in SPLITS.items():
        if name not in DatasetCatalog:
            # Image names in the files that prepare_coco writes begin with their folder.
            register_coco_instances(name, _get_builtin_metadata("coco"), str(coco / split.annotations), str(coco))
