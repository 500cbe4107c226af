"""A network in the style of quark0/darts (``cnn/model.py``): what most follow-up code of cell search trains with.

Written after that code's structure to be measured beside ours: a cell is a list of operations read by indices in
Python, every convolution is followed by batch norm, drop path multiplies by a mask, all in eager mode and contiguous
memory; a training step clips the gradient and reads the loss back. The cells are its DARTS_V2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

#: DARTS_V2 (arXiv:1806.09055): (operation, input) pairs; 0 is two cells back, 1 one cell back.
NORMAL = (("sep3", 0), ("sep3", 1), ("sep3", 0), ("sep3", 1), ("sep3", 1), ("skip", 0), ("skip", 0), ("dil3", 2))
REDUCTION = (("max3", 0), ("max3", 1), ("skip", 2), ("max3", 1), ("max3", 0), ("skip", 2), ("skip", 2), ("max3", 1))
NODES = (2, 3, 4, 5)


def conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    """ReLU, 1x1 convolution, batch norm."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def separable(channels: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """ReLU, depthwise 3x3, pointwise, batch norm."""
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]


class FactorizedReduce(nn.Module):
    """Two strided 1x1 convolutions, one of the map shifted by one pixel."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.act, self.norm = nn.ReLU(), nn.BatchNorm2d(outputs)
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


def operation(name: str, channels: int, stride: int) -> nn.Module:
    """One operation of a node."""
    if name == "sep3":
        return nn.Sequential(*separable(channels, stride), *separable(channels, 1))
    if name == "dil3":
        return nn.Sequential(*separable(channels, stride, dilation=2))
    if name == "max3":
        return nn.MaxPool2d(3, stride, 1)
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)


class Cell(nn.Module):
    """Four nodes, each the sum of two operations."""

    def __init__(self, before: int, previous: int, channels: int, reduces: bool, previous_reduces: bool) -> None:
        super().__init__()
        self.first = FactorizedReduce(before, channels) if previous_reduces else conv_norm(before, channels)
        self.second = conv_norm(previous, channels)
        self.edges = REDUCTION if reduces else NORMAL
        self.operations = nn.ModuleList(
            operation(name, channels, 2 if reduces and state < 2 else 1) for name, state in self.edges
        )

    def forward(self, before: Tensor, previous: Tensor, drop: float) -> Tensor:
        states = [self.first(before), self.second(previous)]
        for node in range(len(self.edges) // 2):
            pair = []
            for edge in (2 * node, 2 * node + 1):
                x = self.operations[edge](states[self.edges[edge][1]])
                if self.training and drop > 0 and not isinstance(self.operations[edge], nn.Identity):
                    keep = 1.0 - drop
                    x = x.div(keep).mul(torch.empty(len(x), 1, 1, 1, device=x.device).bernoulli_(keep))
                pair.append(x)
            states.append(pair[0] + pair[1])
        return torch.cat([states[node] for node in NODES], dim=1)


class DartsStyle(nn.Module):
    """20 cells on 32 x 32 images, 36 channels at first, an auxiliary head two thirds of the way up."""

    def __init__(self, channels: int = 36, layers: int = 20, num_classes: int = 10, drop_path: float = 0.2) -> None:
        super().__init__()
        width = 3 * channels
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.cells, before, previous, previous_reduces = nn.ModuleList(), width, width, False
        self.drop_path, self.tap = drop_path, 2 * layers // 3
        for layer in range(layers):
            reduces = layer in (layers // 3, 2 * layers // 3)
            channels *= 2 if reduces else 1
            self.cells.append(Cell(before, previous, channels, reduces, previous_reduces))
            before, previous, previous_reduces = previous, 4 * channels, reduces
            if layer == self.tap:
                self.auxiliary = nn.Sequential(
                    nn.ReLU(),
                    nn.AvgPool2d(5, 3, 0, count_include_pad=False),
                    nn.Conv2d(previous, 128, 1, bias=False),
                    nn.BatchNorm2d(128),
                    nn.ReLU(),
                    nn.Conv2d(128, 768, 2, bias=False),
                    nn.BatchNorm2d(768),
                    nn.ReLU(),
                    nn.Flatten(),
                    nn.Linear(768, num_classes),
                )
        self.classifier = nn.Linear(previous, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = previous = self.stem(x)
        auxiliary = x
        for layer, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous, self.drop_path)
            if layer == self.tap:
                auxiliary = self.auxiliary(previous)
        return self.classifier(previous.mean(dim=(2, 3))), auxiliary


class DartsStyleStep:
    """Its training step: SGD, clipping, the loss read back."""

    def __init__(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> None:
        self.memory_format = memory_format
        self.network = DartsStyle().to(device, memory_format=memory_format).train()
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)

    def step(self, images: Tensor, labels: Tensor) -> float:
        """One step; gives the loss."""
        self.optimizer.zero_grad()
        logits, auxiliary = self.network(images.contiguous(memory_format=self.memory_format))
        loss = functional.cross_entropy(logits, labels) + 0.4 * functional.cross_entropy(auxiliary, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        return loss.item()
