"""The operations of genotypes: a table from names to modules.

Every convolution follows the order ReLU, convolution, batch norm, without bias (paper appendix A.4). A separable
convolution is applied twice, with nothing between its depthwise and pointwise parts. All padding is TensorFlow's SAME.
Sources: TF-slim ``nasnet_utils.py``; for the convolutions that NASNet-A does not use, ``tensorflow/tpu``
``amoeba_net/network_utils.py``, written for the same search space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers import get_norm_layer
from torch import Tensor, nn

from nasnet_det.genotypes.genotype import OPERATIONS
from nasnet_det.models.cpu_separable import SeparableLayers, is_compiled_separable, separable_norms
from nasnet_det.models.cpu_training import normalize
from nasnet_det.models.eager_training import has_hooks, is_training_on_device, subsample_twice
from nasnet_det.models.padding import AvgPool2dSame, Conv2dSame, MaxPool2dSame, Pool2dSame, shift, subsample

Kernel = int | tuple[int, int]


class Finish(NamedTuple):
    """The end of an operation: each image is multiplied by one of ``factors`` ``(N, 1, 1, 1)``, if any, and a map of
    the result's size, ``other``, is added, if any."""

    factors: Tensor | None = None
    other: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        """Return the end of an operation whose result is ``x`` ``(N, C, H, W)``, of the same shape."""
        x = x if self.factors is None else x * self.factors
        return x if self.other is None else x + self.other


@dataclass(frozen=True)
class LayerSettings:
    """Settings shared by the layers of one network.

    ``norm`` builds a normalization layer from a number of channels; ``device`` and ``dtype`` are those of parameters.
    """

    norm: Callable[..., nn.Module]
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    @property
    def factory(self) -> dict[str, Any]:
        """Keyword arguments for the device and type of parameters."""
        return {"device": self.device, "dtype": self.dtype}


def norm_by_name(name: str) -> Callable[..., nn.Module]:
    """Return timm's normalization layer of a name, such as ``groupnorm1``.

    Raises:
        ValueError: if timm has none.
    """
    try:
        layer = get_norm_layer(name)
    except KeyError:
        layer = None
    if layer is None:
        raise ValueError(f"norm_layer: timm has no layer {name!r:.60}; expected a name such as 'groupnorm1'")
    return layer


@dataclass(frozen=True)
class Scale:
    """The change of a map's size by an operation.

    ``stride`` is 1 or 2. In a network of limited output stride (an "atrous" one) a stride of 2 is replaced by
    ``dilation`` becoming ``dilation_after`` from there on; elsewhere both are 1.
    """

    stride: int = 1
    dilation: int = 1
    dilation_after: int = 1

    @property
    def changes(self) -> bool:
        """Return whether this is a reduction, by stride or by dilation."""
        return self.stride > 1 or self.dilation_after != self.dilation

    def halved(self) -> Scale:
        """The scale of what follows."""
        return Scale(1, self.dilation_after, self.dilation_after)


class ConvNorm(nn.Module):
    """(ReLU,) convolution, normalization: ``(N, in, H, W)`` to ``(N, out, ceil(H/s), ceil(W/s))``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        settings: LayerSettings,
        kernel: Kernel = 1,
        scale: Scale = Scale(),
        relu: bool = True,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.act = nn.ReLU() if relu else nn.Identity()
        # Of a pair of kernels (1x7 then 7x1) each strides along its own axis only.
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        keeps = [side == 1 and sides != (1, 1) for side in sides]
        strides = (1 if keeps[0] else scale.stride, 1 if keeps[1] else scale.stride)
        # A 1x1 kernel has no reach, so its dilation says nothing.
        rate = 1 if kernel == 1 else scale.dilation * dilation
        self.conv: nn.Conv2d = Conv2dSame(
            in_channels, out_channels, kernel, (strides[0], strides[1]), rate, **settings.factory
        )
        self.bn = settings.norm(out_channels)

    def forward(self, x: Tensor, activated: bool = False) -> Tensor:
        if not activated and (passed := self.passing(x)) is not None:
            return passed[0]
        return normalize(self.conv(x if activated else self.act(x)), self.bn)

    def passing(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the result, and ``x`` for those that read it after this, whose gradients by it are added where this
        one's is written; None where the layers are not one function for ``x``."""
        return separable_norms(x, [SeparableLayers(None, self.conv, self.bn)]) if self.is_compiled(x) else None

    def is_compiled(self, *maps: Tensor) -> bool:
        """Return whether all layers are one function for a map, or for the maps that its channels are divided into."""
        own = type(self.conv) is Conv2dSame  # others may compute something else
        return own and is_compiled_separable(maps, self.act, None, self.conv, self.bn)


class SeparableConvNorm(nn.Module):
    """ReLU, depthwise convolution, pointwise convolution, normalization; nothing between the two convolutions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        settings: LayerSettings,
        kernel: Kernel,
        scale: Scale = Scale(),
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.depthwise = Conv2dSame(
            in_channels,
            in_channels,
            kernel,
            scale.stride,
            scale.dilation * dilation,
            groups=in_channels,
            **settings.factory,
        )
        self.pointwise = Conv2dSame(in_channels, out_channels, 1, **settings.factory)
        self.bn = settings.norm(out_channels)

    def forward(self, x: Tensor, activated: bool = False, finish: Finish = Finish()) -> Tensor:
        if not activated and (passed := self.passing(x, finish)) is not None:
            return passed[0]
        return finish.apply(normalize(self.pointwise(self.depthwise(x if activated else self.act(x))), self.bn))

    def passing(self, x: Tensor, finish: Finish = Finish()) -> tuple[Tensor, Tensor] | None:
        """See :meth:`ConvNorm.passing`."""
        return separable_norms(x, [self.compiled_layers(x)], *finish) if self.is_compiled(x) else None

    def is_compiled(self, x: Tensor) -> bool:
        """Return whether all layers are one function for a map."""
        own = type(self.depthwise) is type(self.pointwise) is Conv2dSame  # others may compute something else
        return own and is_compiled_separable((x,), self.act, self.depthwise, self.pointwise, self.bn)

    def compiled_layers(self, x: Tensor) -> SeparableLayers:
        """Return the layers as a compiled function takes them for a map."""
        return SeparableLayers(self.depthwise, self.pointwise, self.bn, self.depthwise.sides(x))

    def empty_result(self, x: Tensor) -> Tensor:
        """Return a tensor of the result's size for a map."""
        sides = (-(-side // step) for side, step in zip(x.shape[2:], self.depthwise.stride, strict=True))
        size = (len(x), len(self.pointwise.weight), *sides)
        return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


class Layers(nn.Sequential):
    """Layers in sequence, of which the first may be given an activated input and the last what follows it."""

    def forward(self, x: Tensor, activated: bool = False, finish: Finish | None = None) -> Tensor:
        if not activated and (layers := self._compiled_layers(x)):
            return separable_norms(x, layers, *(finish or Finish()))[0]
        return self._run(x, 0, finish, **({"activated": True} if activated else {}))

    def passing(self, x: Tensor, finish: Finish | None = None) -> tuple[Tensor, Tensor] | None:
        """See :meth:`ConvNorm.passing`; the first layer alone may be that function, too."""
        if layers := self._compiled_layers(x):
            return separable_norms(x, layers, *(finish or Finish()))
        passed = pass_on(self[0], x) if len(self) > 1 else None
        return None if passed is None else (self._run(passed[0], 1, finish), passed[1])

    def _run(self, x: Tensor, first: int, finish: Finish | None, **given: bool) -> Tensor:
        """Return the result of the layers from one on, which alone is given the arguments."""
        for number in range(first, len(self)):
            last = {"finish": finish} if finish is not None and number == len(self) - 1 else {}
            x = self[number](x, **(given if number == first else {}), **last)
        return x

    def _compiled_layers(self, x: Tensor) -> list[SeparableLayers]:
        """Return the layers as one compiled function takes them for a map, if it takes all."""
        layers: list[SeparableLayers] = []
        for layer in self:
            if type(layer) is not SeparableConvNorm or has_hooks(layer) or not layer.is_compiled(x):
                return []
            layers.append(layer.compiled_layers(x))
            x = layer.empty_result(x)
        return layers


def begins_with_relu(module: nn.Module) -> bool:
    """Return whether a module's forward takes ``activated=True``, for an input to which ReLU is applied already."""
    if type(module) is Layers:  # a class of one's own may take other arguments, or change the result
        return begins_with_relu(module[0]) and not has_hooks(module)
    known = type(module) in (ConvNorm, SeparableConvNorm, FactorizedReduction)
    return known and type(module.act) is nn.ReLU and not has_hooks(module, module.act)


def pass_on(module: nn.Module, x: Tensor, **given: Finish) -> tuple[Tensor, Tensor] | None:
    """Return :meth:`ConvNorm.passing` of a module; None if it has none, or a class of its own.

    Its ReLU then costs nothing, so that one computed before is of no use."""
    known: Any = module
    return known.passing(x, **given) if type(module) in (ConvNorm, SeparableConvNorm, Layers) else None


def finishes_itself(module: nn.Module) -> bool:
    """Return whether a module's forward takes what follows it (``finish``): one of this module, without hooks."""
    last: nn.Module = module[-1] if type(module) is Layers else module
    return type(last) is SeparableConvNorm and not has_hooks(module, last)


class FactorizedReduction(nn.Module):
    """Halve a map without skipping pixels: two subsampled 1x1 paths, the second shifted by one pixel; concat, norm.

    Maps ``(N, in, H, W)`` to ``(N, out, ceil(H/2), ceil(W/2))`` (TF-slim ``factorized_reduction``).
    """

    def __init__(
        self, in_channels: int, out_channels: int, settings: LayerSettings, scale: Scale, relu: bool = True
    ) -> None:
        super().__init__()
        self.scale = scale
        self.act = nn.ReLU() if relu else nn.Identity()
        self.path1 = Conv2dSame(in_channels, out_channels // 2, 1, **settings.factory)
        self.path2 = Conv2dSame(in_channels, out_channels - out_channels // 2, 1, **settings.factory)
        self.bn = settings.norm(out_channels)

    def forward(self, x: Tensor, activated: bool = False) -> Tensor:
        stride, offset = self.scale.stride, self.scale.dilation
        if self.training and stride > 1 and is_training_on_device(x):
            first, second = subsample_twice(x, stride, offset)
        else:
            first, second = subsample(x, stride), subsample(shift(x, offset), stride)
        if not activated:
            first, second = self.act(first), self.act(second)
        return normalize(torch.cat((self.path1(first), self.path2(second)), dim=1), self.bn)


Builder = Callable[[int, int, LayerSettings, Scale], nn.Module]


def build_operation(
    name: str, in_channels: int, out_channels: int, settings: LayerSettings, scale: Scale = Scale()
) -> nn.Module:
    """Build the module of one operation, which maps ``(N, in, H, W)`` to ``(N, out, ceil(H/stride), ceil(W/stride))``.

    Raises:
        KeyError: if no operation has that name.
    """
    return _BUILDERS[name](in_channels, out_channels, settings, scale)


def register_operation(name: str, description: str, builder: Builder) -> None:
    """Let genotypes use a new operation (see ``docs/new-operation.md``).

    Args:
        name: the name in genotypes.
        description: its name in pictures and tables.
        builder: builds its module from input channels, output channels, settings and scale.

    Raises:
        ValueError: if the name is taken.
    """
    if name in _BUILDERS:
        raise ValueError(f"operation {name!r} exists already; choose another name")
    OPERATIONS[name] = description
    _BUILDERS[name] = builder


def projection(
    in_channels: int, out_channels: int, settings: LayerSettings, scale: Scale, relu: bool = True
) -> nn.Module:
    """Return the projection of a state to another size or width: factorized reduction, 1x1 convolution, or identity."""
    if scale.changes:
        return FactorizedReduction(in_channels, out_channels, settings, scale, relu)
    if in_channels != out_channels:
        return ConvNorm(in_channels, out_channels, settings, relu=relu)
    return nn.Identity()


def _identity(in_channels: int, out_channels: int, settings: LayerSettings, scale: Scale) -> nn.Module:
    if scale.changes or in_channels != out_channels:
        return ConvNorm(in_channels, out_channels, settings, scale=scale)
    return nn.Identity()


def _pool(
    kind: type[Pool2dSame], kernel: int, in_channels: int, out_channels: int, settings: LayerSettings, scale: Scale
) -> nn.Module:
    pool = kind(kernel, scale.stride, scale.dilation)
    if in_channels == out_channels:
        return pool
    return nn.Sequential(pool, ConvNorm(in_channels, out_channels, settings, relu=False))


def _separable(
    kernel: int, times: int, dilation: int, in_channels: int, out_channels: int, settings: LayerSettings, scale: Scale
) -> nn.Module:
    layers = []
    for _ in range(times):
        layers.append(SeparableConvNorm(in_channels, out_channels, settings, kernel, scale, dilation))
        in_channels, scale = out_channels, scale.halved()
    return Layers(*layers)


def _plain(in_channels: int, out_channels: int, settings: LayerSettings, scale: Scale) -> nn.Module:
    return ConvNorm(in_channels, out_channels, settings, scale=scale)


def _bottleneck(
    kernels: tuple[Kernel, ...],
    share: float,
    dilation: int,
    in_channels: int,
    out_channels: int,
    settings: LayerSettings,
    scale: Scale,
) -> nn.Module:
    """A dense convolution at a share of the width, between 1x1 convolutions (``network_utils.py``); at full width
    where that share would leave no channel."""
    width = int(share * out_channels)
    inner = width or out_channels
    layers: list[nn.Module] = [ConvNorm(in_channels, width, settings)] if width else []
    channels = width or in_channels
    for kernel in kernels:
        layers.append(ConvNorm(channels, inner, settings, kernel, scale, dilation=dilation))
        channels = inner
    if width:
        layers.append(ConvNorm(width, out_channels, settings))
    return Layers(*layers)


_BUILDERS: dict[str, Builder] = {
    "identity": _identity,
    "conv_1x1": _plain,
    "conv_3x3": partial(_bottleneck, (3,), 1 / 4, 1),
    "conv_1x3_3x1": partial(_bottleneck, ((1, 3), (3, 1)), 3 / 8, 1),
    "conv_1x7_7x1": partial(_bottleneck, ((1, 7), (7, 1)), 1 / 4, 1),
    "conv_7x1_1x7": partial(_bottleneck, ((7, 1), (1, 7)), 1 / 4, 1),
    "dil_conv_3x3": partial(_bottleneck, (3,), 1 / 4, 2),
    "sep_conv_3x3": partial(_separable, 3, 2, 1),
    "sep_conv_5x5": partial(_separable, 5, 2, 1),
    "sep_conv_7x7": partial(_separable, 7, 2, 1),
    "dil_sep_conv_5x5": partial(_separable, 5, 2, 2),
    "dil_sep_conv_3x3_once": partial(_separable, 3, 1, 2),
    "dil_sep_conv_5x5_once": partial(_separable, 5, 1, 2),
    "avg_pool_3x3": partial(_pool, AvgPool2dSame, 3),
    "max_pool_2x2": partial(_pool, MaxPool2dSame, 2),
    "max_pool_3x3": partial(_pool, MaxPool2dSame, 3),
    "max_pool_5x5": partial(_pool, MaxPool2dSame, 5),
    "max_pool_7x7": partial(_pool, MaxPool2dSame, 7),
}
