"""The network cut in two below its last reduction: one half runs once per image, the other once per proposal.

Source: TF Object Detection API ``models/faster_rcnn_nas_feature_extractor.py``, which cuts NASNet-A large after Cell_11
and concatenates Cell_10 and Cell_11. The rule behind it holds for any genotype, N and F: the upper half reads what its
cells read from below, the earlier output first. The mobile detector, of which no configuration was released, follows by
the same rule (it is derived, not published): Cell_6 and Cell_7.
"""

from __future__ import annotations

import copy
from collections import deque

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from nasnet_det.detection.config import ConfigError, network_arguments
from nasnet_det.detection.modeling.backbone import advance_drop_path, build_network
from nasnet_det.models.network import NASNet

#: The name of the first stage's only feature map.
CUT = "cut"


def cut_outputs(network: NASNet) -> list[int]:
    """Return the numbers of the outputs below the cut that cells above it read, the earliest first.

    Raises:
        ConfigError: for a network of one stage, or if those outputs differ in size and cannot form one map.
    """
    try:
        cut = network.cut()
    except ValueError as error:
        raise ConfigError(f"MODEL.NASNET: {error}; NUM_CELLS needs at least two stages") from None
    above = network.plan[cut:]
    read = {number for plan in above for number in (plan.current, plan.previous) if number is not None}
    if network.genotype.passes_all:
        read = {plan.current for plan in above}
    numbers = sorted(number for number in read if number <= cut)
    if len({shape.level for number in numbers for shape in network.out_shapes[number]}) > 1:
        raise ConfigError(
            "MODEL.NASNET: the outputs that the upper half reads differ in size, so this network has no split detector"
        )
    return numbers


class FirstStage(Backbone):
    """The lower half, whose one map ``cut`` concatenates the outputs that the upper half reads, not activated.

    Args:
        network: the lower half, see :func:`split_network`.
        outputs: the numbers of the outputs to concatenate.
        drop_path_steps: see :func:`nasnet_det.detection.modeling.backbone.advance_drop_path`.
    """

    def __init__(self, network: NASNet, outputs: list[int], drop_path_steps: int) -> None:
        super().__init__()
        self.network, self.cut_outputs, self.drop_path_steps = network, outputs, drop_path_steps
        shapes = [shape for number in outputs for shape in network.out_shapes[number]]
        self._out_features = [CUT]
        self._out_feature_channels = {CUT: sum(shape.channels for shape in shapes)}
        self._out_feature_strides = {CUT: 2 ** shapes[-1].level // shapes[-1].dilation}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images ``(N, 3, H, W)`` in [-1, 1] to ``{"cut": (N, channels, H/16, W/16)}``, sizes rounded up."""
        advance_drop_path(self, self.drop_path_steps)
        outputs = {0: self.network.forward_stem(x)}
        kept = {number: states for number, states in outputs.items() if number in self.cut_outputs}
        for number, states in self.network.run_cells(outputs, 0, len(self.network.plan)):
            if number in self.cut_outputs:
                kept[number] = states
        return {CUT: torch.cat([state for number in self.cut_outputs for state in kept[number]], dim=1)}


class SecondStage(nn.Module):
    """The upper half, for crops of the first stage's map.

    Args:
        network: the upper half, see :func:`split_network`.
        outputs: the numbers of the outputs that the crops concatenate.
        drop_path_steps: see :func:`nasnet_det.detection.modeling.backbone.advance_drop_path`.
    """

    def __init__(self, network: NASNet, outputs: list[int], drop_path_steps: int) -> None:
        super().__init__()
        self.network, self.cut_outputs, self.drop_path_steps = network, outputs, drop_path_steps
        self.in_channels = [shape.channels for number in outputs for shape in network.out_shapes[number]]
        self.out_channels = network.num_features

    def forward(self, x: Tensor) -> Tensor:
        """Map crops ``(N, channels, S, S)`` to activated features ``(N, num_features, ceil(S/2), ceil(S/2))``."""
        advance_drop_path(self, self.drop_path_steps)
        states = iter(x.split(self.in_channels, dim=1))
        outputs = {number: tuple(next(states) for _ in self.network.out_shapes[number]) for number in self.cut_outputs}
        first, last = self.network.plan[0], self.network.plan[-1]
        # A deque of one, so that no earlier output is kept alive.
        _, output = deque(self.network.run_cells(outputs, first.current, last.output), maxlen=1).pop()
        return self.network.act(torch.cat(output, dim=1))


def split_network(network: NASNet, drop_path_steps: int = 250000) -> tuple[FirstStage, SecondStage]:
    """Cut a network in two: each half's plan and cells are its own, and no weight is copied.

    Args:
        network: the whole network, which becomes the first stage's half.
        drop_path_steps: see :func:`nasnet_det.detection.modeling.backbone.advance_drop_path`.

    Raises:
        ConfigError: see :func:`cut_outputs`.
    """
    outputs, cut, cells = cut_outputs(network), network.cut(), network.cells
    network.cells = nn.ModuleDict()
    upper = copy.deepcopy(network)
    upper.stem = nn.Identity()
    for half, plan in ((upper, network.plan[cut:]), (network, network.plan[:cut])):
        half.plan = plan
        half.cells = nn.ModuleDict({one.name: cells[one.name] for one in plan})
    return FirstStage(network, outputs, drop_path_steps), SecondStage(upper, outputs, drop_path_steps)


@BACKBONE_REGISTRY.register()
def build_nasnet_first_stage(cfg: CfgNode, input_shape: ShapeSpec) -> FirstStage:
    """Build the first stage alone; ``NASNetRCNN`` builds both stages from one network."""
    del input_shape
    return split_network(build_network(**network_arguments(cfg)), cfg.MODEL.NASNET.DROP_PATH_STEPS)[0]
