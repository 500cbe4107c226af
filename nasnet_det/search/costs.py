"""Parameters and multiply-adds of a network of a genotype, without building it.

A cell's cost is a sum over its operations, and an operation's depends on its name, channels, stride and map size alone;
each of these is counted once, on the ``meta`` device, and remembered. So a candidate costs about a millisecond where
building its network costs hundreds. The counts are those of the built network (tests/search/test_costs.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import nn

from nasnet_det.genotypes.genotype import CellGenotype, Genotype
from nasnet_det.models.cells import StateShape, build_combiner
from nasnet_det.models.network import NASNet
from nasnet_det.models.operations import ConvNorm, LayerSettings, Scale, build_operation, projection
from nasnet_det.models.plan import Stem, check_size, plan_cells
from nasnet_det.models.stem import StemConv

_META = LayerSettings(lambda channels: nn.BatchNorm2d(channels, device="meta"), device="meta")


class Cost(NamedTuple):
    """Trainable parameters, and multiply-adds of one image in convolutions and linear layers."""

    params: int = 0
    macs: int = 0

    def plus(self, other: Cost) -> Cost:
        """Return the sum of two costs."""
        return Cost(self.params + other.params, self.macs + other.macs)


@dataclass(frozen=True)
class NetworkSize:
    """The size of the network of a genotype; see :class:`~nasnet_det.models.network.NASNet`.

    Args:
        num_cells: N, the normal cells of each of three stages.
        num_filters: F of the first stage.
        stem: ``cifar`` or ``imagenet``.
        stem_channels: channels of the first convolution.
        num_classes: outputs of the classifier.
        image_size: height and width of the image.

    Raises:
        ValueError: for a number out of range.
    """

    num_cells: int
    num_filters: int
    stem: Stem
    stem_channels: Annotated[int, Field(ge=1, le=10**9)]  # follows from num_filters, which has a bound
    num_classes: Annotated[int, Field(ge=1, le=1_000_000)]
    image_size: Annotated[int, Field(ge=8, le=4096)]

    def __post_init__(self) -> None:
        check_size((self.num_cells,) * 3, self.num_filters, self.stem)

    def build(self, genotype: Genotype, device: torch.device | str | None = None) -> NASNet:
        """Return the network of a genotype, with new weights."""
        return NASNet(
            genotype,
            num_cells=self.num_cells,
            num_filters=self.num_filters,
            stem=self.stem,
            stem_channels=self.stem_channels,
            bn_eps=1e-5,
            bn_momentum=0.1,
            num_classes=self.num_classes,
            img_size=self.image_size,
            device=device,
        )

    def cost(self, genotype: Genotype) -> Cost:
        """Return the network's parameters and multiply-adds."""
        total, shapes = self._stem_cost(genotype)
        outputs = [shapes]
        for plan in plan_cells((self.num_cells,) * 3, self.num_filters, self.stem):
            inputs = outputs[plan.current]
            if not genotype.passes_all and plan.previous is not None:
                inputs = (inputs[0], outputs[plan.previous][0])
            cell = genotype.reduction if plan.reduces else genotype.normal
            cost, shapes = self._cell_cost(cell, inputs, plan.filters, 2 if plan.reduces else 1, genotype.passes_all)
            total = total.plus(cost)
            outputs.append(shapes)
        features = sum(shape.channels for shape in outputs[-1])
        return total.plus(Cost((features + 1) * self.num_classes, features * self.num_classes))

    def _stem_cost(self, genotype: Genotype) -> tuple[Cost, tuple[StateShape, ...]]:
        strided = self.stem == "imagenet"
        cost = _layer_cost("<stem>", 3, self.stem_channels, 2 if strided else 1, self.image_size)
        width = genotype.num_inputs if genotype.passes_all else 1
        return cost, (StateShape(self.stem_channels, int(strided)),) * width

    def _side(self, level: int) -> int:
        """Return the height of a map after ``level`` halvings; the ImageNet stem's first one is VALID."""
        side = self.image_size
        for halving in range(level):
            side = (side - 1) // 2 if self.stem == "imagenet" and halving == 0 else -(-side // 2)
        return side

    def _cell_cost(
        self, genotype: CellGenotype, inputs: Sequence[StateShape], filters: int, stride: int, passes_all: bool
    ) -> tuple[Cost, tuple[StateShape, ...]]:
        """Return the cost of a :class:`~nasnet_det.models.cells.Cell` and the shapes of its outputs."""
        current, parts, channels = inputs[0], list[Cost](), list[int]()
        for number, shape in enumerate(inputs):
            layer = "<project>" if number == 0 and not passes_all else "<projection>"
            scale = current.level - shape.level + 1
            parts.append(_layer_cost(layer, shape.channels, filters, scale, self._side(shape.level)))
            channels.append(filters)
        if len(inputs) == 1 and not passes_all:
            channels.append(current.channels)
        count, level = len(channels), current.level + (stride == 2)
        for block in genotype.blocks:
            for state, operation in block.sides:
                strided = stride if state < count else 1
                side = self._side(current.level if state < count else level)
                parts.append(_layer_cost(operation, channels[state], filters, strided, side))
            width, params = _combiner_cost(block.combine, filters)
            parts.append(Cost(params))
            channels.append(width)
        for state in genotype.concat:
            if state < count and (stride == 2 or channels[state] != filters):
                parts.append(_layer_cost("<concat>", channels[state], filters, stride, self._side(current.level)))
                channels[state] = filters
        widths = [channels[state] for state in genotype.concat]
        shapes = tuple(StateShape(width, level) for width in (widths if passes_all else [sum(widths)]))
        return Cost(sum(part.params for part in parts), sum(part.macs for part in parts)), shapes


_LAYERS: dict[str, Callable[[int, int, Scale], nn.Module]] = {
    "<stem>": lambda i, o, scale: StemConv(i, o, _META, scale.stride, valid=scale.stride == 2),
    "<project>": lambda i, o, scale: ConvNorm(i, o, _META),
    "<projection>": lambda i, o, scale: projection(i, o, _META, scale),
    "<concat>": lambda i, o, scale: projection(i, o, _META, scale, relu=False),
}


@cache
def _layer_cost(name: str, in_channels: int, out_channels: int, stride: int, side: int) -> Cost:
    """Return the cost of a layer, or an operation of a genotype, on a square map."""
    if name in _LAYERS:
        layer = _LAYERS[name](in_channels, out_channels, Scale(stride))
    else:
        layer = build_operation(name, in_channels, out_channels, _META, Scale(stride))
    return measure_cost(layer, torch.zeros(1, in_channels, side, side, device="meta"))


@cache
def _combiner_cost(name: str, filters: int) -> tuple[int, int]:
    """Return the channels that a combiner makes, and its parameters."""
    combiner, width = build_combiner(name, filters, _META)
    return width, sum(parameter.numel() for parameter in combiner.parameters())


def measure_cost(module: nn.Module, images: torch.Tensor) -> Cost:
    """Run a module and return the cost of its convolutions and linear layers for one image."""
    macs = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal macs
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        macs += weight.shape[1:].numel() * output[0].numel()

    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = module.training
    try:
        with torch.no_grad():
            module.eval()(images)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return Cost(sum(parameter.numel() for parameter in module.parameters()), macs)
