"""Random maps, a number of threads, and a mark for tests of compiled functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from nasnet_det.models import cpu_kernels

LAYOUTS = [torch.channels_last, torch.contiguous_format]
compiled = pytest.mark.skipif(
    not cpu_kernels.takes(torch.zeros(1, 1, 1, 1), 1), reason="cpu_kernels.cpp cannot be compiled here"
)


def images(*size: int, layout: torch.memory_format = torch.channels_last, offset: float = 0.0) -> Tensor:
    """Return a leaf ``(N, C, H, W)`` in float64."""
    x = torch.randn(size, dtype=torch.float64) + offset
    return x.contiguous(memory_format=layout).requires_grad_()


@contextmanager
def in_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
