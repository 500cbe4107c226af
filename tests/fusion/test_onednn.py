"""Reordered weights are those of the present weight; what traces or counts sees PyTorch's own operators."""

from __future__ import annotations

import torch
from torch.func import functional_call
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nasnet_det import optimize_for_inference
from nasnet_det.fusion.steps import Convolution
from nasnet_det.models.network import NASNet
from nasnet_det.models.padding import Conv2dSame
from tests.helpers import randomize


@torch.no_grad()
def test_another_weight_at_the_address_of_the_last_is_reordered() -> None:
    step, x = Convolution(Conv2dSame(32, 32, 3), torch.zeros(32, 32, 3, 3), None), torch.randn(1, 32, 8, 8)
    for _ in range(10):
        weight = torch.randn(32, 32, 3, 3)
        expected = functional.conv2d(x, weight, padding=1)
        torch.testing.assert_close(functional_call(step, {"weight": weight}, (x,)), expected, rtol=1e-4, atol=1e-4)
        del weight


@torch.no_grad()
def test_traces_and_counts_are_of_pytorchs_operators() -> None:
    network = randomize(NASNet(num_cells=1, num_filters=8, stem="cifar", num_classes=5))
    fused, x, other = optimize_for_inference(network), torch.randn(2, 3, 16, 16), torch.randn(3, 3, 16, 16)
    traced = torch.jit.trace(fused, x)
    torch.testing.assert_close(traced(other), network(other), rtol=1e-4, atol=1e-4)
    assert "mkldnn" not in str(traced.inlined_graph)
    with FlopCounterMode(display=False) as counter:
        fused(x)
    assert counter.get_total_flops() > 1e6
