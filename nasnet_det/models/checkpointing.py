"""Gradient checkpointing of a cell: its inputs and outputs are stored, the rest is recomputed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(cell: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """Return ``cell(*inputs)`` without storing its intermediate results for the backward pass."""
    if torch.compiler.is_compiling():  # a compiled step writes running statistics once, and takes no context
        return checkpoint(cell, *inputs, use_reentrant=False)
    return checkpoint(cell, *inputs, use_reentrant=False, context_fn=partial(_contexts, cell))


@contextmanager
def _frozen_statistics(cell: nn.Module) -> Iterator[None]:
    """Run without updating batch norm's running statistics: the recomputation of a checkpoint is not a new batch."""
    norms = [m for m in cell.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)


def _contexts(cell: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _frozen_statistics(cell)
