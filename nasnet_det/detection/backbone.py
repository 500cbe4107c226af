"""Backbones for detectron2: the network's maps at every stride, plain or through a feature pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from nasnet_det.detection.config import network_arguments
from nasnet_det.drop_path import set_drop_path_progress
from nasnet_det.network import NASNet
from nasnet_det.timm_models import FAMILY


def build_network(
    network: str = "nasnet_a_mobile",
    genotype: Any = "",
    num_cells: int | Sequence[int] = 0,
    num_filters: int = 0,
    stem_channels: int = 0,
    norm: str = "FrozenBN",
    pretrained: str = "",
    drop_path_rate: float = 0.0,
    grad_checkpoint: bool = False,
) -> NASNet:
    """A network without classifier for detection.

    Args:
        network: a member of :data:`nasnet_det.timm_models.FAMILY`.
        genotype: what :func:`nasnet_det.genotypes.as_genotype` takes; empty for the network's own.
        num_cells, num_filters, stem_channels: instead of the network's own; 0 for these.
        norm: ``FrozenBN``, ``BN``, ``SyncBN``, or another name that detectron2's ``get_norm`` knows.
        pretrained: ``published``, a local file, or empty for random weights.
        drop_path_rate: 1 - ScheduledDropPath's final keep probability.
        grad_checkpoint: see :meth:`NASNet.set_grad_checkpointing`.

    Raises:
        ValueError: for an unknown network or numbers that make none.
        GenotypeError: for an illegal genotype.
    """
    if network not in FAMILY:
        raise ValueError(f"MODEL.NASNET.NETWORK is one of {', '.join(FAMILY)}, not {network!r}")
    arguments = FAMILY[network].network_arguments()
    given = {
        "genotype": genotype,
        "num_cells": num_cells,
        "num_filters": num_filters,
        "stem_channels": stem_channels,
    }
    arguments.update({key: value for key, value in given.items() if value})
    eps, momentum = arguments["bn_eps"], arguments["bn_momentum"]
    model = NASNet(
        **arguments, norm_layer=norm_layer(norm, eps, momentum), num_classes=0, drop_path_rate=drop_path_rate
    )
    model.set_grad_checkpointing(grad_checkpoint)
    if pretrained:
        raise NotImplementedError("pretrained weights")
    return model


def norm_layer(norm: str, eps: float, momentum: float) -> Callable[[int], nn.Module]:
    """What makes normalization layers of one kind; batch norms of every kind have the network's own numbers."""
    if norm == "FrozenBN":
        return partial(FrozenBatchNorm2d, eps=eps)
    if norm == "BN":
        return partial(nn.BatchNorm2d, eps=eps, momentum=momentum)
    if norm == "SyncBN":
        return partial(nn.SyncBatchNorm, eps=eps, momentum=momentum)
    return partial(get_norm, norm)


class ScheduledBackbone(Backbone):
    """A backbone whose paths are dropped by detectron2's own iteration count.

    Args:
        drop_path_steps: iterations until ScheduledDropPath reaches its final probability.
    """

    def __init__(self, drop_path_steps: int) -> None:
        super().__init__()
        self.drop_path_steps = drop_path_steps

    def advance(self) -> None:
        """Set the drop paths' progress; to be called at the start of every forward pass."""
        if self.training and has_event_storage():
            set_drop_path_progress(self, get_event_storage().iter / self.drop_path_steps)


class NASNetBackbone(ScheduledBackbone):
    """A network's maps by stride: ``c1`` is the stem convolution's (not activated), ``c2`` the first stem cell's, and
    ``c3``, ``c4``, ``c5`` the activated ends of the three stages. Nothing above the last map asked for is built.

    Args:
        network: a network that this backbone takes over.
        out_features: the maps to give.
        freeze_at: how many of all maps, counted from ``c1``, are frozen with everything below them; 0 for none.
        drop_path_steps: see :class:`ScheduledBackbone`.

    Raises:
        ValueError: for a map that the network does not have.
    """

    def __init__(
        self, network: NASNet, out_features: Sequence[str], freeze_at: int = 0, drop_path_steps: int = 250000
    ) -> None:
        super().__init__(drop_path_steps)
        names = [f"c{info['reduction'].bit_length() - 1}" for info in network.feature_info]
        unknown = [name for name in out_features if name not in names]
        if unknown or not out_features:
            raise ValueError(f"this network's maps are {', '.join(names)}; OUT_FEATURES asks for {list(out_features)}")
        self._out_features = [name for name in names if name in out_features]
        self._indices = [names.index(name) for name in self._out_features]
        infos = dict(zip(names, network.feature_info, strict=True))
        self._out_feature_channels = {name: infos[name]["num_chs"] for name in self._out_features}
        self._out_feature_strides = {name: infos[name]["reduction"] for name in self._out_features}
        network.prune_intermediate_layers(self._indices)
        self.network = network
        freeze_below(network, freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images ``(N, 3, H, W)`` in [-1, 1] to ``{name: (N, channels, H/stride, W/stride)}``, sizes rounded up
        (exact where H and W are multiples of the last stride)."""
        self.advance()
        maps = self.network.forward_intermediates(x, self._indices, stop_early=True, intermediates_only=True)
        return dict(zip(self._out_features, maps, strict=True))


def freeze_below(network: NASNet, freeze_at: int) -> None:
    """Freeze the stem (``freeze_at`` >= 1) and the cells up to the map of that number: no gradients, fixed norms."""
    if freeze_at < 1:
        return
    end = network.feature_ends[min(freeze_at, len(network.feature_ends)) - 1]
    frozen = {"stem": network.stem, **{plan.name: network.cells[plan.name] for plan in network.plan[:end]}}
    for name, module in frozen.items():
        module = FrozenBatchNorm2d.convert_frozen_batchnorm(module)
        for parameter in module.parameters():
            parameter.requires_grad = False
        if name == "stem":
            network.stem = module
        else:
            network.cells[name] = module


@BACKBONE_REGISTRY.register()
def build_nasnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NASNetBackbone:
    """The plain maps ``MODEL.NASNET.OUT_FEATURES``."""
    del input_shape
    return NASNetBackbone(
        build_network(**network_arguments(cfg)),
        cfg.MODEL.NASNET.OUT_FEATURES,
        cfg.MODEL.BACKBONE.FREEZE_AT,
        cfg.MODEL.NASNET.DROP_PATH_STEPS,
    )


def _fpn(cfg: CfgNode, bottom_up: NASNetBackbone, top_block: nn.Module) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_nasnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``p2`` to ``p5`` and a subsampled ``p6``, for Faster and Cascade R-CNN."""
    return _fpn(cfg, build_nasnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_nasnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``p3`` to ``p5``, and ``p6`` and ``p7`` convolved from ``c5``, for RetinaNet."""
    bottom_up = build_nasnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["c5"].channels
    return _fpn(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, in_feature="c5"))
