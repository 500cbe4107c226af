"""CIFAR-10 from its official files, binary or pickled, verified by their MD5 sums.

A folder in the binary form holds ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, each a series of
records: a label byte, then 3,072 bytes of a 32 x 32 picture, channel first. The Python form holds the same batches as
pickled dictionaries. Source of both: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, 2009).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasnet_det.safe_io.pickles import from_pickle

#: The classes, by label.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE
BATCH_RECORDS = 10_000
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCH = "test_batch"

#: Mean and standard deviation of the training images per channel, on a scale of 0 to 1.
MEAN = (0.49139968, 0.48215841, 0.44653091)
STD = (0.24703223, 0.24348513, 0.26158784)


@dataclass(frozen=True)
class Form:
    """One of the two published forms.

    Args:
        folder: the folder's name in the published archive.
        suffix: of the batches' file names.
        archive, archive_md5: the published archive and its sum.
        md5: each batch's sum.
    """

    folder: str
    suffix: str
    archive: str
    archive_md5: str
    md5: dict[str, str]


_PLACE = "https://www.cs.toronto.edu/~kriz"

BINARY = Form(
    "cifar-10-batches-bin",
    ".bin",
    f"{_PLACE}/cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    {
        "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
)

#: The sums that torchvision.datasets.CIFAR10 checks.
PICKLED = Form(
    "cifar-10-batches-py",
    "",
    f"{_PLACE}/cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
)


class DataError(ValueError):
    """Data that is not where or what it should be: says what was expected and what to do."""


@dataclass(frozen=True, eq=False)
class Images:
    """Pictures ``(N, 3, 32, 32)`` and labels ``(N,)``, both uint8 (in CIFAR-10)."""

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
    """Read CIFAR-10 from ``root``, which holds the batches or a folder of them as the published archives unpack.

    Args:
        official: refuse any file whose MD5 sum is not the published one. Without it, any number of records of the same
            form is taken: another data set, or a part of this one.

    Raises:
        DataError: if there is no such data, a file is missing or truncated, or a sum differs.
    """
    folder, form = _find(Path(root))
    batches = {name: _read_batch(folder / f"{name}{form.suffix}", name, form, official) for name in form.md5}
    train = Images(*(np.concatenate([getattr(batches[n], f) for n in TRAIN_BATCHES]) for f in ("pictures", "labels")))
    return Cifar10(train, batches[TEST_BATCH])


def parse_binary(content: bytes, origin: str = "batch") -> Images:
    """The images of one binary batch.

    Raises:
        DataError: if the content is not whole records, or a label is not 0 to 9.
    """
    if not content or len(content) % RECORD_BYTES:
        raise DataError(f"{origin}: {len(content)} bytes are not whole records of {RECORD_BYTES}; is it truncated?")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD_BYTES)
    return _images(records[:, 1:], records[:, 0], origin)


def parse_pickled(content: bytes, origin: str = "batch") -> Images:
    """The images of one pickled batch, read as data (:func:`nasnet_det.safe_io.pickles.from_pickle`).

    Raises:
        DataError: if it holds anything else, or not what a batch holds.
    """
    try:
        batch = from_pickle(content, encoding="bytes")
        data, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # an unpickler raises almost anything on bytes that are no pickle
        raise DataError(f"{origin}: not a pickled CIFAR-10 batch ({type(error).__name__}: {error})") from None
    if data.dtype != np.uint8 or data.shape != (len(labels), RECORD_BYTES - 1) or labels.ndim != 1:
        raise DataError(f"{origin}: expected (N, 3072) bytes and N labels, found {data.dtype} {data.shape}")
    return _images(data, labels, origin)


def to_binary(images: Images) -> bytes:
    """The images as one binary batch."""
    pixels = images.pictures.reshape(len(images), -1)
    return np.concatenate([images.labels[:, None], pixels], axis=1).astype(np.uint8).tobytes()


def split(number: int, validation: int, train: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images to train on and to validate on, drawn from ``number`` of them by a fixed seed.

    The first of one shuffled order are for validation, the last for training: with the same seed, fewer of either are
    a part of more, and no training image of one setting is a validation image of another unless the counts overlap.

    Raises:
        DataError: if there are not as many.
    """
    if min(validation, train) < 1 or validation + train > number:
        raise DataError(f"cannot take {train} training and {validation} validation images of {number}")
    order = np.random.RandomState(seed).permutation(number)  # the one generator whose stream numpy never changes
    return order[number - train :][::-1].copy(), order[:validation].copy()


def _images(pixels: np.ndarray, labels: np.ndarray, origin: str) -> Images:
    if not np.isin(labels, np.arange(len(CLASSES))).all():
        raise DataError(f"{origin}: labels are 0 to {len(CLASSES) - 1}, but some lie outside; is it CIFAR-10?")
    return Images(pixels.reshape(-1, 3, SIDE, SIDE).copy(), labels.astype(np.uint8))


def _find(root: Path) -> tuple[Path, Form]:
    """The folder of the batches and their form."""
    if not root.is_dir():
        raise DataError(f"{root} is no folder; {_HELP}")
    for form in (BINARY, PICKLED):
        for folder in (root, root / form.folder):
            present = [name for name in form.md5 if (folder / f"{name}{form.suffix}").is_file()]
            missing = [f"{name}{form.suffix}" for name in form.md5 if name not in present]
            if present and missing:
                raise DataError(f"{folder} lacks {', '.join(missing)}; {_HELP}")
            if present:
                return folder, form
    raise DataError(f"{root} holds no CIFAR-10: no {BINARY.folder}/, no {PICKLED.folder}/, nor their files; {_HELP}")


def _read_batch(path: Path, name: str, form: Form, official: bool) -> Images:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    if official:
        whole = BATCH_RECORDS * RECORD_BYTES
        if form is BINARY and len(content) != whole:
            raise DataError(f"{path}: {len(content)} bytes instead of {whole}: truncated or not CIFAR-10; {_HELP}")
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != form.md5[name]:
            raise DataError(f"{path}: MD5 sum {found} instead of {form.md5[name]}: damaged or altered; {_HELP}")
    return (parse_binary if form is BINARY else parse_pickled)(content, str(path))


_HELP = "run `nasnet-det prepare-cifar10 ROOT` and give ROOT"
