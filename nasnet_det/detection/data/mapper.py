"""From records to what a detector reads; pictures that cannot be used are counted, named and passed over."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.data import DatasetMapper, transforms

from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.look import DatasetError
from nasnet_det.safe_io.images import ImageError, read_image

logger = logging.getLogger(__name__)

#: So many pictures in a row that cannot be used are no accident.
_MAX_IN_A_ROW = 10
_GREY = np.full((64, 64, 3), 128, dtype=np.uint8)


class DetectionMapper(DatasetMapper):
    """detectron2's mapper for boxes and masks, with this package's reading of pictures.

    A record may hold ``turn: False`` for a picture whose annotations ignore its EXIF orientation.
    """

    def __call__(self, record: Record) -> Record:
        """Map a record to what the model reads.

        Raises:
            ImageError: if the picture cannot be read, is of another size than the record says, or of one that the
                augmentations cannot take.
        """
        record = copy.deepcopy(record)
        image = self.pixels(record)
        size = (record.get("width", image.shape[1]), record.get("height", image.shape[0]))
        if (image.shape[1], image.shape[0]) != size:
            found = f"{image.shape[1]} x {image.shape[0]}"
            raise ImageError(f"{record['file_name']} is {found}, but annotated as {size[0]} x {size[1]}")
        augmented = transforms.AugInput(image)
        try:
            applied = self.augmentations(augmented)
        except (ValueError, ZeroDivisionError, OverflowError, MemoryError) as error:
            raise ImageError(f"{record['file_name']}, {size[0]} x {size[1]}, cannot be resized: {error}") from error
        record["image"] = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if self.is_train:
            self._transform_annotations(record, applied, augmented.image.shape[:2])
        else:
            record.pop("annotations", None)
        return record

    def pixels(self, record: Record) -> np.ndarray:
        """Return the picture, ``(height, width, 3)`` of uint8 in the order of ``image_format``."""
        pixels = np.asarray(read_image(record["file_name"], record.get("turn", True)))
        return pixels[:, :, ::-1] if self.image_format == "BGR" else pixels


class SkippingMapper:
    """A mapper that survives pictures that cannot be used: missing, truncated, damaged, or of a wrong size.

    In training the next picture of the data set takes the place of such a one, so that a resumed run sees the same. In
    evaluation, where each picture counts, it becomes a grey one marked ``unreadable``, on which
    :class:`nasnet_det.detection.evaluation.evaluator.CocoEvaluator` counts no detection.

    Args:
        mapper: :class:`DetectionMapper` or another of detectron2's kind.
        substitutes: all training records; None for evaluation, where ``mapper.augmentations`` makes the grey picture.
    """

    def __init__(self, mapper: Callable[[Record], Record], substitutes: Sequence[Record] | None = None) -> None:
        self.mapper, self.substitutes = mapper, substitutes
        self._position = {record["file_name"]: number for number, record in enumerate(substitutes or ())}
        self._named: set[str] = set()
        self._in_a_row = 0
        #: How often a picture was passed over in this process.
        self.skipped = 0

    def __call__(self, record: Record) -> Record:
        """Map a record to what the model reads.

        Raises:
            DatasetError: if ten pictures in a row cannot be used.
        """
        for candidate in self._candidates(record):
            try:
                mapped = self.mapper(candidate)
            except OSError as error:
                self._note(candidate["file_name"], error)
            else:
                self._in_a_row = 0
                return mapped
        return self._grey(record)

    def _candidates(self, record: Record) -> Iterator[Record]:
        """Give ``record``, then what may take its place."""
        yield record
        if self.substitutes is not None:
            for number in itertools.count(self._position[record["file_name"]] + 1):
                yield self.substitutes[number % len(self.substitutes)]

    def _note(self, file_name: str, error: OSError) -> None:
        self.skipped += 1
        reason = str(error) if file_name in str(error) else f"{file_name} ({error})"
        if file_name not in self._named:
            self._named.add(file_name)
            instead = "it counts as without detections" if self.substitutes is None else "the next takes its place"
            logger.warning(f"{reason}; {instead}; pictures passed over by this process: {self.skipped}")
        self._in_a_row += 1
        if self._in_a_row >= _MAX_IN_A_ROW:
            raise DatasetError(f"{reason}; it is the last of {self._in_a_row} pictures in a row that cannot be used")

    def _grey(self, record: Record) -> Record:
        grey = transforms.AugInput(_GREY.copy())
        self.mapper.augmentations(grey)  # type: ignore[attr-defined]
        image = torch.as_tensor(np.ascontiguousarray(grey.image.transpose(2, 0, 1)))
        kept = {key: value for key, value in record.items() if key != "annotations"}
        return {**kept, "image": image, "unreadable": True}
