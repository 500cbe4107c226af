"""Classification data sets of torchvision, opened by name; downloaded where they are not there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from nasnet_det.safe_io.images import ImageError, as_rgb
from nasnet_det.safe_io.values import format_value, one_line
from nasnet_det.training.data.cifar10 import DataError


class TorchvisionImages:
    """The training split of a data set of torchvision: an :class:`~nasnet_det.search.image_data.ImageSource`.

    Args:
        name: the name of its class in ``torchvision.datasets``.
        folder: where it is, or is downloaded to.

    Raises:
        DataError: if torchvision has no such data set, cannot open it, or it is not one for classification.
    """

    def __init__(self, name: str, folder: str) -> None:
        from torchvision import datasets

        kind = getattr(datasets, name, None)
        if not isinstance(kind, type) or name not in datasets.__all__:
            raise DataError(f"torchvision has no data set {format_value(name)}; see torchvision.datasets")
        self.name, self.held_out = f"{name} of torchvision in {folder}", 0
        self.digest: str | None = None
        self.dataset = _open(kind, folder)
        # FakeData draws its images from PyTorch's generator: in several threads at once, other ones every time.
        self._turn: AbstractContextManager[Any] = nullcontext() if "root" in signature(kind).parameters else Lock()
        self.labels = _labels_of(name, self.dataset)
        names = getattr(self.dataset, "classes", None) or range(int(self.labels.max()) + 1)
        self.classes = tuple(str(label) for label in names)

    def size(self, number: int) -> tuple[int, int]:
        return self.read(number).size

    def read(self, number: int) -> Image.Image:
        try:
            with self._turn:
                image = self.dataset[number][0]
            return as_rgb(image)
        except (OSError, SyntaxError, ValueError, AttributeError) as error:
            raise ImageError(f"image {number} cannot be read: {error}") from None


def _open(kind: type[Any], folder: str) -> Any:
    parameters = signature(kind).parameters
    options: dict[str, Any] = {"root": folder} if "root" in parameters else {}  # FakeData has none
    options |= {"train": True} if "train" in parameters else {}
    if "split" in parameters and parameters["split"].default is Parameter.empty:
        options["split"] = "balanced"  # EMNIST's, of six
    # QMNIST passes it on to MNIST; ImageNet to nobody who takes it.
    downloads = any("download" in signature(base.__init__).parameters for base in kind.__mro__)  # type: ignore[misc]
    attempts = [{"download": False}, {"download": True}] if downloads else [{}]
    before = _entries(Path(folder))
    problem: Exception | None = None
    for attempt in attempts:
        try:
            return kind(**options, **attempt)
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            problem = error
    assert problem is not None
    _remove_empty(_entries(Path(folder)) - before)
    name = getattr(kind, "__name__", "data set")
    raise DataError(f"torchvision cannot open {name} in {folder}, or download it there: {one_line(problem)}") from None


def _entries(folder: Path) -> set[Path]:
    """Return a folder and what is in it; an empty set if there is no such folder."""
    return {folder, *folder.iterdir()} if folder.is_dir() else set()


def _remove_empty(paths: set[Path]) -> None:
    """Remove the folders without any file that a failed download leaves."""
    for path in sorted(paths, key=lambda path: len(path.parts), reverse=True):
        for inner in [*sorted(path.rglob("*"), reverse=True), path]:
            with suppress(OSError):  # not empty, or a file
                inner.rmdir()


def _labels_of(name: str, dataset: Any) -> np.ndarray:
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
