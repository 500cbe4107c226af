"""Stochastic gradient descent as the TF Object Detection API trains with it, for LazyConfig."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


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
