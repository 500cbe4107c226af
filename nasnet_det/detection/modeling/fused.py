"""A detector in the form that infers faster, if its config asks for it."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nasnet_det.detection.config import ConfigError
from nasnet_det.fusion import optimize_for_inference


def for_inference(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """What to evaluate and predict with: ``model``, or a copy of it in fused form if ``MODEL.NASNET.FUSED`` is set.

    Raises:
        ConfigError: if it is set for a model without a network of this package.
    """
    if not cfg.MODEL.NASNET.FUSED:
        return model
    if isinstance(model, DistributedDataParallel):  # a copy has no gradients to exchange
        model = model.module
    try:
        return optimize_for_inference(model)
    except ValueError as error:
        raise ConfigError(f"MODEL.NASNET.FUSED: {error}") from None
