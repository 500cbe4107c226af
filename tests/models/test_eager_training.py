"""When training replaces PyTorch's functions, and the replacements for CPUs and GPUs, against PyTorch's in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from nasnet_det.models.cells import Concat
from nasnet_det.models.eager_training import (
    concat_channels,
    is_training_on_cpu,
    is_training_on_gpu,
    subsample_twice,
)
from nasnet_det.models.network import NASNet
from nasnet_det.models.padding import shift, subsample

LAYOUTS = [torch.channels_last, torch.contiguous_format]


def images(*size: int, layout: torch.memory_format = torch.channels_last) -> Tensor:
    return torch.randn(size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()


def test_only_plain_eager_training_is_changed() -> None:
    x = images(2, 3, 4, 4)
    assert is_training_on_cpu(x)
    with torch.no_grad():
        assert not is_training_on_cpu(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_training_on_cpu(x)
    with forward_ad.dual_level():
        assert not is_training_on_cpu(x)
    assert not is_training_on_cpu(x.to("meta"))
    assert not is_training_on_cpu(x.bfloat16())
    assert not is_training_on_cpu(nn.Parameter(x.detach()))
    torch.func.grad(lambda x: (x * is_training_on_cpu(x)).sum())(x)
    assert torch.func.grad(lambda x: x.sum() * is_training_on_cpu(x))(x.detach()).eq(0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (1, 1), (2, 3)])
def test_subsample_twice_is_the_padded_pools(layout: torch.memory_format, size: tuple[int, int]) -> None:
    x = images(2, 3, *size, layout=layout)
    expected = (subsample(x, 2), subsample(shift(x, 1), 2))
    found = subsample_twice(x, 2, 1)
    gradients = [torch.randn_like(map) for map in expected]
    for ours, padded in zip(found, expected, strict=True):
        assert torch.equal(ours, padded)
    for ours, padded in zip(*(torch.autograd.grad(maps, x, gradients) for maps in (found, expected)), strict=True):
        torch.testing.assert_close(ours, padded)
    assert torch.autograd.gradgradcheck(lambda x: subsample_twice(x, 2, 1), x, fast_mode=True)


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
