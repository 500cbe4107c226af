"""Layered drawing of a cell with few crossings and short edges (Sugiyama, Tagawa and Toda 1981).

The inputs are at the bottom, each block one layer above the highest state that it reads, the output at the top. A state
that is read further up passes the layers in between in a lane of its own, so no edge runs through a box. All lengths
are in inches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Literal

from nasnet_det.genotypes.genotype import CellGenotype

ItemKind = Literal["input", "block", "lane", "output"]

BOX_GAP = 0.08  # between the operations of a block, and between a lane and its neighbours
BLOCK_GAP = 0.22
LANE_WIDTH = 0.1
RESTARTS = 16
SWEEPS = 60


@dataclass(eq=False)
class Item:
    """An element of a layer: an input, a block, a lane, or an output (``state`` is then the output's index)."""

    kind: ItemKind
    state: int
    width: float
    reach: float = 0.0  # from a block's centre to the middle of either operation
    flipped: bool = False
    index: int = 0
    x: float = 0.0

    def port(self, side: int) -> float:
        """Return the x coordinate at which edges to the left (-1) or right (1) operation or to the centre (0) end."""
        return self.x + side * self.reach * (-1 if self.flipped else 1)


@dataclass(frozen=True)
class Link:
    """An edge from an item to a side of an item one layer above."""

    below: Item
    above: Item
    side: int = 0

    @property
    def weight(self) -> float:
        """Weight in the placement: straight lanes matter more than short edges."""
        return 8.0 if self.below.kind == self.above.kind == "lane" else 1.0

    @property
    def span(self) -> float:
        """Horizontal extent."""
        return abs(self.above.port(self.side) - self.below.x)


@dataclass
class LayeredGraph:
    """Items by layer from the bottom, and the links of each gap between two layers."""

    layers: list[list[Item]]
    gaps: list[list[Link]] = field(default_factory=list)

    def touching(self, number: int) -> list[list[Link]]:
        """Return the links of the gaps below and above a layer."""
        return self.gaps[max(0, number - 1) : number + 1]


def build_graph(
    cell: CellGenotype, num_inputs: int, output_width: float, joins: bool, box_width: float
) -> LayeredGraph:
    """Return the items of a cell, and links from each state through the layers in between to its readers."""
    layer_of = [0] * num_inputs
    for block in cell.blocks:
        layer_of.append(1 + max(layer_of[block.left], layer_of[block.right]))
    top = 1 + max(layer_of)
    graph = LayeredGraph([[] for _ in range(top + 1)], [[] for _ in range(top)])

    def add(kind: ItemKind, state: int, layer: int, width: float, reach: float = 0.0) -> Item:
        item = Item(kind, state, width, reach)
        graph.layers[layer].append(item)
        return item

    block_width, reach = 2 * box_width + BOX_GAP, (box_width + BOX_GAP) / 2
    items = [add("input", state, 0, box_width) for state in range(num_inputs)]
    items += [add("block", s, layer_of[s], block_width, reach) for s in range(num_inputs, len(layer_of))]
    outputs = [add("output", number, top, output_width) for number in range(1 if joins else len(cell.concat))]

    readers: list[list[tuple[int, Item, int]]] = [[] for _ in items]  # of each state: layer, item, side
    for item, block in zip(items[num_inputs:], cell.blocks, strict=True):
        readers[block.left].append((layer_of[item.state], item, -1))
        readers[block.right].append((layer_of[item.state], item, 1))
    for number, state in enumerate(cell.concat):
        readers[state].append((top, outputs[0 if joins else number], 0))

    for state, wanted in enumerate(readers):
        carrier, last = items[state], max((layer for layer, *_ in wanted), default=0)
        for layer in range(layer_of[state] + 1, last + 1):
            graph.gaps[layer - 1] += [Link(carrier, item, side) for at, item, side in wanted if at == layer]
            if layer < last:
                lane = add("lane", state, layer, LANE_WIDTH)
                graph.gaps[layer - 1].append(Link(carrier, lane))
                carrier = lane
    return graph


def order_graph(graph: LayeredGraph) -> None:
    """Order the layers and flip blocks for the fewest crossings, then for the shortest edges, over random restarts."""
    shuffle = random.Random(0).shuffle
    items = [item for layer in graph.layers for item in layer]
    best: tuple[float, ...] | None = None
    kept: list[tuple[int, bool, float]] = []
    for attempt in range(RESTARTS):
        for layer in graph.layers:
            if attempt:
                shuffle(layer)
            _number(layer)
        while any(_improve(layer, graph.touching(number)) for number, layer in enumerate(graph.layers)):
            pass
        _place(graph)
        cost = sum(map(_crossings, graph.gaps)), sum(link.span for gap in graph.gaps for link in gap)
        if best is None or cost < best:
            best, kept = cost, [(item.index, item.flipped, item.x) for item in items]
    for item, (index, flipped, x) in zip(items, kept, strict=True):
        item.index, item.flipped, item.x = index, flipped, x
    for layer in graph.layers:
        layer.sort(key=lambda item: item.index)


def _number(layer: Sequence[Item]) -> None:
    for index, item in enumerate(layer):
        item.index = index


def _crossings(links: Sequence[Link]) -> int:
    ends = [
        (link.below.index, link.above.index + 0.1 * link.side * (-1 if link.above.flipped else 1)) for link in links
    ]
    return sum(
        (below - other_below) * (above - other_above) < 0
        for i, (below, above) in enumerate(ends)
        for other_below, other_above in ends[:i]
    )


def _improve(layer: list[Item], gaps: Sequence[Sequence[Link]]) -> bool:
    """Exchange items and flip blocks wherever that removes a crossing; return whether anything changed."""
    changes: Iterator[Callable[[], None]] = (
        partial(_exchange, layer, i, j) if j < i else partial(_flip, layer[i])
        for i in range(len(layer))
        for j in range(i + 1)
    )
    improved = False
    for change in changes:
        before = sum(map(_crossings, gaps))
        change()
        if sum(map(_crossings, gaps)) < before:
            improved = True
        else:
            change()  # each change is its own inverse
    return improved


def _exchange(layer: list[Item], i: int, j: int) -> None:
    layer[i], layer[j] = layer[j], layer[i]
    layer[i].index, layer[j].index = i, j


def _flip(item: Item) -> None:
    item.flipped = not item.flipped


def _place(graph: LayeredGraph) -> None:
    """Move every item towards its neighbours, sweeping down and up the layers, with order and distances kept."""
    for layer in graph.layers:
        _settle(layer, [0.0] * len(layer), [1.0] * len(layer))
    for sweep in range(SWEEPS):
        numbers = range(len(graph.layers))
        for number in numbers if sweep % 2 else reversed(numbers):
            pulls: dict[Item, list[tuple[float, float]]] = {item: [] for item in graph.layers[number]}
            for link in (link for gap in graph.touching(number) for link in gap):
                if link.above in pulls:
                    pulls[link.above].append((link.below.x - link.above.port(link.side) + link.above.x, link.weight))
                else:
                    pulls[link.below].append((link.above.port(link.side), link.weight))
            weights = [sum(weight for _, weight in pull) or 1e-3 for pull in pulls.values()]
            wishes = [sum(x * w for x, w in pull) / total for pull, total in zip(pulls.values(), weights, strict=True)]
            _settle(graph.layers[number], wishes, weights)


def _settle(layer: Sequence[Item], wishes: Sequence[float], weights: Sequence[float]) -> None:
    """Place the items of a layer closest to their wishes (least squares), with order and minimum distances kept.

    This is isotonic regression, solved by pooling neighbours that would overlap.
    """
    offsets = [0.0]
    for left, right in pairwise(layer):
        gap = BOX_GAP if "lane" in (left.kind, right.kind) else BLOCK_GAP
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + gap)
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for wish, offset, weight in zip(wishes, offsets, weights, strict=True):
        pools.append((wish - offset, weight, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (mean, heavy, many), (other, light, few) = pools[-2:]
            pools[-2:] = [((mean * heavy + other * light) / (heavy + light), heavy + light, many + few)]
    means = [mean for mean, _, members in pools for _ in range(members)]
    for item, mean, offset in zip(layer, means, offsets, strict=True):
        item.x = mean + offset
