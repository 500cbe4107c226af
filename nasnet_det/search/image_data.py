"""The images that children are trained on: CIFAR-10, a folder of class folders, or a data set of torchvision.

A folder is ``ROOT/CLASS/...`` or ``ROOT/train/CLASS/...`` with ``ROOT/val/CLASS/...``. Hidden files and folders,
``__MACOSX``, files other than images and a test split are ignored. Images are resized and cropped to one
square size and kept in memory, as CIFAR-10's are.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from nasnet_det.models.plan import Stem
from nasnet_det.safe_io.folders import IMAGE_SUFFIXES, find_pictures, is_picture, subfolders
from nasnet_det.safe_io.images import ImageError, as_rgb, read_header, read_image
from nasnet_det.safe_io.values import format_names, format_value
from nasnet_det.training.data.cifar10 import Cifar10, DataError, Images, split

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
#: ``torchvision:NAME@FOLDER`` is a data set of torchvision, downloaded to the folder.
TORCHVISION = "torchvision:"
#: Images up to this side keep the CIFAR stem and their size; children see larger ones at most at the second.
SMALL_SIDE, LARGEST_SIDE = 64, 128
_LEAST_SIDE = 8
#: Images whose size is looked at before any is decoded; the share that may be unreadable.
_LOOKED_AT, _MOST_UNREADABLE = 200, 0.1
_VALIDATION_SHARE = 0.1


class ImageSource(Protocol):
    """Labelled images before they are decoded.

    The last ``held_out`` are the validation split, 0 for no split. ``digest`` is of
    the names and sizes of the files, None where there are none.
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
        source = _TorchvisionImages(name, folder or "datasets")
    else:
        source = _find_folder(Path(data))
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
    data: str, image_size: int, train_images: int, validation_images: int, split_seed: int
) -> tuple[Cifar10, np.ndarray, np.ndarray]:
    """Return the images that children need, and which of them to train and to validate on.

    Raises:
        DataError: if there are fewer, they do not fit into memory, or too many cannot be read.
    """
    source = find_images(data)
    train, validation = _choose(source, train_images, validation_images, split_seed)
    numbers = np.concatenate([train, validation])
    pictures, readable = _read_all(source, numbers, image_size)
    in_train = readable[: len(train)]
    kept, train_count = numbers[readable], int(in_train.sum())
    if not 0 < train_count < len(kept):
        raise DataError(f"{source.name}: no readable image is left to train or to validate on")
    images = Images(pictures[readable], source.labels[kept].astype(np.int64))
    mean, std = channel_statistics(images.pictures[:train_count])
    nothing = Images(images.pictures[:0], images.labels[:0])
    arrays = Cifar10(images, nothing, source.classes, mean, std)
    return arrays, np.arange(train_count), np.arange(train_count, len(kept))


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


def _choose(source: ImageSource, train: int, validation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the images to train and to validate on."""
    count = len(source.labels)
    if not source.held_out:
        return split(count, validation, train, seed)
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
    needed, memory = len(numbers) * 3 * side * side, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory / 2:
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


class _FolderImages:
    """The images of class folders."""

    def __init__(self, root: Path, samples: Sequence[tuple[Path, int]], classes: Sequence[str], held_out: int) -> None:
        self.name, self.classes, self.held_out = str(root), tuple(classes), held_out
        self.paths = [path for path, _ in samples]
        self.labels = np.array([label for _, label in samples])
        files = [(path.relative_to(root).as_posix(), _size(path)) for path in self.paths]
        self.digest: str | None = hashlib.sha256(repr(files).encode()).hexdigest()[:16]

    def size(self, number: int) -> tuple[int, int]:
        """See :class:`ImageSource`."""
        return read_header(self.paths[number]).size

    def read(self, number: int) -> Image.Image:
        """See :class:`ImageSource`."""
        return read_image(self.paths[number])


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # a link to nowhere, which is counted as unreadable later
        return None


class _TorchvisionImages:
    """The training split of a classification data set of torchvision."""

    def __init__(self, name: str, folder: str) -> None:
        from torchvision import datasets

        kind = getattr(datasets, name, None)
        if not isinstance(kind, type) or name not in datasets.__all__:
            raise DataError(f"torchvision has no data set {format_value(name)}; see torchvision.datasets")
        self.name, self.held_out = f"{name} of torchvision in {folder}", 0
        self.digest: str | None = None
        self.dataset = _open_torchvision(kind, folder)
        self.labels = _torchvision_labels(name, self.dataset)
        names = getattr(self.dataset, "classes", None) or range(int(self.labels.max()) + 1)
        self.classes = tuple(str(label) for label in names)

    def size(self, number: int) -> tuple[int, int]:
        """See :class:`ImageSource`."""
        return self.read(number).size

    def read(self, number: int) -> Image.Image:
        """See :class:`ImageSource`."""
        try:
            return as_rgb(self.dataset[number][0])
        except (OSError, SyntaxError, ValueError, AttributeError) as error:
            raise ImageError(f"image {number} cannot be read: {error}") from None


def _open_torchvision(kind: Callable[..., Any], folder: str) -> Any:
    parameters = signature(kind).parameters
    options: dict[str, Any] = {"root": folder} if "root" in parameters else {}  # FakeData has none
    options |= {"train": True} if "train" in parameters else {}
    downloads = parameters.keys() & {"download", "kwargs"}  # QMNIST passes it on
    attempts = [{"download": False}, {"download": True}] if downloads else [{}]
    before = _entries(Path(folder))
    problem: Exception | None = None
    for attempt in attempts:
        try:
            return kind(**options, **attempt)
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            problem = error
    _remove_empty(_entries(Path(folder)) - before)
    reason = " ".join(str(problem).split())[:300]
    name = getattr(kind, "__name__", "data set")
    raise DataError(f"torchvision cannot open {name} in {folder}, or download it there: {reason}") from None


def _entries(folder: Path) -> set[Path]:
    """Return a folder and what is in it; an empty set if there is no such folder."""
    return {folder, *folder.iterdir()} if folder.is_dir() else set()


def _remove_empty(paths: set[Path]) -> None:
    """Remove the folders without any file that a failed download leaves."""
    for path in sorted(paths, key=lambda path: len(path.parts), reverse=True):
        for inner in [*sorted(path.rglob("*"), reverse=True), path]:
            with suppress(OSError):  # not empty, or a file
                inner.rmdir()


def _torchvision_labels(name: str, dataset: Any) -> np.ndarray:
    for attribute in ("targets", "labels", "_labels"):
        if (labels := _class_numbers(partial(getattr, dataset, attribute, None))) is not None:
            return labels
    labels = _class_numbers(lambda: [dataset[i][1] for i in range(len(dataset))])
    if labels is None:
        raise DataError(f"{name} of torchvision is not a classification data set: its images have no class each")
    return labels


def _class_numbers(read: Callable[[], Any]) -> np.ndarray | None:
    """Return labels as an array, None if they are not one class number for each image."""
    try:
        array = np.asarray(read())
    except (NotImplementedError, TypeError, ValueError, LookupError):  # no images, or labels of several sizes
        return None
    is_classes = array.ndim == 1 and len(array) and np.issubdtype(array.dtype, np.integer) and array.min() >= 0
    return array if is_classes else None


def _find_folder(root: Path) -> ImageSource:
    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder; give the folder of CIFAR-10 (nasnet-det prepare-cifar10), a folder of class "
            "folders, or the name of a data set of torchvision"
        )
    folder = root
    while (
        len(inner := subfolders(folder)) == 1 and subfolders(inner[0]) and not any(map(is_picture, inner[0].iterdir()))
    ):
        folder = inner[0]  # an archive unpacked into a folder of its own
    parts = {path.name.lower(): path for path in subfolders(folder)}
    train, validation = (next((parts[name] for name in names if name in parts), None) for names in (TRAIN, VALIDATION))
    if train is None or not _classes(train):
        if parts and parts.keys() <= {*TRAIN, *VALIDATION, *TEST}:
            raise DataError(f"{folder} has {format_names(sorted(parts))} but no images in train/CLASS/...")
        return _FolderImages(root, *_samples(_classes(folder), folder), 0)
    samples, classes = _samples(_classes(train), train)
    held_out = [] if validation is None else _held_out(validation, classes)
    return _FolderImages(root, [*samples, *held_out], classes, len(held_out))


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
    return [(path, label) for label, paths in enumerate(found.values()) for path in paths], classes


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class folder that has any."""
    found: dict[str, list[Path]] = {}
    for path in find_pictures(folder):
        first, *inner = path.relative_to(folder).parts
        if inner:
            found.setdefault(first, []).append(path)
    return found
