"""The network cut in two below its last reduction: one half runs once an image, the other once a proposal.

Source: TF Object Detection API ``models/faster_rcnn_nas_feature_extractor.py``, which cuts NASNet-A large after Cell_11
and hands on the concatenation of Cell_10 and Cell_11. The rule behind it holds for any genotype, N and F: the upper
half is given what its cells read from below, the earlier output first. The mobile detector, of which no configuration
was released, follows by the same rule (it is derived, not published): Cell_6 and Cell_7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from nasnet_det.detection.config import ConfigError, network_arguments
from nasnet_det.detection.modeling.backbone import advance_drop_path, build_network
from nasnet_det.models.network import CellPlan, NASNet

#: The name of the lower half's only map.
CUT = "cut"


def cut_outputs(network: NASNet) -> list[int]:
    """The outputs below the cut that cells above it read, the earliest first.

    Raises:
        ValueError: for a network of one stage.
        ConfigError: if they differ in size, so that they cannot make one map.
    """
    above = network.plan[network.cut :]
    read = {number for plan in above for number in (plan.current, plan.previous) if number is not None}
    if network.genotype.passes_all:
        read = {plan.current for plan in above}
    numbers = sorted(number for number in read if number <= network.cut)
    if len({shape.level for number in numbers for shape in network.out_shapes[number]}) > 1:
        raise ConfigError("the outputs that the upper half reads differ in size: this network cannot be cut there")
    return numbers


def handed_channels(network: NASNet) -> list[int]:
    """The channels of each state handed on, in order."""
    return [shape.channels for number in cut_outputs(network) for shape in network.out_shapes[number]]


class FirstStage(Backbone):
    """The lower half: its one map, ``cut``, is the concatenation of what the upper half reads, not activated.

    Args:
        network: a network that this half takes over.
        drop_path_steps: see :func:`nasnet_det.detection.modeling.backbone.advance_drop_path`.
    """

    def __init__(self, network: NASNet, drop_path_steps: int = 250000) -> None:
        super().__init__()
        self.drop_path_steps = drop_path_steps
        self.cut_outputs, self.stop = cut_outputs(network), network.cut
        self._out_features = [CUT]
        self._out_feature_channels = {CUT: sum(handed_channels(network))}
        shape = network.out_shapes[network.cut][0]
        self._out_feature_strides = {CUT: 2**shape.level // shape.dilation}
        _remove(network, network.plan[network.cut :])
        self.network = network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images ``(N, 3, H, W)`` in [-1, 1] to ``{"cut": (N, channels, H/16, W/16)}``, sizes rounded up."""
        advance_drop_path(self, self.drop_path_steps)
        outputs = {0: self.network.forward_stem(x)}
        kept = dict(outputs)
        for number, states in self.network.run_cells(outputs, 0, self.stop):
            if number in self.cut_outputs:
                kept[number] = states
        return {CUT: torch.cat([state for number in self.cut_outputs for state in kept[number]], dim=1)}


class SecondStage(nn.Module):
    """The upper half, for crops of the lower half's map.

    Args:
        network: a network that this half takes over.
        drop_path_steps: see :func:`nasnet_det.detection.modeling.backbone.advance_drop_path`.
    """

    def __init__(self, network: NASNet, drop_path_steps: int = 250000) -> None:
        super().__init__()
        self.drop_path_steps = drop_path_steps
        self.cut_outputs, self.start = cut_outputs(network), network.cut
        self.in_channels, self.out_channels = handed_channels(network), network.num_features
        _remove(network, network.plan[: network.cut])
        network.stem = nn.Identity()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Maps crops ``(N, channels, S, S)`` to activated features ``(N, num_features, ceil(S/2), ceil(S/2))``."""
        advance_drop_path(self, self.drop_path_steps)
        states = iter(x.split(self.in_channels, dim=1))
        outputs = {number: tuple(next(states) for _ in self.network.out_shapes[number]) for number in self.cut_outputs}
        # A deque of one, so that no earlier output is kept alive.
        _, last = deque(self.network.run_cells(outputs, self.start, len(self.network.plan)), maxlen=1).pop()
        return self.network.act(torch.cat(last, dim=1))


def _remove(network: NASNet, plans: Iterable[CellPlan]) -> None:
    for plan in plans:
        del network.cells[plan.name]


@BACKBONE_REGISTRY.register()
def build_nasnet_first_stage(cfg: CfgNode, input_shape: ShapeSpec) -> FirstStage:
    """The single map that the paper's detector needs."""
    del input_shape
    return FirstStage(build_network(**network_arguments(cfg)), cfg.MODEL.NASNET.DROP_PATH_STEPS)
