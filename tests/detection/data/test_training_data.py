"""The order of images and of their augmentation, and taking it up again."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("detectron2")

from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.data.look import DatasetError
from nasnet_det.detection.data.training_data import SeededImages, TrainingBatches, build_train_loader

LANDSCAPE = [True, True, False, True, False, True, True, False, True, True, True]


def batches(seed: int = 5, grouped: bool = True, start: int = 0, batch_size: int = 2) -> TrainingBatches:
    def sampler(seed: int) -> TrainingSampler:
        return TrainingSampler(len(LANDSCAPE), seed=seed)

    made = TrainingBatches(sampler, LANDSCAPE if grouped else None, batch_size, seed)
    made.resume(seed, start)
    return made


def first(made: TrainingBatches, count: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(made, count))


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("start", [1, 7, 20])
def test_a_resumed_order_is_the_unbroken_one(grouped: bool, start: int) -> None:
    assert first(batches(grouped=grouped, start=start), 10) == first(batches(grouped=grouped), start + 10)[start:]


def test_batches_are_of_one_orientation_and_miss_nothing() -> None:
    made = first(batches(), 60)
    assert all(len({LANDSCAPE[index] for index, _ in batch}) == 1 for batch in made)
    seen = [index for batch in made for index, _ in batch]
    assert {seen.count(index) for index in range(len(LANDSCAPE))} <= {10, 11, 12}


def test_without_groups_batches_follow_the_sampler() -> None:
    order = [index for batch in first(batches(grouped=False), 11) for index, _ in batch]
    assert order == list(itertools.islice(TrainingSampler(len(LANDSCAPE), seed=5), 22))


def test_the_seed_is_the_order() -> None:
    assert first(batches(seed=5), 9) == first(batches(seed=5), 9) != first(batches(seed=6), 9)


def test_seeds_differ_by_image_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [seed for batch in first(batches(), 50) for _, seed in batch]
    assert len(set(seeds)) == 100
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    assert not set(seeds) & {seed for batch in first(batches(), 50) for _, seed in batch}


def test_augmentation_is_a_function_of_the_seed() -> None:
    images = SeededImages([{"a": 1}, {"a": 2}], lambda record: {**record, "random": np.random.rand()})
    assert images[(0, 9)] == images[(0, 9)]
    assert images[(0, 9)]["random"] == images[(1, 9)]["random"] != images[(0, 10)]["random"]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_same_with_any_number_of_workers(small_config: Any, tiny_coco: str, workers: int) -> None:
    options = {
        "DATASETS__TRAIN": (tiny_coco,),
        "DATASETS__TEST": (),
        "MODEL__ROI_HEADS__NUM_CLASSES": 2,
        "INPUT__MIN_SIZE_TRAIN": (64,),
    }
    loader = build_train_loader(small_config("fpn_mobile.yaml", DATALOADER__NUM_WORKERS=workers, **options))
    loader.batch_sampler.resume(3, 2)
    resumed = next(iter(loader))
    unbroken = list(itertools.islice(build_train_loader(small_config("fpn_mobile.yaml", **options)), 3))[2]
    assert [record["file_name"] for record in resumed] == [record["file_name"] for record in unbroken]
    assert all((a["image"] == b["image"]).all() for a, b in zip(resumed, unbroken, strict=True))


def test_what_cannot_be_resumed_is_refused(small_config: Any, tiny_coco: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"DATASETS__TRAIN": (tiny_coco,), "DATASETS__TEST": (), "MODEL__ROI_HEADS__NUM_CLASSES": 2}
    with pytest.raises(ConfigError, match="SAMPLER_TRAIN"):
        build_train_loader(
            small_config("fpn_mobile.yaml", DATALOADER__SAMPLER_TRAIN="RandomSubsetTrainingSampler", **options)
        )
    build_train_loader(
        small_config("fpn_mobile.yaml", DATALOADER__SAMPLER_TRAIN="RepeatFactorTrainingSampler", **options)
    )
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    with pytest.raises(ConfigError, match="IMS_PER_BATCH"):
        build_train_loader(small_config("fpn_mobile.yaml", **options))


def test_a_test_set_that_cannot_be_scored_is_refused_with_the_loader(small_config: Any, tiny_coco: str) -> None:
    """Also for a program with detectron2's own trainer, which builds its evaluator after training."""
    options = {"DATASETS__TRAIN": (tiny_coco,), "MODEL__ROI_HEADS__NUM_CLASSES": 2}
    with pytest.raises(DatasetError, match="nowhere"):
        build_train_loader(small_config("fpn_mobile.yaml", DATASETS__TEST=("nowhere",), **options))


def test_training_can_be_sent_to_processes_that_are_not_forked(small_config: Any, tiny_coco: str) -> None:
    options = {
        "DATASETS__TRAIN": (tiny_coco,),
        "DATASETS__TEST": (),
        "MODEL__ROI_HEADS__NUM_CLASSES": 2,
        "INPUT__MIN_SIZE_TRAIN": (64,),
    }
    dataset = build_train_loader(small_config("fpn_mobile.yaml", **options)).dataset
    sent = pickle.loads(pickle.dumps(dataset))  # as spawn and forkserver do
    assert (sent[(1, 5)]["image"] == dataset[(1, 5)]["image"]).all()
