"""Mappers from data set records to the input of a detector, which count, name and skip unusable images."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, transforms

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.data.augmentation import training_augmentations
from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.look import DatasetError, read_record
from nasnet_det.safe_io.files import exists
from nasnet_det.safe_io.images import ImageError, reason_with_name
from nasnet_det.safe_io.values import one_line

logger = logging.getLogger(__name__)

#: After this many unusable images in a row the data set itself is at fault.
_MAX_IN_A_ROW = 10
_GREY = np.full((64, 64, 3), 128, dtype=np.uint8)


class DetectionMapper(DatasetMapper):
    """detectron2's mapper for boxes and masks, reading images by :func:`nasnet_det.detection.data.look.read_record`.

    A record may have ``turn: False`` for an image whose annotations ignore its EXIF orientation.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read detectron2's own keys, and ``INPUT.SCALE_JITTER`` and ``INPUT.COLOR``.

        Raises:
            ConfigError: for values that detectron2's augmentations do not take.
        """
        try:
            parts = super().from_config(cfg, is_train)
        except (AssertionError, ValueError, TypeError) as error:
            raise ConfigError(f"INPUT describes no augmentation of detectron2's: {one_line(error)}") from None
        if is_train:
            parts["augmentations"] = training_augmentations(cfg)
            # Boxes of cropped objects are those of what is left of their masks.
            parts["recompute_boxes"] |= cfg.MODEL.MASK_ON and cfg.INPUT.SCALE_JITTER.ENABLED
        return parts

    def __call__(self, record: Record) -> Record:
        """Map a record to the input of the model.

        Raises:
            ImageError: if the image is unreadable, its size differs from the record's, or the augmentations do not
                support its size.
        """
        record = copy.deepcopy(record)
        pixels = np.asarray(read_record(record))
        augmented = transforms.AugInput(pixels[:, :, ::-1] if self.image_format == "BGR" else pixels)
        try:
            applied = self.augmentations(augmented)
        except (ValueError, ZeroDivisionError, OverflowError, MemoryError) as error:
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise ImageError(f"{record['file_name']}, {size}, cannot be resized: {error}") from error
        record["image"] = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        record["image_format"] = self.image_format
        if self.is_train:
            self._transform_annotations(record, applied, augmented.image.shape[:2])
        else:
            record.pop("annotations", None)
        return record


class SkippingMapper:
    """A mapper that replaces unusable images: missing, truncated, damaged, or of an unexpected size.

    In training, another image of the data set is used instead, the same in a resumed run. In
    evaluation, the result is a grey image marked ``unreadable``, for which
    :class:`nasnet_det.detection.evaluation.evaluator.CocoEvaluator` counts no detections.

    Args:
        mapper: :class:`DetectionMapper`, or another callable that raises OSError for an unusable image.
        substitutes: all training records; None for evaluation, which needs ``mapper.augmentations``.
    """

    def __init__(self, mapper: Callable[[Record], Record], substitutes: Sequence[Record] | None = None) -> None:
        self.mapper, self.substitutes = mapper, substitutes
        self._position = {record["file_name"]: number for number, record in enumerate(substitutes or ())}
        self._named: set[str] = set()
        self._in_a_row = 0
        #: Number of images skipped in this process.
        self.skipped = 0

    def __call__(self, record: Record) -> Record:
        """Map a record, or its substitute, to the input of the model.

        Raises:
            DatasetError: if ten images in a row are unusable; in evaluation, if ten have vanished.
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
        """Yield ``record``, then its substitutes."""
        yield record
        if self.substitutes is not None:
            # Not only its neighbours, which whatever damaged it may have damaged, too.
            stride = max(1, len(self.substitutes) // _MAX_IN_A_ROW)
            for number in itertools.count(self._position[record["file_name"]] + 1, stride):
                yield self.substitutes[number % len(self.substitutes)]

    def _note(self, file_name: str, error: OSError) -> None:
        self.skipped += 1
        reason = reason_with_name(file_name, error)
        if file_name not in self._named:
            self._named.add(file_name)
            instead = "it counts as without detections" if self.substitutes is None else "another image is used instead"
            logger.warning(f"{reason}; {instead}; images skipped by this process: {self.skipped}")
        # Evaluation goes on after damaged images, which no other ones stand in for, but not without the disk.
        self._in_a_row = self._in_a_row + 1 if self.substitutes is not None or not exists(file_name) else 0
        if self._in_a_row >= _MAX_IN_A_ROW:
            raise DatasetError(f"{reason}; it is the last of {self._in_a_row} unusable images in a row")

    def _grey(self, record: Record) -> Record:
        grey = transforms.AugInput(_GREY.copy())
        self.mapper.augmentations(grey)  # type: ignore[attr-defined]
        image = torch.as_tensor(np.ascontiguousarray(grey.image.transpose(2, 0, 1)))
        kept = {key: value for key, value in record.items() if key != "annotations"}
        return {**kept, "image": image, "unreadable": True}
