"""The paper's detector for detectron2: ``GeneralizedRCNN`` on images resized as TensorFlow 1 does."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.modeling import split
from nasnet_det.detection.modeling.roi_heads import NASNetROIHeads
from nasnet_det.detection.modeling.rpn import NASNetRPN
from nasnet_det.genotypes.genotype import GenotypeError
from nasnet_det.models.tf_image import resize_bilinear
from nasnet_det.weights import WeightsError

del split  # imported for what it registers


@META_ARCH_REGISTRY.register()
class NASNetRCNN(GeneralizedRCNN):
    """The two-stage detector of the paper's section 4; any backbone, proposal generator and heads of detectron2's fit.

    Images come at their own size (``INPUT.MIN_SIZE_TRAIN`` and ``MIN_SIZE_TEST`` 0) and are resized here, so that every
    way into the model sees the same pixels.

    Args:
        image_size: height and width that every image is resized to, aspect not kept; zeros to leave it as it comes.
        kwargs: see detectron2's ``GeneralizedRCNN``.
    """

    @configurable
    def __init__(self, *, image_size: tuple[int, int] = (0, 0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        if isinstance(self.proposal_generator, NASNetRPN) and isinstance(self.roi_heads, NASNetROIHeads):
            self.proposal_generator.fixed_size_on = ("cuda",)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """detectron2's own keys, and ``MODEL.NASNET.IMAGE_SIZE``."""
        height, width = cfg.MODEL.NASNET.IMAGE_SIZE
        return {**super().from_config(cfg), "image_size": (height, width)}

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
        """See detectron2's ``GeneralizedRCNN.inference``; before postprocessing, too, boxes lie in the images given."""
        resized = [self.resized(one) for one in batched_inputs]
        results = super().inference(resized, detected_instances, do_postprocess)
        if do_postprocess or not all(self.image_size):
            return results
        sizes = [one["image"].shape[-2:] for one in batched_inputs]
        return [detector_postprocess(found, *size) for found, size in zip(results, sizes, strict=True)]

    def resized(self, one: dict[str, Any]) -> dict[str, Any]:
        """One input with its image ``(C, H, W)`` resized, its ground truth with it; results keep the image's size."""
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
        """Normalize, pad and batch; on the model's device."""
        with torch.no_grad():
            return super().preprocess_image(batched_inputs)


def build_detector(cfg: CfgNode) -> nn.Module:
    """The model that a config describes; its weights are newly drawn, but for those of ``MODEL.NASNET.PRETRAINED``.

    Raises:
        ConfigError: if it describes none: detectron2's parts check their numbers late, or not at all.
        GenotypeError, WeightsError: see :func:`nasnet_det.detection.modeling.backbone.build_network`.
    """
    try:
        return build_model(cfg)
    except (ConfigError, GenotypeError, WeightsError):
        raise
    except (AssertionError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"the config describes no detector ({type(error).__name__}: {reason})") from error
