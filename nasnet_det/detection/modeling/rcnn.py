"""The paper's detector for detectron2: ``GeneralizedRCNN`` on images resized as TensorFlow 1 does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, build_model, build_proposal_generator
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

from nasnet_det.detection.config import ConfigError, network_arguments
from nasnet_det.detection.modeling import rpn
from nasnet_det.detection.modeling.backbone import build_network
from nasnet_det.detection.modeling.roi_heads import NASNetROIHeads
from nasnet_det.detection.modeling.split import split_network
from nasnet_det.detection.supported import check_numbers, check_supported
from nasnet_det.genotypes.genotype import GenotypeError
from nasnet_det.models.network import NASNet
from nasnet_det.models.stem import least_side
from nasnet_det.models.tf_image import resize_bilinear
from nasnet_det.safe_io.images import ImageError
from nasnet_det.safe_io.values import format_names, one_line
from nasnet_det.weights import WeightsError

#: What detectron2's parts raise for a config.
REFUSALS = (
    AssertionError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


@META_ARCH_REGISTRY.register()
class NASNetRCNN(GeneralizedRCNN):
    """The two-stage detector of the paper's section 4, also for other backbones, proposal generators and heads.

    Images come at their own size (``INPUT.MIN_SIZE_TRAIN`` and ``MIN_SIZE_TEST`` 0) and are resized here, so that every
    caller's images get the same pixels.

    Args:
        image_size: height and width that every image is resized to, aspect ratio not kept; zeros to keep its size.
        kwargs: see detectron2's ``GeneralizedRCNN``.

    Raises:
        ConfigError: for a size, deviations or a format that images cannot have.
    """

    @configurable
    def __init__(self, *, image_size: tuple[int, int] = (0, 0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_numbers("MODEL.NASNET.IMAGE_SIZE", image_size, "image_size")
        check_numbers("MODEL.PIXEL_STD", kwargs["pixel_std"], "pixel_std")
        if self.input_format not in (None, "RGB", "BGR"):
            raise ConfigError(f"input_format is {self.input_format!r}: expected RGB or BGR")
        self.image_size = image_size
        #: The smallest side of images that it takes.
        self.least_side = 1 if all(image_size) else least_side(self.backbone)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read detectron2's own keys and ``MODEL.NASNET.IMAGE_SIZE``; both stages are cut from one network."""
        check_supported(cfg)  # also for detectron2's own scripts
        image_size = tuple(cfg.MODEL.NASNET.IMAGE_SIZE)
        names = (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.ROI_HEADS.NAME)
        if names != ("build_nasnet_first_stage", "NASNetROIHeads"):
            return {**super().from_config(cfg), "image_size": image_size}
        first, second = split_network(build_network(**network_arguments(cfg)), cfg.MODEL.NASNET.DROP_PATH_STEPS)
        return {
            "backbone": first,
            "proposal_generator": build_proposal_generator(cfg, first.output_shape()),
            "roi_heads": NASNetROIHeads(cfg, first.output_shape(), second_stage=second),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "image_size": image_size,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """See detectron2's ``GeneralizedRCNN.forward``."""
        if self.training:
            batched_inputs = [self.resized(one) for one in batched_inputs]
        return super().forward(batched_inputs)

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> Any:
        """See detectron2's ``GeneralizedRCNN.inference``; without postprocessing, too, boxes are in the input images'
        coordinates."""
        resized = [self.resized(one) for one in batched_inputs]
        results = super().inference(resized, detected_instances, do_postprocess)
        if do_postprocess or not all(self.image_size):
            return results
        sizes = [one["image"].shape[-2:] for one in batched_inputs]
        return [detector_postprocess(found, *size) for found, size in zip(results, sizes, strict=True)]

    def resized(self, one: dict[str, Any]) -> dict[str, Any]:
        """Return an input with its image ``(C, H, W)`` and ground truth resized; ``height`` and ``width`` stay."""
        if not all(self.image_size):
            return one
        image = one["image"].to(self.device)
        height, width = image.shape[-2:]
        result = {"height": height, "width": width, **one, "image": resize_bilinear(image, self.image_size)}
        if "instances" in one:
            truth = one["instances"]
            boxes = truth.gt_boxes.clone()
            boxes.scale(self.image_size[1] / width, self.image_size[0] / height)
            result["instances"] = Instances(self.image_size, gt_boxes=boxes, gt_classes=truth.gt_classes)
        return result

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Normalize, pad and batch the images on the model's device.

        Raises:
            ConfigError: for images that a mapper has read in another order of colours.
            ImageError: for images that are narrower than ``least_side``.
        """
        formats = {one.get("image_format", self.input_format) for one in batched_inputs}
        if self.input_format and formats != {self.input_format}:
            raise ConfigError(
                f"the mapper's image_format is {format_names(formats)}, the model's input_format {self.input_format}: "
                "give both the same"
            )
        with torch.no_grad():
            images = super().preprocess_image(batched_inputs)
        height, width = images.tensor.shape[-2:]
        if min(height, width) < self.least_side:
            raise ImageError(f"{width} x {height} pixels are too narrow: a side of {self.least_side} is needed")
        return images


def split_rcnn(
    network: NASNet, roi_heads: Callable[..., NASNetROIHeads], drop_path_steps: int = 250000, **kwargs: Any
) -> NASNetRCNN:
    """Build the paper's detector from one network, for LazyConfig.

    Args:
        network: the whole network, which is cut in two.
        roi_heads: constructor of the heads that takes ``second_stage``, see :func:`roi_heads_later`.
        drop_path_steps: see :func:`nasnet_det.detection.modeling.backbone.advance_drop_path`.
        kwargs: the other arguments of :class:`NASNetRCNN`.

    Raises:
        ConfigError: for a network without a cut, see :func:`nasnet_det.detection.modeling.split.cut_outputs`, or a head
            for another width.
    """
    first, second = split_network(network, drop_path_steps)
    channels, given = first.output_shape()["cut"].channels, kwargs["proposal_generator"].head.conv.in_channels
    if channels != given:
        raise ConfigError(
            f"model.proposal_generator.head.in_channels is {given}, but the network's cut has {channels} channels"
        )
    return NASNetRCNN(backbone=first, roi_heads=roi_heads(second_stage=second), **kwargs)


def roi_heads_later(**kwargs: Any) -> Callable[..., NASNetROIHeads]:
    """Return a constructor of :class:`NASNetROIHeads` that lacks only ``second_stage``, for LazyConfig."""
    return partial(NASNetROIHeads, **kwargs)


roi_heads_later.__signature__ = inspect.signature(NASNetROIHeads)  # type: ignore[attr-defined]


def build_detector(cfg: CfgNode) -> nn.Module:
    """Build the model that a config describes, with random weights except those of ``MODEL.NASNET.PRETRAINED``.

    Raises:
        ConfigError: if it describes none, or asks for what its detector does not do: detectron2's parts check their
            numbers late, or not at all.
        GenotypeError, WeightsError: see :func:`nasnet_det.detection.modeling.backbone.build_network`.
    """
    check_supported(cfg)
    try:
        torch.empty(0, device=cfg.MODEL.DEVICE)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, which PyTorch does not have ({one_line(error)}): set cpu or cuda"
        ) from None
    try:
        model: nn.Module = build_model(cfg)
    except (ConfigError, GenotypeError, WeightsError):
        raise
    except REFUSALS as error:
        raise ConfigError(f"the config describes no detector ({type(error).__name__}: {one_line(error)})") from error
    if empty := [name for name, weights in model.named_parameters() if not weights.numel()]:
        raise ConfigError(
            f"the config describes no detector: {format_names(empty)} would be empty; anchors' sizes and aspect "
            "ratios, classes, channels and resolutions must be at least one"
        )
    for part in model.modules():
        if isinstance(part, DefaultAnchorGenerator):
            rpn.check_anchors(part)
    return model
