"""Functions of training on a GPU, tried on a CPU where no GPU is at hand."""

from __future__ import annotations

import pytest
import torch

from nasnet_det.models.cells import Concat
from nasnet_det.models.gpu_training import concat_channels, is_training_on_gpu
from nasnet_det.models.network import NASNet


def test_concatenation_gives_each_input_a_gradient_of_its_own_memory() -> None:
    xs = [torch.randn(2, width, 5, 4, dtype=torch.float64, requires_grad=True) for width in (1, 3, 2)]
    assert torch.equal(concat_channels(*xs), Concat()(*xs))
    assert torch.autograd.gradcheck(concat_channels, xs)
    assert torch.autograd.gradgradcheck(concat_channels, xs)
    kept = torch.randn(2, 6, 5, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    for gradient in torch.autograd.grad(concat_channels(*xs), xs, kept):
        assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_a_tensor_on_a_cpu_is_not_for_the_gpu() -> None:
    assert not is_training_on_gpu(torch.randn(1, 2, 3, 3).contiguous(memory_format=torch.channels_last))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gradients_on_a_gpu_equal_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    network = NASNet(num_cells=1, num_filters=8, stem="cifar", num_classes=10).double().train()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    gradients = {}
    for device in ("cpu", "cuda"):
        network.to(device, memory_format=torch.channels_last).zero_grad()
        network(images.to(device, memory_format=torch.channels_last)).square().sum().backward()
        gradients[device] = [p.grad.detach().clone().cpu() for p in network.parameters()]
    for cpu, gpu in zip(gradients["cpu"], gradients["cuda"], strict=True):
        torch.testing.assert_close(gpu, cpu, rtol=1e-9, atol=1e-9)
