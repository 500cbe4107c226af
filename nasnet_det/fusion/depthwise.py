"""Depthwise and separable convolutions of several branches in one launch, on a GPU.

A cell's separable convolutions begin with depthwise convolutions of several kernel sizes on few states. cuDNN runs each
by itself, and ReLU before it. Here one Triton kernel runs all that are ready, with ReLU on the way; where the channels
are few, the pointwise product, the shift of the folded norm and the block's sum are part of the same launch
(:data:`MOST_OUT`). Batch norm's scale needs nothing: it is folded into the weights. Sums are float32, the layout is
channels_last, and tiles depend on nothing but shapes and types, so that a result never depends on the machine's mood.

With the environment variable ``TRITON_INTERPRET=1`` the kernels run on a CPU, slowly, for tests of their numbers.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from nasnet_det.fusion.fallback import fault_of, warn_once
from nasnet_det.models.padding import Pair, pad_same, same_padding

#: The pointwise product joins the launch up to so many channels of its result: these fit in one tile, so that nothing
#: is filtered twice.
MOST_OUT = 128
_MOST_NUMBERS = 2**31
_BLOCK_PLACES = 32
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Branch:
    """One depthwise convolution, padded as SAME.

    Args:
        x: ``(N, C, H, W)``.
        weight: ``(kernel height * kernel width, C)``, as :func:`arranged` gives it.
        kernel: the kernel's height and width.
        relu: apply ReLU to ``x`` first.
        bias: ``(C,)``, added to the result, or None.
        activates: apply ReLU to the result.
    """

    x: Tensor
    weight: Tensor
    kernel: Pair
    relu: bool = False
    bias: Tensor | None = None
    activates: bool = False


@dataclass(frozen=True)
class Product:
    """A sum of separable convolutions and other states.

    Args:
        branches: the depthwise convolutions, without bias and ReLU of their own.
        weight: ``(out, C of every branch side by side)``, contiguous: the pointwise convolutions.
        bias: ``(out,)`` or None.
        others: states ``(N, out, H', W')``.
        factors: what each of them is multiplied by.
        activates: apply ReLU to the sum.
    """

    branches: tuple[Branch, ...]
    weight: Tensor
    bias: Tensor | None = None
    others: tuple[Tensor, ...] = ()
    factors: tuple[float, ...] = ()
    activates: bool = False


def arranged(weight: Tensor) -> Tensor:
    """A depthwise convolution's ``(C, 1, height, width)`` weight with its channels last."""
    return weight[:, 0].permute(1, 2, 0).flatten(0, 1).contiguous()


def is_covered(x: Tensor) -> bool:
    """Whether the kernels run on ``x``: on a GPU with Triton, eagerly, without gradients, in a type they have.

    Warns once of what keeps a GPU from using them. Compilers, which make kernels of their own, and CPUs, which have
    oneDNN's, take the plain path without a word.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor:
        return False
    if x.device.type in ("cpu", "meta") and not (_INTERPRETED and x.device.type == "cpu"):
        return False
    reason = _why_not(x)
    if reason:
        warn_once(f"optimize_for_inference runs depthwise convolutions one by one: {reason}")
    return not reason


def _why_not(x: Tensor) -> str:
    if not (x.is_cuda or _INTERPRETED):
        return f"its kernels are for CUDA, not for {x.device.type}"
    if not _HAS_TRITON:
        return "Triton is not installed"
    if x.dtype not in _DTYPES:
        return f"its kernels do not compute in {str(x.dtype).removeprefix('torch.')}"
    if torch.is_grad_enabled() and x.requires_grad:
        return "its kernels have no gradients"
    return fault_of(_trial, x.device, x.dtype)


def _trial(device: torch.device, dtype: torch.dtype) -> None:
    """Both kernels on a sample, beside the definition in double precision on the CPU.

    Raises:
        ArithmeticError: if they compute something else.
    """
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), device="cpu")
    x, product = draw(2, 24, 9, 7).to(dtype), draw(16, 48).to(dtype)
    branches, expected = [], []
    for kernel in ((3, 3), (5, 5)):
        weight = draw(24, 1, *kernel).to(dtype)
        branches.append(Branch(x.to(device), arranged(weight).to(device), kernel, relu=True))
        padded = pad_same(x.double().relu(), kernel, (2, 2), 1)
        expected.append(functional.conv2d(padded, weight.double(), stride=2, groups=24))
    expected.append(torch.einsum("ok,nkhw->nohw", product.double(), torch.cat(expected, dim=1)))
    found = depthwise(branches, (2, 2)) + separable([Product(tuple(branches), product.to(device))], (2, 2))
    most = 1e-5 if dtype == torch.float32 else 3e-2
    for made, wanted in zip(found, expected, strict=True):
        if not (made.double().cpu() - wanted).abs().max() <= most * wanted.abs().max():
            raise ArithmeticError("other numbers than PyTorch's")


def can_share(branches: Sequence[Branch]) -> bool:
    """Whether one launch can hold these: inputs of one shape and type, whose numbers can be counted in 32 bits."""
    first = branches[0].x
    alike = all(b.x.shape == first.shape and b.x.dtype == first.dtype == b.weight.dtype for b in branches)
    if alike and first.numel() >= _MOST_NUMBERS:
        warn_once(f"optimize_for_inference runs depthwise convolutions of 2^31 numbers one by one: {first.shape}")
        return False
    return alike


def depthwise(branches: Sequence[Branch], stride: Pair = (1, 1), dilation: int = 1) -> list[Tensor]:
    """Every branch's ``(N, C, ceil(H / stride), ceil(W / stride))``, channels_last, in one launch.

    Args:
        branches: such that :func:`can_share` holds.
    """
    from nasnet_det.fusion.triton_kernels import depthwise_kernel

    xs = [_channels_last(branch.x) for branch in branches]
    made = [_result(xs[0], xs[0].shape[1], stride) for _ in branches]
    positions = made[0].numel() // xs[0].shape[1]
    channels, block = xs[0].shape[1], _block(xs[0].shape[1], 64)
    grid = (-(-positions // _BLOCK_PLACES), -(-channels // block), len(branches))
    if not positions * channels:
        return made
    with _on(xs[0]):
        depthwise_kernel[grid](
            tuple(xs),
            tuple(branch.weight for branch in branches),
            tuple(branch.weight if branch.bias is None else branch.bias for branch in branches),
            tuple(made),
            *xs[0].shape[2:],
            *made[0].shape[2:],
            positions,
            **_geometry(branches, stride, dilation),
            HAS_SHIFT=tuple(branch.bias is not None for branch in branches),
            ACTIVATES=tuple(branch.activates for branch in branches),
            BLOCK_PLACES=_BLOCK_PLACES,
            BLOCK_CHANNELS=block,
        )
    return made


def separable(products: Sequence[Product], stride: Pair = (1, 1), dilation: int = 1) -> list[Tensor]:
    """Every product's ``(N, out, ceil(H / stride), ceil(W / stride))``, channels_last, in one launch.

    Args:
        products: of one number of channels, their branches together such that :func:`can_share` holds.
    """
    from nasnet_det.fusion.triton_kernels import separable_kernel

    branches = [branch for product in products for branch in product.branches]
    xs = [_channels_last(branch.x) for branch in branches]
    out = products[0].weight.shape[0]
    made = [_result(xs[0], out, stride) for _ in products]
    others = [_channels_last(other) for product in products for other in product.others]
    positions, block = made[0].numel() // out, _block(out, MOST_OUT)
    if not positions:
        return made
    with _on(xs[0]):
        separable_kernel[-(-positions // _BLOCK_PLACES), -(-out // block), len(products)](
            tuple(xs),
            tuple(branch.weight for branch in branches),
            tuple(product.weight for product in products),
            tuple(product.weight if product.bias is None else product.bias for product in products),
            tuple(others) or (made[0],),
            tuple(made),
            *xs[0].shape[2:],
            *made[0].shape[2:],
            positions,
            **_geometry(branches, stride, dilation),
            FIRST=(0, *accumulate(len(product.branches) for product in products)),
            FIRST_OTHER=(0, *accumulate(len(product.others) for product in products)),
            FACTORS=tuple(factor for product in products for factor in product.factors) or (0.0,),
            HAS_SHIFT=tuple(product.bias is not None for product in products),
            ACTIVATES=tuple(product.activates for product in products),
            OUT_CHANNELS=out,
            BLOCK_PLACES=_BLOCK_PLACES,
            BLOCK_CHANNELS=_block(xs[0].shape[1], 32),
            BLOCK_OUT=block,
            WIDE=not xs[0].is_cuda,
        )
    return made


def _geometry(branches: Sequence[Branch], stride: Pair, dilation: int) -> dict[str, object]:
    """What both kernels are compiled for."""
    sides = branches[0].x.shape[2:]
    borders = (
        tuple(same_padding(sides[axis], branch.kernel[axis], stride[axis], dilation)[0] for axis in (0, 1))
        for branch in branches
    )
    return {
        "KERNELS": tuple(branch.kernel for branch in branches),
        "BORDERS": tuple(borders),
        "RELUS": tuple(branch.relu for branch in branches),
        "STRIDE": stride,
        "DILATION": dilation,
        "CHANNELS": branches[0].x.shape[1],
    }


def _block(channels: int, most: int) -> int:
    """Channels of a tile: a power of two, as Triton wants, and at least what its products need."""
    return min(most, max(16, 1 << (channels - 1).bit_length()))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _result(x: Tensor, channels: int, stride: Pair) -> Tensor:
    height, width = (-(-x.shape[axis + 2] // stride[axis]) for axis in (0, 1))
    size = (x.shape[0], channels, height, width)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _on(x: Tensor) -> AbstractContextManager[object]:
    """On the GPU that holds ``x``, where Triton is to launch."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
