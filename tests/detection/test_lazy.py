"""The values of a LazyConfig keep their types when overrides replace them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2")

from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.data.look import DatasetError
from tests.detection.conftest import CONFIGS


@pytest.fixture(scope="module")
def loaded() -> Any:
    return LazyConfig.load(str(CONFIGS / "nasnet_frcnn.py"))


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("model.roi_heads.proposal_append_gt=no", False),
        ("dataloader.train.mapper.is_train=off", False),
        ("optimizer.params.decay_heads=yes", True),
        ("model.network.grad_checkpoint=true", True),
        ("train.max_iter='7'", 7),
        ("optimizer.lr=1", 1.0),
        ("train.output_dir=7", "7"),
        ("train.seed=3", 3),
        ("model.network.num_cells=[1,2]", [1, 2]),
        ("dataloader.train.dataset.names=mine", "mine"),
        ("model.roi_heads.box_transform.scale_clamp=4.1", 4.1),
    ],
)
def test_an_override_is_read_as_the_type_of_what_it_replaces(loaded: Any, change: str, value: Any) -> None:
    changed = LazyConfig.apply_overrides(copy.deepcopy(loaded), [change])
    found = OmegaConf.select(changed, change.partition("=")[0])
    assert (found, type(found) is type(value)) == (value, not isinstance(value, list))


@pytest.mark.parametrize(
    "change",
    [
        "train.max_iter=abc",
        "train.max_iter=1.5",
        "train.amp.enabled=maybe",
        "train.max_itr=5",  # a name that is not there
        "train.checkpointer.perod=5",
        "dataloader.tst=2",
        "optimizer.lr=nan",
        "optimizer.weight_decay=inf",
        "optimizer.lr=null",
        "model.image_size=600",
        "model.network.num_filters=many",  # a default of the function, not in the file
        "model.roi_heads.nms_threshold=nan",
        "dataloader.train.group_by_aspect=5x",
    ],
)
def test_what_is_of_another_type_is_refused_by_name(loaded: Any, change: str) -> None:
    with pytest.raises(OmegaConfBaseException, match=change.partition("=")[0].rpartition(".")[2]):
        LazyConfig.apply_overrides(copy.deepcopy(loaded), [change])


def changed(loaded: Any, data: str, *changes: str) -> Any:
    """The records of the config's training set, which is made ``data``, for a short run."""
    own = [f"dataloader.train.dataset.names={data}", f"dataloader.test.dataset.name={data}", "train.max_iter=10"]
    heads = ["model.roi_heads.label_ids=[]", "model.roi_heads.num_classes=2", "dataloader.test.num_workers=0"]
    config = LazyConfig.apply_overrides(copy.deepcopy(loaded), [*own, *heads, *changes])
    return instantiate(config.dataloader.train.dataset)


@pytest.mark.parametrize(
    ("change", "named", "error"),
    [
        ("optimzer.lr=1", "optimzer", ConfigError),
        ("SOLVER.MAX_ITER=5", "SOLVER", ConfigError),
        ("max_iter=5", "max_iter", ConfigError),
        ("train.max_iter=-1", r"train\.max_iter", ConfigError),
        ("train.log_period=0", r"train\.log_period", ConfigError),
        ("train={checkpointer: {period: 0}}", r"train\.checkpointer\.period", ConfigError),
        ("lr_multiplier.scheduler.values=[1,1,-1]", "lr_multiplier.*step 8 of 10", ConfigError),
        ("lr_multiplier.scheduler.values=[0,0,0]", "lr_multiplier", ConfigError),
        ("lr_multiplier.scheduler.milestones=[9,5,12]", "lr_multiplier.*milestone", ConfigError),
        ("dataloader.evaluator.dataset_name=nowhere", "nowhere", DatasetError),
        ("dataloader.test.num_workers=-1", "num_workers", ValueError),
    ],
)
def test_what_the_script_reads_late_is_checked_with_the_data(
    loaded: Any, tiny_coco: str, change: str, named: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=named):
        changed(loaded, tiny_coco, change)


def test_a_config_that_was_saved_is_taken_again_and_needs_no_evaluator(
    loaded: Any, tiny_coco: str, tmp_path: Path
) -> None:
    assert len(changed(loaded, tiny_coco)) == 7
    saved = tmp_path / "config.yaml"
    LazyConfig.save(loaded, str(saved))
    again = LazyConfig.load(str(saved))
    again.dataloader.pop("evaluator")
    assert len(changed(again, tiny_coco)) == 7


def test_processes_of_torchrun_which_the_script_does_not_join_are_refused(
    loaded: Any, tiny_coco: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        changed(loaded, tiny_coco)
