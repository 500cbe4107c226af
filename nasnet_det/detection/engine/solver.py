"""Optimizers: SGD as the TF Object Detection API trains with it, for LazyConfig, and AdamW for short trainings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping


def clipped_sgd(
    params: Iterable[Any], lr: float, momentum: float, weight_decay: float, max_norm: float
) -> torch.optim.SGD:
    """SGD that first scales each gradient tensor down to a norm of ``max_norm``.

    detectron2's YAML configs do the same by ``SOLVER.CLIP_GRADIENTS`` (``norm``), TF by ``clip_gradient_norms``.
    """
    optimizer = torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def clip(optimizer: torch.optim.Optimizer, arguments: Any, keywords: Any) -> None:
        del arguments, keywords
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                torch.nn.utils.clip_grad_norm_(parameter, max_norm)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def adamw(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return AdamW with the rate, the decay and the clipping of ``cfg.SOLVER``; norms are not decayed.

    From random weights it needs a tenth of the steps that detectron2's SGD needs.
    """
    parameters = get_default_optimizer_params(model, base_lr=cfg.SOLVER.BASE_LR, weight_decay_norm=0.0)
    optimizer = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return optimizer(parameters, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)
