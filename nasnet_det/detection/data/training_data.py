"""Loaders for training and evaluation; the order of training images and their augmentation resume exactly.

detectron2 groups images by aspect ratio after loading them, in a state that no checkpoint keeps. Here indices are
grouped before any image is loaded: the batches are a function of the seed, and a resumed run skips those that the
interrupted one has used.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import build_detection_test_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.data.mapper import DetectionMapper, SkippingMapper
from nasnet_det.detection.data.registered import earlier_look, look_at_config
from nasnet_det.training.seeds import derive_seed

Entry = tuple[int, int]


class TrainingBatches(Sampler[list[Entry]]):
    """An endless sampler of batches of ``(index, seed)`` for one process.

    Args:
        make_sampler: a function from a seed to detectron2's endless sampler for this process.
        landscape: True for each image that is wider than high; a batch then has only one kind. None mixes them.
        batch_size: images per process.
        seed: of the order and of each image's augmentation.
    """

    def __init__(
        self,
        make_sampler: Callable[[int], Sampler[int]],
        landscape: Sequence[bool] | None,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.make_sampler, self.landscape, self.batch_size = make_sampler, landscape, batch_size
        self.seed, self.start = seed, 0

    def resume(self, seed: int, start: int) -> None:
        """Start at batch ``start`` of the order of ``seed``; call it before iterating over the loader."""
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[list[Entry]]:
        buckets: dict[bool, list[Entry]] = {False: [], True: []}
        number, rank = 0, comm.get_rank()
        for position, index in enumerate(self.make_sampler(self.seed)):
            bucket = buckets[self.landscape is not None and self.landscape[index]]
            bucket.append((index, derive_seed(self.seed, position, rank)))
            if len(bucket) < self.batch_size:
                continue
            if number >= self.start:
                yield bucket.copy()
            number += 1
            bucket.clear()


class SeededImages(Dataset[dict[str, Any]]):
    """A data set of mapped records, indexed by ``(index, seed)``; the mapper draws its random numbers from the seed."""

    def __init__(self, images: Sequence[dict[str, Any]], mapper: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.images, self.mapper = images, mapper

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, entry: Entry) -> dict[str, Any]:
        index, seed = entry
        random.seed(seed)
        np.random.seed(seed)
        return self.mapper(self.images[index])


def _train_parts(cfg: CfgNode) -> dict[str, Any]:
    images = look_at_config(cfg).train  # with the test sets, which else fail at the first evaluation
    return {
        "dataset": images,
        "mapper": DetectionMapper(cfg, True),
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "group_by_aspect": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "seed": cfg.SEED,
        "make_sampler": _sampler_maker(cfg, images),
    }


@configurable(from_config=_train_parts)
def build_train_loader(
    dataset: list[dict[str, Any]],
    *,
    mapper: Callable[[dict[str, Any]], dict[str, Any]],
    total_batch_size: int,
    num_workers: int = 0,
    group_by_aspect: bool = True,
    seed: int = -1,
    make_sampler: Callable[[int], Sampler[int]] | None = None,
) -> DataLoader[dict[str, Any]]:
    """Build a training loader with a resumable order that skips unusable images.

    Args:
        dataset: records that were looked at (:mod:`nasnet_det.detection.data.registered`).
        mapper: a function from a record to the input of the model.
        total_batch_size: images per batch of all processes.
        num_workers: loader processes per training process.
        group_by_aspect: form batches of landscape or of portrait images only.
        seed: seed of the order and the augmentation; negative for a random one.
        make_sampler: a function from a seed to an endless sampler; default: detectron2's ``TrainingSampler``.

    Raises:
        DatasetError: for data that cannot be used.
        ConfigError: if the batch size is not a multiple of the number of processes.
    """
    processes = comm.get_world_size()
    if total_batch_size < processes or total_batch_size % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH (total_batch_size) is {total_batch_size}: expected a multiple of {processes}, the "
            "number of processes"
        )
    landscape = [image["width"] > image["height"] for image in dataset] if group_by_aspect else None
    seed = seed if seed >= 0 else comm.shared_random_seed()
    sampler = make_sampler or functools.partial(TrainingSampler, len(dataset), True)
    return DataLoader(
        SeededImages(dataset, SkippingMapper(mapper, dataset)),
        batch_sampler=TrainingBatches(sampler, landscape, total_batch_size // processes, seed),
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        # Of its own, so that starting the loader draws nothing from the generator that a training step samples with.
        generator=torch.Generator().manual_seed(seed),
    )


def _test_parts(cfg: CfgNode, dataset_name: str) -> dict[str, Any]:
    # One that was looked at before, perhaps with the class names of a checkpoint, is not judged again.
    found = earlier_look(dataset_name) or look_at_config(cfg, training=False, test=(dataset_name,)).sets[0]
    return {
        "dataset": found.records,
        "mapper": DetectionMapper(cfg, False),
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_parts)
def build_test_loader(
    dataset: list[dict[str, Any]], *, mapper: Callable[[dict[str, Any]], dict[str, Any]], num_workers: int = 0
) -> DataLoader[dict[str, Any]]:
    """Build detectron2's evaluation loader, with a grey image for each unusable one.

    Raises:
        DatasetError: for data that cannot be used.
    """
    return build_detection_test_loader(dataset, mapper=SkippingMapper(mapper), num_workers=num_workers)


def _sampler_maker(cfg: CfgNode, images: list[dict[str, Any]]) -> Callable[[int], Sampler[int]]:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return functools.partial(TrainingSampler, len(images), True)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            images, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)
    raise ConfigError(
        f"DATALOADER.SAMPLER_TRAIN is TrainingSampler or RepeatFactorTrainingSampler here, not {name!r}: others do not "
        "resume in the same order"
    )
