"""Backbones for detectron2: the network's maps at every stride, plain or through a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from nasnet_det.detection.config import ConfigError, network_arguments
from nasnet_det.detection.convert.identity import remember_genotype
from nasnet_det.detection.modeling.norms import TFOD, fix_statistics_above_cut, norm_layer
from nasnet_det.detection.supported import check_numbers
from nasnet_det.genotypes.genotype import GenotypeError
from nasnet_det.models.drop_path import set_drop_path_progress
from nasnet_det.models.family import FAMILY
from nasnet_det.models.network import NASNet
from nasnet_det.safe_io.values import format_value
from nasnet_det.weights.published import PRETRAINED, load_published


def build_network(
    network: str = "nasnet_a_mobile",
    genotype: Any = "",
    num_cells: int | Sequence[int] = 0,
    num_filters: int = 0,
    stem_channels: int = 0,
    norm: str = "FrozenBN",
    bn_momentum: float = 0.0,
    pretrained: str = "",
    drop_path_rate: float = 0.0,
    grad_checkpoint: bool = False,
    freeze_at: int = 0,
) -> NASNet:
    """Build a network without classifier for detection.

    Args:
        network: a member of :data:`nasnet_det.models.family.FAMILY`.
        genotype: what :func:`nasnet_det.genotypes.genotype.as_genotype` takes; empty for the network's own.
        num_cells, num_filters, stem_channels: instead of the network's own; 0 for these.
        norm: see :func:`nasnet_det.detection.modeling.norms.norm_layer`.
        bn_momentum: PyTorch's momentum of batch norms; 0 for the network's own.
        pretrained: ``published``, a local file, or empty for random weights.
        drop_path_rate: 1 - ScheduledDropPath's final keep probability.
        grad_checkpoint: see :meth:`NASNet.set_grad_checkpointing`.
        freeze_at: how many of the maps by stride, counted from the stem's, are frozen with everything below them.

    Raises:
        ConfigError: for an unknown network or numbers that make none.
        GenotypeError: for an illegal genotype.
        WeightsError: for weights that are unavailable, damaged or of another network.
    """
    if network not in FAMILY:
        raise ConfigError(f"MODEL.NASNET.NETWORK: expected one of {', '.join(FAMILY)}, got {format_value(network)}")
    check_numbers("MODEL.NASNET.BN_MOMENTUM", bn_momentum, "bn_momentum")
    arguments = FAMILY[network].network_arguments()
    given = {"genotype": genotype, "num_cells": num_cells, "num_filters": num_filters, "stem_channels": stem_channels}
    arguments.update({key: value for key, value in given.items() if value})
    eps, momentum = arguments["bn_eps"], bn_momentum or arguments["bn_momentum"]
    layer = norm_layer(norm, eps, momentum)
    try:
        model = NASNet(**arguments, norm_layer=layer, num_classes=0, drop_path_rate=drop_path_rate)
    except GenotypeError:
        raise
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ConfigError(f"MODEL.NASNET describes an invalid network: {error}") from None
    if norm == TFOD:
        fix_statistics_above_cut(model)
    model.set_grad_checkpointing(grad_checkpoint)
    if pretrained == "published" and network not in PRETRAINED:
        raise ConfigError(
            f"MODEL.NASNET.PRETRAINED is 'published', but no weights of {network} are: {', '.join(PRETRAINED)} have "
            "some; name a local file, or '' for random weights"
        )
    if pretrained:
        load_published(model, network if pretrained == "published" else pretrained)
    freeze_below(model, freeze_at)
    remember_genotype(model)
    return model


def is_published(node: CfgNode) -> bool:
    """Return whether weights are published for the network of a ``MODEL.NASNET`` node."""
    return node.NETWORK in PRETRAINED and not changes_of(node)


def changes_of(node: CfgNode) -> dict[str, Any]:
    """Return what a ``MODEL.NASNET`` node changes of its network's cell and size: the arguments by name."""
    own = FAMILY[node.NETWORK].network_arguments()
    given = {key: getattr(node, key.upper()) for key in ("genotype", "num_cells", "num_filters", "stem_channels")}
    return {key: value for key, value in given.items() if value not in ("", 0, own[key])}


def advance_drop_path(module: nn.Module, steps: int) -> None:
    """Set ScheduledDropPath's progress from detectron2's iteration count, at the start of a forward pass.

    Args:
        module: the module whose paths are dropped.
        steps: iterations until the final probability is reached.

    Raises:
        ConfigError: for fewer than one.
    """
    if steps < 1:
        raise ConfigError(f"MODEL.NASNET.DROP_PATH_STEPS (drop_path_steps) is {steps}: expected at least 1")
    if module.training and has_event_storage():
        set_drop_path_progress(module, get_event_storage().iter / steps)


class NASNetBackbone(Backbone):
    """Backbone of a network's maps by stride: ``c1`` is the stem convolution's (not activated), ``c2`` the first stem
    cell's, and ``c3``, ``c4``, ``c5`` the activated outputs of the three stages. Cells above the last map are removed.

    Args:
        network: the network, which becomes part of the backbone.
        out_features: names of the maps to return.
        drop_path_steps: see :func:`advance_drop_path`.

    Raises:
        ConfigError: for a map that the network does not have.
    """

    def __init__(self, network: NASNet, out_features: Sequence[str], drop_path_steps: int = 250000) -> None:
        super().__init__()
        names = [f"c{info['reduction'].bit_length() - 1}" for info in network.feature_info]
        unknown = [name for name in out_features if name not in names]
        if unknown or not out_features:
            raise ConfigError(f"this network's maps are {', '.join(names)}; OUT_FEATURES asks for {list(out_features)}")
        self._out_features = [name for name in names if name in out_features]
        self._indices = [names.index(name) for name in self._out_features]
        infos = dict(zip(names, network.feature_info, strict=True))
        self._out_feature_channels = {name: infos[name]["num_chs"] for name in self._out_features}
        self._out_feature_strides = {name: infos[name]["reduction"] for name in self._out_features}
        network.prune_intermediate_layers(self._indices)
        self.network, self.drop_path_steps = network, drop_path_steps

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images ``(N, 3, H, W)`` in [-1, 1] to ``{name: (N, channels, H/stride, W/stride)}``, sizes rounded up
        (exact where H and W are multiples of the last stride)."""
        advance_drop_path(self, self.drop_path_steps)
        maps = self.network.forward_intermediates(x, self._indices, stop_early=True, intermediates_only=True)
        return dict(zip(self._out_features, maps, strict=True))

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse ``torch.jit.script``, as of detectron2's ``export_model.py --export-method scripting``.

        Raises:
            NotImplementedError: naming what exports detectors.
        """
        raise NotImplementedError(
            "detectors of this package cannot be scripted: nasnet-det export-model writes them as ONNX or a "
            "torch.export program, and detectron2's --export-method tracing as TorchScript"
        )


def freeze_below(network: NASNet, freeze_at: int) -> None:
    """Freeze the stem (``freeze_at`` >= 1) and the cells up to the map of that number: no gradients, fixed norms.

    Raises:
        ConfigError: for a map that the network does not have.
    """
    if freeze_at < 1:
        return
    if freeze_at > len(network.feature_ends):
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT (freeze_at) is {freeze_at}: expected 0 for none, to {len(network.feature_ends)} "
            "for all of the network"
        )
    end = network.feature_ends[freeze_at - 1]
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
    """Build the plain backbone of ``MODEL.NASNET.OUT_FEATURES``."""
    del input_shape
    node = cfg.MODEL.NASNET
    return NASNetBackbone(build_network(**network_arguments(cfg)), node.OUT_FEATURES, node.DROP_PATH_STEPS)


def _fpn(cfg: CfgNode, bottom_up: NASNetBackbone, top_block: nn.Module) -> FPN:
    known, wanted = list(bottom_up.output_shape()), list(cfg.MODEL.FPN.IN_FEATURES)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        problem = f"the backbone has no {unknown[0]}" if unknown else "it is empty"
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES: {problem}; set MODEL.FPN.IN_FEATURES {known} (ResNet's "
            "res2 to res5 are c2 to c5, and images are RGB with PIXEL_MEAN and PIXEL_STD 127.5, as in base_fpn.yaml)"
        )
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
    """Build an FPN of ``p2`` to ``p5`` and a subsampled ``p6``, for Faster, Mask and Cascade R-CNN."""
    return _fpn(cfg, build_nasnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_nasnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build an FPN of ``p3`` to ``p5``, with ``p6`` and ``p7`` convolved from ``c5``, for RetinaNet."""
    bottom_up = build_nasnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["c5"].channels
    return _fpn(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, in_feature="c5"))
