"""Positions of the boxes and edges in a cell's picture. All lengths are in inches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from nasnet_det.draw.layers import Item, LayeredGraph, Link, build_graph, order_graph
from nasnet_det.genotypes.genotype import CellGenotype

BoxKind = Literal["input", "operation", "combiner", "concat", "output"]

BOX_HEIGHT = 0.4
RISE = 0.24  # from one box to the next of the same item


@dataclass(frozen=True)
class Box:
    """A box, given by its centre.

    ``name`` is an operation or combiner. ``state`` is the state of an input or a combiner, or the index of an output;
    None for operations and concatenations."""

    kind: BoxKind
    name: str
    state: int | None
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Edge:
    """A segment of the path of a state, or of an operation's result (None), with vertical tangents at both ends."""

    state: int | None
    start: tuple[float, float]
    end: tuple[float, float]


@dataclass(frozen=True)
class CellLayout:
    """Boxes and edges in the rectangle from (0, 0) to (width, height)."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float


def lay_out(cell: CellGenotype, num_inputs: int, passes_all: bool, box_width: float, wide: float) -> CellLayout:
    """Return the layout of a cell's picture.

    Args:
        cell: the cell.
        num_inputs: its number of input states.
        passes_all: whether each created state is an output of its own.
        box_width: the width of inputs, operations, combiners and outputs, enough for their labels.
        wide: the minimum width of the box that concatenates several states.
    """
    joins = len(cell.concat) > 1 and not passes_all
    graph = build_graph(cell, num_inputs, max(wide, 0.22 * len(cell.concat)) if joins else box_width, joins, box_width)
    order_graph(graph)
    return _Picture(cell, num_inputs, joins, box_width).draw(graph)


@dataclass
class _Picture:
    """Boxes and edges of placed items; this class decides their heights."""

    cell: CellGenotype
    num_inputs: int
    joins: bool
    box_width: float
    boxes: list[Box] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)

    def draw(self, graph: LayeredGraph) -> CellLayout:
        """Return the layout of the layers, built from the bottom."""
        items = [item for layer in graph.layers for item in layer]
        left = min(item.x - item.width / 2 for item in items)
        for item in items:
            item.x -= left
        top = 0.0
        for number, layer in enumerate(graph.layers):
            bottom = top
            if number:
                # The longer the horizontal run of edges in a gap, the more height separates them.
                bottom += 0.42 + min(0.8, 0.14 * max(link.span for link in graph.gaps[number - 1]))
                self._draw_gap(graph.gaps[number - 1], top, bottom)
            high = any(item.kind == "block" for item in layer) or (self.joins and layer[0].kind == "output")
            top = bottom + (2 * BOX_HEIGHT + RISE if high else BOX_HEIGHT)
            for item in layer:
                self._draw_item(item, bottom, top)
        return CellLayout(tuple(self.boxes), tuple(self.edges), max(item.x + item.width / 2 for item in items), top)

    def _draw_gap(self, links: Sequence[Link], bottom: float, top: float) -> None:
        # Concatenated states arrive side by side, in their order in the layer below.
        arriving = sorted((link for link in links if link.above.kind == "output"), key=lambda link: link.below.x)
        for link in links:
            x = link.above.port(link.side)
            if self.joins and link.above.kind == "output":
                x += 0.2 * (arriving.index(link) - (len(arriving) - 1) / 2)
            state = link.below.state
            self.edges.append(Edge(state, (link.below.x, bottom), (x, top)))

    def _draw_item(self, item: Item, bottom: float, top: float) -> None:
        low, high = bottom + BOX_HEIGHT / 2, top - BOX_HEIGHT / 2
        if item.kind == "lane":
            self.edges.append(Edge(item.state, (item.x, bottom), (item.x, top)))
        elif item.kind == "input":
            self.boxes.append(Box("input", "", item.state, item.x, low, self.box_width))
        elif item.kind == "output":
            if self.joins:
                self.boxes.append(Box("concat", "concat", None, item.x, low, item.width))
                self.edges.append(Edge(None, (item.x, bottom + BOX_HEIGHT), (item.x, top - BOX_HEIGHT)))
            self.boxes.append(Box("output", "", item.state, item.x, high, self.box_width))
        else:
            block = self.cell.blocks[item.state - self.num_inputs]
            for side, operation in ((-1, block.left_operation), (1, block.right_operation)):
                x = item.port(side)
                self.boxes.append(Box("operation", operation, None, x, low, self.box_width))
                start, end = (x, bottom + BOX_HEIGHT), (item.x + (x - item.x) / 3, top - BOX_HEIGHT)
                self.edges.append(Edge(None, start, end))
            self.boxes.append(Box("combiner", block.combine, item.state, item.x, high, self.box_width))
