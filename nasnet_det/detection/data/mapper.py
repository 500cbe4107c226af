"""Images that cannot be read, met in the middle of a run: counted, named and passed over, never a crash."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms
from PIL import Image

from nasnet_det.detection.data.dataset_checks import DatasetError

logger = logging.getLogger(__name__)
Record = dict[str, Any]

#: What reading a missing, truncated or otherwise broken image raises, and detectron2's check of its size.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

#: So many images in a row that cannot be read are no accident.
_MAX_IN_A_ROW = 10
_GREY = 128


class SkippingMapper:
    """A dataset mapper that survives unreadable images: missing, truncated, corrupt, or not of the size they should be.

    In training the next image of the data set takes the place of an unreadable one, so that a resumed run sees what an
    unbroken one does. In evaluation, where each image counts, it becomes a grey one marked ``unreadable``, on which
    :class:`nasnet_det.detection.evaluation.evaluator.CocoEvaluator` counts no detection.

    Args:
        mapper: detectron2's ``DatasetMapper`` or one like it.
        substitutes: all training records; None for evaluation, where ``mapper.augmentations`` makes the grey image.
    """

    def __init__(self, mapper: Callable[[Record], Record], substitutes: Sequence[Record] | None = None) -> None:
        self.mapper, self.substitutes = mapper, substitutes
        self._places = {record["file_name"]: place for place, record in enumerate(substitutes or ())}
        self._count = multiprocessing.get_context().Value("q", 0)  # shared by the loader's processes
        self._named: set[str] = set()
        self._in_a_row = 0

    @property
    def skipped(self) -> int:
        """How often an unreadable image was passed over, by all processes of the loader."""
        return self._count.value

    def __call__(self, record: Record) -> Record:
        """Map a record to what the model reads.

        Raises:
            DatasetError: if ten images in a row cannot be read.
        """
        for candidate in self._candidates(record):
            try:
                mapped = self.mapper(candidate)
            except _UNREADABLE as error:
                self._note(candidate["file_name"], error)
            else:
                self._in_a_row = 0
                return mapped
        return self._grey(record)

    def _candidates(self, record: Record) -> Iterator[Record]:
        """``record``, then what may take its place."""
        yield record
        if self.substitutes is not None:
            for place in itertools.count(self._places[record["file_name"]] + 1):
                yield self.substitutes[place % len(self.substitutes)]

    def _note(self, file_name: str, error: BaseException) -> None:
        with self._count.get_lock():
            self._count.value += 1
            count = self._count.value
        if file_name not in self._named:
            self._named.add(file_name)
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            instead = "judged as without detections" if self.substitutes is None else "the next takes its place"
            logger.warning(f"image {file_name} cannot be read ({reason}); {instead}; skipped so far: {count}")
        self._in_a_row += 1
        if self._in_a_row >= _MAX_IN_A_ROW:
            raise DatasetError(
                f"{self._in_a_row} images in a row cannot be read, the last of them {file_name}: is the disk still "
                "there, and are the images whole?"
            )

    def _grey(self, record: Record) -> Record:
        grey = transforms.AugInput(np.full((record["height"], record["width"], 3), _GREY, dtype=np.uint8))
        self.mapper.augmentations(grey)  # type: ignore[attr-defined]
        image = torch.as_tensor(np.ascontiguousarray(grey.image.transpose(2, 0, 1)))
        kept = {key: value for key, value in record.items() if key != "annotations"}
        return {**kept, "image": image, "unreadable": True}
