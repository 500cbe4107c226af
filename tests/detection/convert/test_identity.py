"""Checkpoints of another network are refused by every loader."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.checkpoint import DetectionCheckpointer

from nasnet_det.detection.convert.identity import DIGEST, CheckpointError, genotype_digest
from nasnet_det.detection.modeling.backbone import NASNetBackbone, build_network
from nasnet_det.genotypes.genotype import Block, CellGenotype, Genotype
from nasnet_det.genotypes.published import PUBLISHED


def backbone(**arguments: Any) -> NASNetBackbone:
    return NASNetBackbone(build_network(**{"num_cells": 1, "num_filters": 8, "norm": "BN", **arguments}), ["c5"])


def cell(pool: str) -> Genotype:
    blocks = (Block(0, 1, "sep_conv_3x3", pool), Block(0, 2, "identity", "conv_1x1"))
    return Genotype(CellGenotype(blocks, (2, 3)), CellGenotype(blocks, (2, 3)))


def test_the_same_network_is_loaded_whatever_its_norms() -> None:
    source = backbone()
    for norm in ("FrozenBN", "BN"):
        model = backbone(norm=norm)
        model.load_state_dict(source.state_dict(), strict=norm == "BN")
        assert torch.equal(model.network.stem.conv.weight, source.network.stem.conv.weight)


@pytest.mark.parametrize(
    "other",
    [{"num_filters": 12}, {"num_cells": 2}, {"genotype": "pnasnet_5"}, {"network": "nasnet_a_large"}],
    ids=["width", "depth", "genotype", "network"],
)
@pytest.mark.parametrize("through_detectron2", [False, True])
def test_another_network_is_refused(tmp_path: Any, other: dict[str, Any], through_detectron2: bool) -> None:
    state = backbone(**other).state_dict()
    with pytest.raises(CheckpointError, match="NUM_FILTERS"):
        if through_detectron2:  # which drops what has another shape, and would then only warn
            torch.save({"model": state}, tmp_path / "model.pth")
            DetectionCheckpointer(backbone()).load(str(tmp_path / "model.pth"))
        else:
            backbone().load_state_dict(state, strict=False)


def test_cells_whose_weights_look_alike_are_told_apart() -> None:
    average, maximum = backbone(genotype=cell("avg_pool_3x3")), backbone(genotype=cell("max_pool_3x3"))
    shapes = {name: value.shape for name, value in average.state_dict().items()}
    assert shapes == {name: value.shape for name, value in maximum.state_dict().items()}
    with pytest.raises(CheckpointError, match="GENOTYPE"):
        maximum.load_state_dict(average.state_dict())


def test_a_checkpoint_without_digest_is_judged_by_its_weights() -> None:
    state = {name: value for name, value in backbone().state_dict().items() if not name.endswith(DIGEST)}
    backbone().load_state_dict(state)
    with pytest.raises(CheckpointError):
        backbone(num_filters=12).load_state_dict(state)


def test_a_checkpoint_without_the_network_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"MODEL\.WEIGHTS"):
        backbone().load_state_dict({"head.weight": torch.zeros(1)}, strict=False)


def test_a_name_does_not_make_a_genotype() -> None:
    same = Genotype(PUBLISHED["nasnet_a"].normal, PUBLISHED["nasnet_a"].reduction, name="mine", source="me")
    assert torch.equal(genotype_digest(same), genotype_digest(PUBLISHED["nasnet_a"]))
    digests = {tuple(genotype_digest(genotype).tolist()) for genotype in PUBLISHED.values()}
    assert len(digests) == len({genotype.cells["normal"].blocks for genotype in PUBLISHED.values()})
