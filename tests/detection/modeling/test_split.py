"""The two halves of a network, put together again, are the network: for any genotype and wiring."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.modeling.backbone import build_network
from nasnet_det.detection.modeling.split import CUT, cut_outputs, split_network
from nasnet_det.genotypes.genotype import Block, CellGenotype, Genotype
from nasnet_det.models.network import NASNet

BLOCKS = (Block(0, 1, "sep_conv_3x3", "identity"), Block(0, 2, "max_pool_3x3", "conv_1x1"))
PASSES_ALL = Genotype(CellGenotype(BLOCKS, (2, 3)), CellGenotype(BLOCKS, (2, 3)), passes_all=True)

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("large", {"network": "nasnet_a_large", "num_cells": 2}),
    ("mobile", {"network": "nasnet_a_mobile", "num_cells": 2}),
    ("one cell a stage", {"network": "nasnet_a_large", "num_cells": 1}),
    ("uneven stages", {"network": "pnasnet_5_large", "num_cells": (2, 1, 3)}),
    ("cifar stem", {"network": "darts_v2_cifar", "num_cells": 1}),
    ("two stages", {"network": "nasnet_a_cifar_6_at_768", "num_cells": (1, 1)}),
    ("all states passed on", {"network": "nasnet_a_mobile", "genotype": PASSES_ALL, "num_cells": 2}),
]


def network(**arguments: Any) -> NASNet:
    torch.manual_seed(0)
    return build_network(**{"num_filters": 8, "norm": "BN", **arguments}).eval()


@pytest.mark.parametrize("arguments", [entry[1] for entry in NETWORKS], ids=[entry[0] for entry in NETWORKS])
@torch.no_grad()
def test_the_halves_make_the_whole(arguments: dict[str, Any]) -> None:
    whole = network(**arguments)
    lower, upper = split_network(network(**arguments))
    x = torch.randn(2, 3, 65, 50)
    cut = lower(x)[CUT]
    shape = lower.output_shape()[CUT]
    assert cut.shape[1] == shape.channels == sum(upper.in_channels)
    top = whole.forward_features(x)
    assert torch.equal(upper(cut), top)
    assert upper.out_channels == top.shape[1]
    assert top.shape[-1] == -(-cut.shape[-1] // 2)
    # An ImageNet stem's first convolution has no padding.
    size, stride = (50, shape.stride) if "cifar" in arguments["network"] else ((50 - 1) // 2, shape.stride // 2)
    assert cut.shape[-1] == -(-size // stride)


def test_no_weight_is_held_twice() -> None:
    whole = network(num_cells=2)
    parameters, cells = dict(whole.named_parameters()), [plan.name for plan in whole.plan]
    lower, upper = (half.network for half in split_network(whole))
    halves = [dict(half.named_parameters()) for half in (lower, upper)]
    assert not halves[0].keys() & halves[1].keys()
    assert all(value is parameters.pop(name) for half in halves for name, value in half.items())
    assert not parameters
    for half in (lower, upper):
        assert [plan.name for plan in half.plan] == list(half.cells)
    assert [*lower.cells, *upper.cells] == cells


def test_the_published_networks_hand_on_what_tensorflow_does() -> None:
    large, mobile = (build_network(network=f"nasnet_a_{size}", num_filters=4) for size in ("large", "mobile"))
    assert [large.plan[number - 1].name for number in cut_outputs(large)] == ["cell_10", "cell_11"]
    assert [mobile.plan[number - 1].name for number in cut_outputs(mobile)] == ["cell_6", "cell_7"]


def test_gradients_reach_every_weight() -> None:
    lower, upper = split_network(network(num_cells=1).train())
    upper(lower(torch.randn(2, 3, 64, 64))[CUT]).square().mean().backward()
    assert all(parameter.grad is not None for half in (lower, upper) for parameter in half.parameters())


def test_a_network_of_one_stage_is_refused() -> None:
    with pytest.raises(ConfigError, match="NUM_CELLS"):
        split_network(network(num_cells=(2,)))
