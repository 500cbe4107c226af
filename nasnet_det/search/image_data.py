"""The images that children are trained on: CIFAR-10, a folder of class folders, or a data set of torchvision.

Images are resized and cropped to one square size and kept in memory, as CIFAR-10's are.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from nasnet_det.models.plan import Stem
from nasnet_det.safe_io.images import ImageError
from nasnet_det.safe_io.values import format_names
from nasnet_det.search.class_folders import find_folder
from nasnet_det.search.torchvision_images import TorchvisionImages
from nasnet_det.training.data.cifar10 import Cifar10, DataError, Images, split
from nasnet_det.training.execution import memory_of

logger = logging.getLogger(__name__)

#: ``torchvision:NAME@FOLDER`` is a data set of torchvision, downloaded to the folder.
TORCHVISION = "torchvision:"
#: Images up to this side keep the CIFAR stem and their size; children see larger ones at most at the second.
SMALL_SIDE, LARGEST_SIDE = 64, 128
_LEAST_SIDE = 8
#: Images whose size is looked at before any is decoded; the share that may be unreadable.
_LOOKED_AT, _MOST_UNREADABLE = 200, 0.1
_VALIDATION_SHARE = 0.1
Split = Literal["random", "stratified"]


class ImageSource(Protocol):
    """Labelled images before they are decoded.

    The last ``held_out`` are the validation split, 0 for no split. ``digest`` is of the names and sizes of the files,
    None for images without files.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    held_out: int
    digest: str | None

    def size(self, number: int) -> tuple[int, int]:
        """Return width and height of an image."""

    def read(self, number: int) -> Image.Image:
        """Return an image as 8-bit RGB."""


@dataclass(frozen=True)
class Found:
    """The properties of a data set, as far as a search needs them.

    Args:
        name: where it is.
        classes: the class names, by label.
        train_images, validation_images: how many there are to train and to measure on.
        image_size: the side of the squares that children see.
        stem: the stem that suits this size.
        has_split: whether the validation images are a split of their own.
        digest: of the files' names and sizes; None for a data set of torchvision.
    """

    name: str
    classes: tuple[str, ...]
    train_images: int
    validation_images: int
    image_size: int
    stem: Stem
    has_split: bool
    digest: str | None


@lru_cache(maxsize=4)
def find_images(data: str) -> ImageSource:
    """Return the images of a folder or of a torchvision data set (``torchvision:NAME@FOLDER``).

    Raises:
        DataError: for a data set without images, or with fewer than two classes.
    """
    source: ImageSource
    if data.startswith(TORCHVISION):
        name, _, folder = data.removeprefix(TORCHVISION).partition("@")
        source = TorchvisionImages(name, folder or "datasets")
    else:
        source = find_folder(Path(data))
    if len(source.classes) < 2:
        raise DataError(f"{source.name} has one class, {format_names(source.classes)}; at least two are needed")
    return source


@lru_cache(maxsize=4)
def inspect_images(data: str) -> Found:
    """Find out classes, split and size of a data set, from the headers of a sample of its images.

    Raises:
        DataError: as :func:`find_images`, or if no image of the sample can be read.
    """
    source = find_images(data)
    count = len(source.labels)
    sides: list[int] = []
    for number in np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int):
        try:
            sides.append(min(source.size(int(number))))
        except ImageError:
            continue  # counted when all are read
    if not sides:
        raise DataError(f"{source.name}: none of {min(count, _LOOKED_AT)} images looked at can be read")
    side = int(np.median(sides))
    if side < _LEAST_SIDE:
        raise DataError(f"{source.name}: images of {side} pixels are too small; at least {_LEAST_SIDE} are needed")
    small = side <= SMALL_SIDE
    image_size = side if small else min(side // 16 * 16, LARGEST_SIDE)
    validation = source.held_out or max(round(count * _VALIDATION_SHARE), len(source.classes))
    if count - validation < 1:
        raise DataError(f"{source.name}: {count} images of {len(source.classes)} classes are too few for a search")
    return Found(
        name=source.name,
        classes=source.classes,
        train_images=count - validation,
        validation_images=validation,
        image_size=image_size,
        stem="cifar" if small else "imagenet",
        has_split=bool(source.held_out),
        digest=source.digest,
    )


@lru_cache(maxsize=2)
def load_images(
    data: str, image_size: int, train_images: int, validation_images: int, split_seed: int, split: Split = "random"
) -> tuple[Cifar10, np.ndarray, np.ndarray]:
    """Return the images that children need, and which of them to train and to validate on.

    Raises:
        DataError: if there are fewer, they do not fit into memory, or too many cannot be read.
    """
    source = find_images(data)
    train, validation = _choose(source, train_images, validation_images, split_seed, split)
    numbers = np.concatenate([train, validation])
    pictures, readable = _read_all(source, numbers, image_size)
    in_train = readable[: len(train)]
    kept, train_count = numbers[readable], int(in_train.sum())
    if not 0 < train_count < len(kept):
        raise DataError(f"{source.name}: no readable image is left to train or to validate on")
    images = Images(pictures[readable], source.labels[kept].astype(np.int64))
    _warn_of_split(source, images, train_count)
    mean, std = channel_statistics(images.pictures[:train_count])
    nothing = Images(images.pictures[:0], images.labels[:0])
    arrays = Cifar10(images, nothing, source.classes, mean, std)
    return arrays, np.arange(train_count), np.arange(train_count, len(kept))


def _warn_of_split(source: ImageSource, images: Images, train_count: int) -> None:
    """Warn of classes without an image of a kind, and of pictures that are of both kinds."""
    for what, labels in (("train on", images.labels[:train_count]), ("validate on", images.labels[train_count:])):
        if missing := [source.classes[label] for label in np.setdiff1d(np.arange(len(source.classes)), labels)]:
            names = format_names(missing)
            count = f"{len(missing)} of {len(source.classes)}"
            logger.warning("%s: classes without an image to %s, %s: %s", source.name, what, count, names)
    known = {hash(picture.tobytes()) for picture in images.pictures[:train_count]}
    if twice := sum(hash(picture.tobytes()) in known for picture in images.pictures[train_count:]):
        logger.warning("%s: %d images to validate on are also trained on, under another name", source.name, twice)


def channel_statistics(pictures: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of ``(N, 3, H, W)`` uint8, on a scale of 0 to 1."""
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(pictures.shape[1]):
        share = np.bincount(pictures[:, channel].ravel(), minlength=256) / pictures[:, channel].size
        mean = float(share @ values)
        means.append(mean)
        deviations.append(max(float(share @ (values - mean) ** 2) ** 0.5, 1 / 255))
    return tuple(means), tuple(deviations)


def _choose(source: ImageSource, train: int, validation: int, seed: int, how: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the images to train and to validate on."""
    count = len(source.labels)
    if not source.held_out:
        return split(count, validation, train, seed, source.labels if how == "stratified" else None)
    available = count - source.held_out
    if not (1 <= train <= available and 1 <= validation <= source.held_out):
        raise DataError(
            f"{source.name} has {available} training and {source.held_out} validation images, "
            f"not {train} and {validation}"
        )
    shuffled = [np.random.RandomState(seed).permutation(n) for n in (available, source.held_out)]
    return shuffled[0][:train], available + shuffled[1][:validation]


def _read_all(source: ImageSource, numbers: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images as ``(N, 3, side, side)`` uint8, and which of them could be read."""
    needed = len(numbers) * 3 * side * side
    if needed > memory_of(torch.device("cpu")) / 2:
        raise DataError(
            f"{len(numbers)} images of {side} x {side} pixels need {needed / 2**30:.1f} GiB of memory; "
            "set a smaller image_size or train_images"
        )
    pictures, readable = np.zeros((len(numbers), 3, side, side), np.uint8), np.ones(len(numbers), bool)
    problems: list[str] = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = pool.map(partial(_read_square, source, side), map(int, numbers))
        for i, result in enumerate(tqdm(results, "reading images", len(numbers), leave=False, disable=None)):
            if isinstance(result, str):
                problems.append(result)
                readable[i] = False
            else:
                pictures[i] = result
    if problems:
        logger.warning("%d of %d images are left out, the first: %s", len(problems), len(numbers), problems[0])
    if len(problems) > _MOST_UNREADABLE * len(numbers):
        raise DataError(f"{source.name}: {len(problems)} of {len(numbers)} images cannot be read: {problems[0]}")
    return pictures, readable


def _read_square(source: ImageSource, side: int, number: int) -> np.ndarray | str:
    try:
        picture = source.read(number)
    except ImageError as error:
        return str(error)
    return np.asarray(ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
