"""Optimizers: SGD as the TF Object Detection API trains ``faster_rcnn_nas``, and AdamW for short trainings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from detectron2.solver.build import GradientClipType, get_default_optimizer_params
from torch import nn

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.engine.run_folder import describe_records, warn_of_other_data
from nasnet_det.detection.supported import check_numbers
from nasnet_det.models.network import NASNet


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build detectron2's optimizer; without weight decay of the heads if ``MODEL.NASNET.DECAY_HEADS`` is off."""
    unclipped = cfg.clone()
    unclipped.defrost()  # train_net freezes its config
    unclipped.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = with_clipping(build_detectron2_optimizer(unclipped, model), cfg)
    if not cfg.MODEL.NASNET.DECAY_HEADS:
        optimizer.param_groups = without_head_decay(optimizer.param_groups, model)
    return optimizer


def optimizer_params(model: nn.Module, decay_heads: bool = True, **kwargs: Any) -> list[dict[str, Any]]:
    """Return detectron2's parameter groups, for LazyConfig.

    Args:
        model: the detector.
        decay_heads: whether layers outside the network get weight decay.
        kwargs: see detectron2's ``get_default_optimizer_params``.

    Raises:
        ConfigError: for rates, factors or decays that are negative or no numbers.
    """
    for name, value in kwargs.items():
        if isinstance(value, (int, float)):
            check_numbers(f"SOLVER.{name.upper()}", value, f"optimizer.params.{name}")
    groups = get_default_optimizer_params(model, **kwargs)
    return groups if decay_heads else without_head_decay(groups, model)


def without_head_decay(groups: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """Split parameter groups so that only parameters of the networks of cells have weight decay."""
    networks = (module for module in model.modules() if isinstance(module, NASNet))
    decayed = {parameter for network in networks for parameter in network.parameters()}
    found = []
    for group in groups:
        inside = [parameter for parameter in group["params"] if parameter in decayed]
        outside = [parameter for parameter in group["params"] if parameter not in decayed]
        found += [{**group, "params": inside}] if inside else []
        found += [{**group, "params": outside, "weight_decay": 0.0}] if outside else []
    return found


def clipped_sgd(
    params: Iterable[Any], lr: float, momentum: float, weight_decay: float, max_norm: float, data: Sequence[Record] = ()
) -> torch.optim.SGD:
    """Build SGD that first scales each gradient tensor down to a norm of ``max_norm``, for LazyConfig.

    detectron2's YAML configs do the same by ``SOLVER.CLIP_GRADIENTS`` (``norm``), TF-slim by ``clip_gradient_norms``.

    Args:
        params, lr, momentum, weight_decay: of PyTorch's SGD.
        max_norm: the longest that a gradient tensor may be.
        data: the training records: the optimizer's state, the part of a checkpoint that detectron2's script lets it
            have, tells them from others, and a run that is resumed on others warns.

    Raises:
        ConfigError: for numbers with which nothing is learnt.
    """
    check_numbers("SOLVER.BASE_LR", lr, "optimizer.lr")
    check_numbers("SOLVER.MOMENTUM", momentum, "optimizer.momentum")
    check_numbers("SOLVER.WEIGHT_DECAY", weight_decay, "optimizer.weight_decay")
    _check_limit("optimizer.max_norm", max_norm)
    optimizer = torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
    optimizer.register_step_pre_hook(lambda *_: clip_each(optimizer, max_norm))
    if data:
        told = describe_records(data)
        optimizer.register_state_dict_post_hook(lambda _, state: {**state, "data": told})
        optimizer.register_load_state_dict_pre_hook(
            lambda _, state: warn_of_other_data("the run's last checkpoint", state.get("data"), told)
        )
    return optimizer


def adamw(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return AdamW with the rate, the decay and the clipping of ``cfg.SOLVER``; norms are not decayed.

    From random weights it needs a tenth of the steps that detectron2's SGD needs.
    """
    parameters = get_default_optimizer_params(model, base_lr=cfg.SOLVER.BASE_LR, weight_decay_norm=0.0)
    # A fused step on a GPU would leave the scale of mixed precision in the gradients that are clipped.
    fused = cfg.MODEL.DEVICE == "cpu"
    optimizer = torch.optim.AdamW(parameters, cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, fused=fused)
    return with_clipping(optimizer, cfg)


def with_clipping(optimizer: torch.optim.Optimizer, cfg: CfgNode) -> torch.optim.Optimizer:
    """Let an optimizer clip as ``cfg.SOLVER.CLIP_GRADIENTS`` says.

    detectron2 clips one tensor after another, which takes as long as a tenth of a step; the result here is the same.

    Raises:
        ConfigError: for a limit that leaves no gradient, or turns them all round.
    """
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if not clipping.ENABLED:
        return optimizer
    _check_limit("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", clipping.CLIP_VALUE)
    if GradientClipType(clipping.CLIP_TYPE) is GradientClipType.NORM:
        clip = partial(clip_each, optimizer, clipping.CLIP_VALUE, clipping.NORM_TYPE)
    else:
        clip = partial(clip_values, optimizer, clipping.CLIP_VALUE)
    optimizer.register_step_pre_hook(lambda *_: clip())
    return optimizer


def _check_limit(key: str, limit: float) -> None:
    if not limit > 0:
        raise ConfigError(f"{key} is {limit}, with which nothing is learnt: expected a number above 0")


@torch.no_grad()
def clip_each(optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float = 2.0) -> None:
    """Scale each gradient down to a norm of ``max_norm``, as ``torch.nn.utils.clip_grad_norm_`` of each does."""
    gradients = [parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None]
    if gradients:
        norms = torch.stack(torch._foreach_norm(gradients, norm_type))
        torch._foreach_mul_(gradients, list((max_norm / (norms + 1e-6)).clamp(max=1.0)))


def clip_values(optimizer: torch.optim.Optimizer, largest: float) -> None:
    """Clip each value of the gradients to ``-largest`` to ``largest``."""
    torch.nn.utils.clip_grad_value_(_parameters(optimizer), largest)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
