"""Images in class folders: ``ROOT/CLASS/...``, or ``ROOT/train/CLASS/...`` with ``ROOT/val/CLASS/...``.

Hidden files and folders, ``__MACOSX``, files other than images and a test split are ignored.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nasnet_det.safe_io.folders import IMAGE_SUFFIXES, find_pictures, is_picture, subfolders
from nasnet_det.safe_io.images import read_header, read_image
from nasnet_det.safe_io.values import format_names
from nasnet_det.training.data.cifar10 import DataError

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
_PARTS = {*TRAIN, *VALIDATION, *TEST}


class FolderImages:
    """The images of class folders: an :class:`~nasnet_det.search.image_data.ImageSource`.

    Args:
        root: the data set's folder.
        samples: the path and label of each image.
        classes: the class names, by label.
        held_out: how many of the last samples are the validation split; 0 for no split.
    """

    def __init__(self, root: Path, samples: Sequence[tuple[Path, int]], classes: Sequence[str], held_out: int) -> None:
        self.name, self.classes, self.held_out = str(root), tuple(classes), held_out
        self.paths = [path for path, _ in samples]
        self.labels = np.array([label for _, label in samples])
        files = [(path.relative_to(root).as_posix(), _size(path)) for path in self.paths]
        self.digest: str | None = hashlib.sha256(repr(files).encode()).hexdigest()[:16]

    def size(self, number: int) -> tuple[int, int]:
        return read_header(self.paths[number]).size

    def read(self, number: int) -> Image.Image:
        return read_image(self.paths[number])


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # a link to nowhere, which is counted as unreadable later
        return None


def find_folder(root: Path) -> FolderImages:
    """Return the images of a folder of class folders.

    Raises:
        DataError: if it is not one, or its validation images have classes of their own.
    """
    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder; give the folder of CIFAR-10 (nasnet-det prepare-cifar10), a folder of class "
            "folders, or the name of a data set of torchvision"
        )
    folder = root
    while (
        len(inner := subfolders(folder)) == 1
        and inner[0].name.lower() not in _PARTS
        and subfolders(inner[0])
        and not any(map(is_picture, inner[0].iterdir()))
    ):
        folder = inner[0]  # an archive unpacked into a folder of its own
    parts = {path.name.lower(): path for path in subfolders(folder)}
    train, validation = (next((parts[name] for name in names if name in parts), None) for names in (TRAIN, VALIDATION))
    if train is None or not _classes(train):
        if parts and parts.keys() <= _PARTS:
            raise DataError(f"{folder} has {format_names(sorted(parts))} but no images in train/CLASS/...")
        return FolderImages(root, *_samples(_classes(folder), folder), 0)
    left = [path for path in subfolders(folder) if path not in (train, validation) and path.name.lower() not in TEST]
    if others := [path.name for path in left if find_pictures(path)]:
        logger.warning("%s: beside %s these folders are not used: %s", folder, train.name, format_names(others))
    samples, classes = _samples(_classes(train), train)
    held_out = [] if validation is None else _held_out(validation, classes)
    return FolderImages(root, [*samples, *held_out], classes, len(held_out))


def _held_out(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return the validation samples, labelled as the training classes are."""
    found = _classes(folder)
    if unknown := [name for name in found if name not in classes]:
        raise DataError(f"{folder} has classes that the training images do not have: {format_names(unknown)}")
    samples = [(path, classes.index(name)) for name, paths in found.items() for path in paths]
    if not samples:
        raise DataError(f"{folder} has no images in class folders; remove it, or add images")
    return samples


def _samples(found: dict[str, list[Path]], folder: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    if not found:
        raise DataError(
            f"{folder} has no images in class folders; expected {folder}/CLASS/... or {folder}/train/CLASS/... "
            f"with files ending in {', '.join(IMAGE_SUFFIXES[:4])} ..."
        )
    classes = list(found)
    if {name.lower() for name in classes} <= _PARTS:
        raise DataError(f"{folder} has {format_names(classes)} where class folders are expected: give that folder")
    return [(path, label) for label, paths in enumerate(found.values()) for path in paths], classes


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class folder that has any."""
    found: dict[str, list[Path]] = {}
    for path in find_pictures(folder):
        first, *inner = path.relative_to(folder).parts
        if inner:
            found.setdefault(first, []).append(path)
    return found
