"""Backbones: their maps, what they say of them, freezing, norms, drop paths and starting weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from detectron2.utils.events import EventStorage
from torch import nn

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.modeling.backbone import NASNetBackbone, build_network
from nasnet_det.genotypes.genotype import GenotypeError
from nasnet_det.genotypes.published import PUBLISHED
from nasnet_det.models.drop_path import ScheduledDropPath
from nasnet_det.weights import WeightsError

ALL = ["c1", "c2", "c3", "c4", "c5"]


def backbone(out_features: list[str] = ALL, **arguments: Any) -> NASNetBackbone:
    torch.manual_seed(0)
    return NASNetBackbone(build_network(**{"num_cells": 1, "num_filters": 8, "norm": "BN", **arguments}), out_features)


@pytest.mark.parametrize("genotype", ["nasnet_a", "amoebanet_d", "darts_v2", "enas"])
def test_maps_are_what_output_shape_says(genotype: str) -> None:
    model = backbone(genotype=genotype).eval()
    maps = model(torch.randn(1, 3, 64, 96))
    shapes = model.output_shape()
    assert list(maps) == list(shapes) == ALL
    assert [shapes[name].stride for name in ALL] == [2, 4, 8, 16, 32]
    for name in ALL[1:]:
        channels, stride = shapes[name].channels, shapes[name].stride
        assert maps[name].shape == (1, channels, 64 // stride, 96 // stride)
    assert maps["c1"].shape == (1, shapes["c1"].channels, 31, 47)  # TF's VALID stem


def test_scripting_is_refused_with_what_exports_instead() -> None:
    with pytest.raises(NotImplementedError, match="export-model"):
        torch.jit.script(nn.Sequential(backbone(["c5"])))


def test_a_cifar_network_has_its_own_strides() -> None:
    model = backbone(["c0", "c1", "c2"], network="nasnet_a_cifar_6_at_768")
    assert [shape.stride for shape in model.output_shape().values()] == [1, 2, 4]


def test_nothing_above_the_last_map_is_kept() -> None:
    names = {name.split(".")[2] for name, _ in backbone(["c3"]).named_parameters() if ".cells." in name}
    assert names == {"cell_stem_0", "cell_stem_1", "cell_0"}


def test_pyramids_have_p6_and_p7(small_config: Any) -> None:
    faster = build_backbone(small_config("fpn_mobile.yaml"))
    assert faster.size_divisibility == 32
    shapes = {name: shape.stride for name, shape in faster.output_shape().items()}
    assert shapes == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    retina = build_backbone(small_config("retinanet_fpn_large.yaml"))
    maps = retina(torch.randn(1, 3, 128, 64))
    assert {name: shape.stride for name, shape in retina.output_shape().items()} == {f"p{i}": 2**i for i in range(3, 8)}
    assert maps["p7"].shape == (1, 32, 1, 1)
    assert retina.top_block.in_feature == "c5"


def test_a_map_that_is_not_there_cannot_be_frozen() -> None:
    with pytest.raises(ConfigError, match=r"FREEZE_AT.*6"):
        backbone(freeze_at=6)


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 5])
def test_freezing_fixes_what_lies_below_a_map(freeze_at: int) -> None:
    model = backbone(freeze_at=freeze_at).train()
    order = ["stem", "cell_stem_0", "cell_stem_1", "cell_0", "reduction_cell_0", "cell_1", "reduction_cell_1", "cell_2"]
    frozen = order[: [0, 1, 2, 4, 6, 8][freeze_at]]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(2, 3, 64, 64))
    for name, parameter in model.named_parameters():
        part = name.split(".")[2] if ".cells." in name else name.split(".")[1]
        assert parameter.requires_grad == (part not in frozen), name
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    parts = {name.split(".")[2] if ".cells." in name else name.split(".")[1] for name in moved}
    assert parts == set(order) - set(frozen)


@pytest.mark.parametrize(
    ("norm", "kind"), [("FrozenBN", FrozenBatchNorm2d), ("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm)]
)
def test_norms_have_the_network_s_epsilon(norm: str, kind: type[nn.Module]) -> None:
    norms = [m for m in backbone(norm=norm, bn_momentum=0.2).modules() if hasattr(m, "running_mean")]
    assert norms
    assert all(type(m) is kind and m.eps == 1e-3 for m in norms)
    assert norm == "FrozenBN" or all(m.momentum == 0.2 for m in norms)


@torch.no_grad()
def test_all_norms_compute_the_same_in_evaluation() -> None:
    x = torch.randn(1, 3, 64, 64)
    trained = backbone().train()
    trained(torch.randn(4, 3, 64, 64))
    expected = trained.eval()(x)
    for norm in ("FrozenBN", "SyncBN"):
        other = backbone(norm=norm).eval()
        other.load_state_dict(trained.state_dict(), strict=False)
        for name, value in other(x).items():
            torch.testing.assert_close(value, expected[name])


def test_drop_paths_follow_the_iteration() -> None:
    model = NASNetBackbone(build_network(num_cells=1, num_filters=8, norm="BN", drop_path_rate=0.4), ["c3"], 200)

    def progress() -> set[float]:
        return {round(float(m.progress), 4) for m in model.modules() if isinstance(m, ScheduledDropPath)}

    x = torch.randn(2, 3, 64, 64)
    with EventStorage(50):
        model.eval()(x)
        assert progress() == {1.0}  # untouched
        model.train()(x)
        assert progress() == {0.25}
    with EventStorage(900):
        model(x)
        assert progress() == {1.0}


def test_checkpointing_changes_no_gradient() -> None:
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for grad_checkpoint in (False, True):
        model = backbone(grad_checkpoint=grad_checkpoint).train()
        sum(value.square().mean() for value in model(x).values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_a_local_file_of_weights_is_loaded(tmp_path: Path, norm: str) -> None:
    from nasnet_det.models.network import NASNet

    torch.manual_seed(1)
    arguments = {"num_cells": 1, "num_filters": 8}
    source = NASNet(genotype="nasnet_a", stem_channels=32, num_classes=10, **arguments)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    found = build_network(network="nasnet_a_mobile", norm=norm, pretrained=str(tmp_path / "weights.pth"), **arguments)
    expected = source.state_dict()
    shared = [name for name in found.state_dict() if name in expected]
    assert len(shared) > 100
    assert all(torch.equal(found.state_dict()[name], expected[name]) for name in shared)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    from nasnet_det.models.network import NASNet

    torch.save(NASNet(num_cells=1, num_filters=12, num_classes=0).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="shape"):
        build_network(num_cells=1, num_filters=8, pretrained=str(tmp_path / "weights.pth"))


def test_what_cannot_be_built_is_named() -> None:
    with pytest.raises(ConfigError, match="nasnet_a_large"):
        build_network(network="nasnet_b")
    with pytest.raises(ConfigError, match="num_filters"):
        build_network(num_filters=3)
    with pytest.raises(GenotypeError, match=r"no\.json"):
        build_network(genotype="no.json")
    with pytest.raises(ConfigError, match="amoebanet_a"):
        build_network(network="amoebanet_a", num_filters=8, num_cells=1, pretrained="published")
    for norm in ("", "XN"):
        with pytest.raises(ConfigError, match=rf"MODEL\.NASNET\.NORM.*FrozenBN.*'{norm}'"):
            build_network("nasnet_a_mobile", norm=norm)
    with pytest.raises(ConfigError, match="c1, c2, c3, c4, c5"):
        backbone(["res5"])


def test_a_genotype_file_is_read(tmp_path: Path) -> None:
    PUBLISHED["pnasnet_5"].save(tmp_path / "cell.json")
    model = build_network(genotype=str(tmp_path / "cell.json"), num_cells=1, num_filters=8)
    assert model.genotype.cells == PUBLISHED["pnasnet_5"].cells
