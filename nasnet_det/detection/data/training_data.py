"""The training loader: an order of images, and of their random augmentation, that a resumed run takes up exactly.

detectron2 groups images of like aspect after loading them, in a state that no checkpoint keeps. Here the groups are
made of indices, before anything is loaded: the batches are a function of the seed, so a resumed run skips those it
has seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.data.dataset_checks import load_checked
from nasnet_det.detection.data.mapper import SkippingMapper

Entry = tuple[int, int]


class TrainingBatches(Sampler[list[Entry]]):
    """Endless batches of ``(index, seed)`` for one process, all landscape or all portrait images if grouped.

    Args:
        make_sampler: makes detectron2's endless sampler of this process from a seed.
        landscape: for each image, whether it is wider than high; None to mix them.
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
        """Begin at batch ``start`` of the order of ``seed``; to be called before the loader is iterated."""
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[list[Entry]]:
        buckets: dict[bool, list[Entry]] = {False: [], True: []}
        number, rank = 0, comm.get_rank()
        for position, index in enumerate(self.make_sampler(self.seed)):
            bucket = buckets[self.landscape is not None and self.landscape[index]]
            bucket.append((index, step_seed(self.seed, position, rank)))
            if len(bucket) < self.batch_size:
                continue
            if number >= self.start:
                yield bucket.copy()
            number += 1
            bucket.clear()


class SeededImages(Dataset[dict[str, Any]]):
    """Maps ``(index, seed)`` to a training example, the mapper's random numbers drawn from that seed."""

    def __init__(self, images: Sequence[dict[str, Any]], mapper: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.images, self.mapper = images, mapper

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, entry: Entry) -> dict[str, Any]:
        index, seed = entry
        random.seed(seed)
        np.random.seed(seed)
        return self.mapper(self.images[index])


def step_seed(seed: int, number: int, rank: int) -> int:
    """A 32-bit seed for one image or step of one process, unlike those of its neighbours."""
    return int(np.random.SeedSequence([seed, number, rank]).generate_state(1)[0])


def build_train_loader(cfg: CfgNode) -> DataLoader[dict[str, Any]]:
    """detectron2's training loader with a resumable order and a careful look at the data.

    Raises:
        DatasetError: for data that cannot be used.
        ConfigError: if the batch cannot be shared out, or for a sampler without a seed.
    """
    images = load_checked(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, num_classes(cfg))
    total, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if total < processes or total % processes:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH ({total}) must be a multiple of the number of GPUs ({processes})")
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    landscape = [image["width"] > image["height"] for image in images] if grouped else None
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    return DataLoader(
        SeededImages(images, SkippingMapper(DatasetMapper(cfg, True), images)),
        batch_sampler=TrainingBatches(_sampler_maker(cfg, images), landscape, total // processes, seed),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_list,
        # Of its own, so that starting the loader draws nothing from the generator that a training step samples with.
        generator=torch.Generator().manual_seed(seed),
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader[dict[str, Any]]:
    """detectron2's loader for evaluation, which takes a grey image in an unreadable one's place.

    Raises:
        DatasetError: for data that cannot be used.
    """
    images = load_checked([dataset_name], filter_empty=False, num_classes=num_classes(cfg))
    mapper = SkippingMapper(DatasetMapper(cfg, False))
    return build_detection_test_loader(images, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)


def num_classes(cfg: CfgNode) -> int:
    """The data set's classes that the model tells apart."""
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        return cfg.MODEL.RETINANET.NUM_CLASSES
    return len(cfg.MODEL.NASNET.LABEL_IDS) or cfg.MODEL.ROI_HEADS.NUM_CLASSES


def _sampler_maker(cfg: CfgNode, images: list[dict[str, Any]]) -> Callable[[int], Sampler[int]]:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return lambda seed: TrainingSampler(len(images), seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            images, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)
    raise ConfigError(
        f"DATALOADER.SAMPLER_TRAIN is TrainingSampler or RepeatFactorTrainingSampler here, not {name!r}: others cannot "
        "be resumed in the same order"
    )


def _as_list(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return batch
