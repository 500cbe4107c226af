"""Separable and pointwise convolutions with ReLU and batch norm as one function, for training on a CPU.

They compute what the layers compute one by one, where :mod:`~nasnet_det.models.cpu_kernels` can be compiled and
:func:`is_compiled_separable` allows (measured in ``docs/speed.md``), and have a second derivative as PyTorch's have.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from nasnet_det.models import cpu_kernels
from nasnet_det.models.cpu_training import Sides, is_depthwise, is_plain_batch_norm, is_pointwise, track, unbiased
from nasnet_det.models.eager_training import gradients_again, has_hooks, is_plain_backward, is_training_on_cpu


def is_compiled_separable(
    maps: Sequence[Tensor], act: nn.Module, depthwise: nn.Conv2d | None, pointwise: nn.Conv2d, norm: nn.Module
) -> bool:
    """Return whether :func:`separable_norms`, or :func:`pointwise_norms`, takes a map (or those that its channels are
    divided into) and these layers."""
    x = maps[0]
    if not (pointwise.training and is_training_on_cpu(x) and type(act) is nn.ReLU and is_pointwise(pointwise)):
        return False
    convs = (pointwise,) if depthwise is None else (pointwise, depthwise)
    if has_hooks(act, *convs) or not (depthwise is None or is_depthwise(depthwise)):
        return False
    if not cpu_kernels.gains_as_separable(maps, *(conv.weight for conv in convs)):
        return False
    sides = (-(-side // step) for side, step in zip(x.shape[2:], convs[-1].stride, strict=True))
    return is_plain_batch_norm(norm, x, (len(x), len(pointwise.weight), *sides))


class SeparableLayers(NamedTuple):
    """Layers that :func:`is_compiled_separable` accepts; ``padding`` is the depthwise convolution's, the zeros at
    ``(left, right, top, bottom)``."""

    depthwise: nn.Conv2d | None
    pointwise: nn.Conv2d
    norm: nn.Module
    padding: Sides = (0, 0, 0, 0)

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Return the kernels of the convolutions, and the weight and bias of the norm."""
        kernels = None if self.depthwise is None else self.depthwise.weight
        return kernels, self.pointwise.weight, self.norm.weight, self.norm.bias  # type: ignore[return-value]

    def options(self) -> tuple[Any, ...]:
        """Return eps, and the strides, padding and dilation of the depthwise convolution."""
        if self.depthwise is None:
            return (self.norm.eps,)
        return self.norm.eps, self.depthwise.stride, self.padding, self.depthwise.dilation[0]


def separable_norms(
    x: Tensor, layers: Sequence[SeparableLayers], factors: Tensor | None = None, other: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``norm(pointwise(depthwise(relu(x))))`` of one layer after another, times ``factors``, plus ``other``.

    It is computed image by image; of the layers but the last no result is written.

    Args:
        x: the input ``(N, C, H, W)``.
        layers: after the first, each has a depthwise convolution.
        factors: constants ``(N, 1, 1, 1)``; None for 1.
        other: a map of the result's size; None for 0.

    Returns:
        the result ``(N, K, H', W')``; and ``x`` for those that read it after this: the gradient by it is added where
        the one of this function is written.
    """
    tensors = [value for layer in layers for value in layer.tensors()]
    norms = [[layer.norm] for layer in layers]
    result, passed = _separable_norms([x], norms, other, factors, [layer.options() for layer in layers], *tensors)
    return result, passed if x.requires_grad else x


def pointwise_norms(maps: Sequence[Tensor], layers: Sequence[tuple[nn.Conv2d, nn.Module]]) -> list[Tensor]:
    """Return ``norm(pointwise(relu(x)))`` of several layers, each ``(N, K, H, W)``, computed as one.

    Args:
        maps: the input ``(N, C, H, W)``, or the maps that its channels are divided into.
        layers: pairs of layers that :func:`is_compiled_separable` accepts, of one ``eps``.
    """
    each = [SeparableLayers(None, *layer) for layer in layers]
    tensors = [torch.cat(values) for values in zip(*(layer.tensors()[1:] for layer in each), strict=True)]
    norms = [[layer.norm for layer in each]]
    return _separable_norms(maps, norms, None, None, [each[0].options()], None, *tensors)[: len(each)]


def _separable_norms(maps: Sequence[Tensor], norms: Sequence[Sequence[Any]], *arguments: Any) -> list[Tensor]:
    """Return the result of each of the last norms, then the input if it is one map, and update the running statistics
    of all norms."""
    other, factors, options, *tensors = arguments
    widths = [[len(norm.weight) for norm in some] for some in norms]
    found = _SeparableNorms.apply(len(maps), widths[-1], other, factors, options, *maps, *tensors)
    results = found[: len(found) - 2 * len(norms)]
    moments = iter(found[len(results) :])
    for some, each in zip(norms, widths, strict=True):
        mean, variance = next(moments), next(moments)
        for norm, of_mean, of_variance in zip(some, mean.split(each), variance.split(each), strict=True):
            track(norm, of_mean, of_variance)
    return [*results]


class _SeparableNorms(Function):
    """Layers of :func:`nasnet_det.models.cpu_kernels.separable_norm` in turn: the results of the last, the input if it
    is one map, and of each layer the mean and the unbiased variance."""

    @staticmethod
    def forward(
        ctx: Any,
        number: int,
        widths: Sequence[int],
        other: Tensor | None,
        factors: Tensor | None,
        options: Sequence[tuple[Any, ...]],
        *tensors: Any,
    ) -> tuple[Any, ...]:
        ctx.number, ctx.widths, ctx.factors, ctx.options = number, widths, factors, options
        ctx.set_materialize_grads(False)
        maps, layers = tensors[:number], _layers(tensors[number:], options)
        found: list[cpu_kernels.Normalized] = []
        for layer in layers[:-1]:
            found.append(cpu_kernels.separable_norm(found[-1] if found else maps, layer, [])[1])
        results, last = cpu_kernels.separable_norm(found[-1] if found else maps, layers[-1], widths, factors, other)
        found.append(last)
        ctx.save_for_backward(*tensors, *(value for one in found for value in one))
        moments = [value for one in found for value in (one.mean, unbiased(one.variance, one.convolved))]
        ctx.mark_non_differentiable(*moments)
        passed = [maps[0].detach()] if number == 1 else []
        return *results, *passed, *moments

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        number, saved = ctx.number, ctx.saved_tensors
        tensors = saved[: number + 4 * len(ctx.options)]
        maps, layers = tensors[:number], _layers(tensors[number:], ctx.options)
        found = [cpu_kernels.Normalized(*saved[at : at + 6]) for at in range(len(tensors), len(saved), 6)]
        passed = gradients[len(ctx.widths)] if number == 1 else None
        last = found[-1].convolved
        given = [
            last.new_zeros((len(last), width, *last.shape[2:])) if gradient is None else gradient
            for width, gradient in zip(ctx.widths, gradients, strict=False)
        ]
        rest = (None, None, given[0] if ctx.needs_input_grad[2] else None, None, None)
        if not is_plain_backward(*given, *([] if passed is None else [passed])):

            def output(*tensors: Any) -> Tensor:
                layers = _layers(tensors[number:], ctx.options)
                y = functools.reduce(_separable_norm_of_pytorch, layers, torch.cat(tensors[:number], dim=1))
                return y if ctx.factors is None else y * ctx.factors

            first, *others = gradients_again(output, tensors, ctx.needs_input_grad[5:], [torch.cat(given, dim=1)])
            return *rest, first if first is None or passed is None else first + passed, *others
        by_tensors: list[Tensor | None] = []
        sums, factors = None, ctx.factors
        for at in reversed(range(len(layers))):
            by_inner = at > 0 or any(ctx.needs_input_grad[5 : 5 + number])
            inner, more = (found[at - 1], None) if at else (maps, passed)
            given, some, sums = cpu_kernels.separable_norm_gradients(
                given, inner, by_inner, layers[at], found[at], factors, sums, more
            )
            by_tensors, factors = [*some, *by_tensors], None
        return *rest, *(given if given else [None] * number), *by_tensors


def _layers(tensors: Sequence[Any], options: Sequence[tuple[Any, ...]]) -> list[cpu_kernels.Separable]:
    """Return layers from four tensors and the options of each."""
    return [cpu_kernels.Separable(*tensors[4 * at : 4 * at + 4], *option) for at, option in enumerate(options)]


def _separable_norm_of_pytorch(x: Tensor, layer: cpu_kernels.Separable) -> Tensor:
    x = functional.relu(x)
    if layer.depthwise is not None:
        x = functional.pad(x, layer.padding)
        x = functional.conv2d(x, layer.depthwise, None, layer.stride, 0, layer.dilation, groups=x.shape[1])
    x = functional.conv2d(x, layer.pointwise)
    return functional.batch_norm(x, None, None, layer.weight, layer.bias, training=True, eps=layer.eps)
