"""ScheduledDropPath: paths are dropped per example, more often in higher cells and later in training (paper A.5).

The rule is TF-slim's ``nasnet_utils.py`` version ``v3``: the keep probability of a path is
``1 - progress * layer_ratio * (1 - p_keep)``, with ``layer_ratio = (cell number + 1) / (all cells)`` and
``progress = min(1, step / total_training_steps)``; a kept path is divided by its keep probability.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScheduledDropPath(nn.Module):
    """Drop paths of one cell.

    Args:
        drop_prob: the probability at the end of training, ``layer_ratio * (1 - p_keep)``.
    """

    progress: Tensor

    def __init__(self, drop_prob: float, device: torch.device | str | None = None) -> None:
        super().__init__()
        if not 0.0 <= drop_prob < 1.0:
            raise ValueError(f"drop_prob must be in [0, 1), got {drop_prob}")
        self.drop_prob = drop_prob
        # A tensor, so that a compiled step is not compiled again as training proceeds. Not part of a checkpoint:
        # the training loop sets it from the step number. The default 1 gives the final probability, as in timm.
        self.register_buffer("progress", torch.ones((), device=device), persistent=False)

    def init_non_persistent_buffers(self) -> None:
        """Set the final probability again: timm's name for what ``to_empty`` needs and no state dict has."""
        self.progress.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Drop each example of ``(N, C, H, W)`` with the current probability, in training only."""
        factors = self.draw(x)
        return x if factors is None else x * factors

    def draw(self, x: Tensor) -> Tensor | None:
        """Return what to multiply each example of ``(N, C, H, W)`` by, ``(N, 1, 1, 1)``; None if none is dropped."""
        if not self.training or self.drop_prob == 0.0:
            return None
        keep = (1.0 - self.progress * self.drop_prob).to(x.dtype)
        kept = torch.floor(keep + torch.rand((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device))
        return kept / keep

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.4f}"


def set_drop_path_progress(model: nn.Module, progress: float) -> None:
    """Set how far training has come, 0 to 1 (``step / total_training_steps``), for every path of ``model``."""
    progress = min(1.0, max(0.0, progress))
    for module in model.modules():
        if isinstance(module, ScheduledDropPath):
            module.progress.fill_(progress)
