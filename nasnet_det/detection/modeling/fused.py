"""The form of a detector for evaluation and prediction: fused, with test-time augmentation, or as trained."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNNWithTTA
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.supported import check_supported
from nasnet_det.fusion import optimize_for_inference


def for_inference(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """Return the model for evaluation and prediction.

    A fused copy if ``MODEL.NASNET.FUSED`` is set; with ``TEST.AUG.ENABLED``, wrapped in detectron2's test-time
    augmentation, whose boxes and masks are merged over ``TEST.AUG.MIN_SIZES`` and flips. Else ``model`` itself.

    Raises:
        ConfigError: for a model that has no such form.
    """
    if cfg.MODEL.NASNET.FUSED:
        model = _fused(model, cfg)
    if cfg.TEST.AUG.ENABLED:
        check_supported(cfg)
        augmented = GeneralizedRCNNWithTTA(cfg, model)
        augmented.training = model.training  # the mode that detectron2 sets again after an evaluation
        return augmented
    return model


def _fused(model: nn.Module, cfg: CfgNode) -> nn.Module:
    if isinstance(model, DistributedDataParallel):  # a copy has no gradients to exchange
        model = model.module
    try:
        return optimize_for_inference(model)
    except ValueError as error:
        raise ConfigError(f"MODEL.NASNET.FUSED: {error}") from None
