"""The values of a LazyConfig keep their types when overrides replace them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

pytest.importorskip("detectron2")

from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

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
