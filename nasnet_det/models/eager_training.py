"""Training in eager mode: when PyTorch's functions are replaced by faster ones, and those for CPUs and GPUs alike.

Several of PyTorch's functions have slow backward passes (measured in ``docs/speed.md``). Their replacements compute the
same function; networks that are evaluated, compiled, exported or traced run PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.nn import functional
from torch.nn.modules import module as module_state
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext


def is_eager() -> bool:
    """Return whether functions compute as they are called: not compiled, traced, transformed or seen by a mode."""
    return not torch.compiler.is_compiling() and not _is_observed()


def is_training_eagerly(x: object) -> bool:
    """Return whether ``x`` is a plain tensor in an eager forward pass that records gradients."""
    return type(x) is Tensor and x.numel() > 0 and torch.is_grad_enabled() and is_eager()


def is_plain_backward(*gradients: Tensor) -> bool:
    """Return whether a backward pass only computes gradients: not those of gradients, nor batches or traces of them.

    A batch is what ``is_grads_batched`` and ``torch.autograd.functional.jacobian(vectorize=True)`` pass.
    """
    is_batch = any(map(torch._C._functorch.is_legacy_batchedtensor, gradients))
    return not torch.is_grad_enabled() and not is_batch and not _is_observed()


def gradients_again(
    run: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    wanted: Sequence[bool],
    gradients: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Return the gradients by inputs, those that are wanted, by PyTorch's own functions.

    Args:
        run: computes the outputs from the inputs.
        inputs: the tensors that it is given, some of which may have been computed from others.
        wanted: which of their gradients are.
        gradients: those of the outputs.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, as the gradient by a tensor would have what reaches the outputs through other inputs as well.
        places = [value.view_as(value) if want else value for value, want in zip(inputs, wanted, strict=True)]
        given = [value for value, want in zip(places, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(run(*places), given, gradients, create_graph=create_graph))
    return tuple(next(found) if want else None for want in wanted)


def _is_observed() -> bool:
    """Return whether PyTorch's functions are traced, transformed or seen by a mode, such as a counter of operations.

    The mode of ``torch.set_default_device`` and ``with torch.device`` changes only where tensors are created.
    """
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack())
    )


def is_training_on_cpu(x: Tensor) -> bool:
    """Return whether ``x`` is a plain tensor on a CPU in an eager forward pass that records gradients."""
    return (
        is_training_eagerly(x)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
    )


def is_training_on_gpu(x: Tensor) -> bool:
    """Return whether ``x`` is a tensor in channels_last on a GPU in an eager forward pass that records gradients."""
    return is_training_eagerly(x) and x.is_cuda and x.is_contiguous(memory_format=torch.channels_last)


def is_training_on_device(x: Tensor) -> bool:
    """Return whether ``x`` is in training on a CPU, or on a GPU in channels_last."""
    return is_training_on_cpu(x) or is_training_on_gpu(x)


def has_hooks(*modules: nn.Module) -> bool:
    """Return whether calling one of the modules runs more than its class: a hook, a forward, a parametrization, or what
    :meth:`torch.nn.Module.compile` made of it."""
    return bool(module_state._has_any_global_hook()) or any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__  # as put there by accelerate
        or module._compiled_call_impl is not None
        or "parametrizations" in module._modules
        for module in modules
    )


def subsample_twice(x: Tensor, stride: int, offset: int) -> tuple[Tensor, Tensor]:
    """Return every ``stride``-th row and column of ``(N, C, H, W)``, from 0 on and from ``offset`` on, zeros beyond."""
    return _SubsampleTwice.apply(x, stride, offset)


class _SubsampleTwice(Function):
    """Two strided selections, whose gradient is written into a single tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, offset: int) -> tuple[Tensor, Tensor]:
        ctx.steps, ctx.size, ctx.strides = (stride, offset), x.shape, x.stride()
        first, second = _subsample_twice(x, stride, offset)
        return first.clone(), second

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (first, second), (stride, offset) = gradients, ctx.steps
        if not is_plain_backward(first, second):
            x = torch.zeros(ctx.size, dtype=first.dtype, device=first.device, requires_grad=True)
            return (
                *gradients_again(partial(_subsample_twice, stride=stride, offset=offset), (x,), (True,), gradients),
                None,
                None,
            )
        gradient = first.new_empty_strided(ctx.size, ctx.strides).zero_()
        gradient[..., ::stride, ::stride] = first
        target = gradient[..., offset::stride, offset::stride]
        target += second[..., : target.shape[2], : target.shape[3]]
        return gradient, None, None


def _subsample_twice(x: Tensor, stride: int, offset: int) -> tuple[Tensor, Tensor]:
    first, second = x[..., ::stride, ::stride], x[..., offset::stride, offset::stride]
    missing = (first.shape[3] - second.shape[3], first.shape[2] - second.shape[2])
    return first, functional.pad(second, (0, missing[0], 0, missing[1]))


def concat_channels(*xs: Tensor) -> Tensor:
    """Concatenate ``(N, C_i, H, W)`` along the channels; each gets a gradient of its own memory, in channels_last.

    PyTorch's are slices of one gradient, for which batch norm is slow.
    """
    return _ConcatChannels.apply(*xs)


class _ConcatChannels(Function):
    @staticmethod
    def forward(ctx: Any, *xs: Tensor) -> Tensor:
        ctx.widths = [x.shape[1] for x in xs]
        return torch.cat(xs, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        slices = gradients[0].split(ctx.widths, dim=1)
        if not is_plain_backward(gradients[0]):
            return slices
        return tuple(part.contiguous(memory_format=torch.channels_last) for part in slices)
