"""The picture of any cell: nothing overlaps, no edge runs through a box, and what it shows is the genotype."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasnet_det.draw.layout import BOX_HEIGHT, Box, CellLayout, Edge, lay_out
from nasnet_det.genotypes.genotype import CellGenotype, Genotype
from nasnet_det.genotypes.published import PUBLISHED
from tests.helpers import cells as any_cell

WIDTH, WIDE = 0.6, 1.1


@st.composite
def cells(draw: st.DrawFn) -> tuple[CellGenotype, int, bool]:
    """Any cell of up to seven blocks, the number of its inputs, and whether it passes all states on."""
    count, passes_all = draw(st.integers(1, 7)), draw(st.booleans())
    num_inputs = count if passes_all else 2
    return draw(any_cell(count, num_inputs, passes_all)), num_inputs, passes_all


def made(cell: CellGenotype, num_inputs: int, passes_all: bool) -> CellLayout:
    return lay_out(cell, num_inputs, passes_all, WIDTH, WIDE)


def overlap(one: Box, other: Box) -> bool:
    sideways = abs(one.x - other.x) < (one.width + other.width) / 2
    return sideways and abs(one.y - other.y) < BOX_HEIGHT


def way(edge: Edge, steps: int = 24) -> list[tuple[float, float]]:
    """Points of the drawn curve: a cubic whose inner control points are half way up."""
    (x0, y0), (x1, y1) = edge.start, edge.end
    middle = (y0 + y1) / 2
    points = []
    for step in range(1, steps):
        t = step / steps
        a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
        points.append(((a + b) * x0 + (c + d) * x1, a * y0 + (b + c) * middle + d * y1))
    return points


def inside(point: tuple[float, float], box: Box) -> bool:
    return abs(point[0] - box.x) < box.width / 2 and abs(point[1] - box.y) < BOX_HEIGHT / 2


def near(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return abs(one[0] - other[0]) < 1e-6 and abs(one[1] - other[1]) < 1e-6


def shown(layout: CellLayout) -> tuple[Counter[tuple[int, str, int]], list[int]]:
    """Return the content of a picture, read from its lines: (state made, operation, state read) of every operation, and
    the states that are concatenated or passed on."""

    def below(edge: Edge) -> Box:
        for box in layout.boxes:
            if near(edge.start, (box.x, box.y + BOX_HEIGHT / 2)):
                return box
        (piece,) = (piece for piece in layout.edges if near(piece.end, edge.start))
        assert piece.state == edge.state, "a way goes on as another state's"
        return below(piece)

    arriving: list[tuple[Box, Box]] = []  # what an edge leaves, and the box it ends at
    for edge in layout.edges:
        for box in layout.boxes:
            if abs(edge.end[1] - (box.y - BOX_HEIGHT / 2)) < 1e-6 and abs(edge.end[0] - box.x) < box.width / 2:
                arriving.append((below(edge), box))
    makes = {id(source): target.state for source, target in arriving if target.kind == "combiner"}
    triples = Counter(
        (makes[id(target)], target.name, source.state) for source, target in arriving if target.kind == "operation"
    )
    ends = "concat" if any(box.kind == "concat" for box in layout.boxes) else "output"
    return triples, sorted(source.state for source, target in arriving if target.kind == ends)


@settings(max_examples=40, deadline=None)
@given(cells())
def test_any_cell_is_drawn_whole_and_clear(made_of: tuple[CellGenotype, int, bool]) -> None:
    cell, num_inputs, passes_all = made_of
    layout = made(cell, num_inputs, passes_all)

    for i, box in enumerate(layout.boxes):
        assert box.x - box.width / 2 >= -1e-6 and box.x + box.width / 2 <= layout.width + 1e-6
        assert box.y - BOX_HEIGHT / 2 >= -1e-6 and box.y + BOX_HEIGHT / 2 <= layout.height + 1e-6
        assert not any(overlap(box, other) for other in layout.boxes[:i])
    for edge in layout.edges:
        assert not any(inside(point, box) for point in way(edge) for box in layout.boxes)
        assert edge.start[1] < edge.end[1], "data flows upwards"

    triples, concat = shown(layout)
    expected = Counter(
        (num_inputs + number, operation, state)
        for number, block in enumerate(cell.blocks)
        for state, operation in block.sides
    )
    assert triples == expected
    assert concat == list(cell.concat)
    assert Counter(box.name for box in layout.boxes if box.kind == "combiner") == Counter(
        block.combine for block in cell.blocks
    )


@pytest.mark.parametrize("genotype", PUBLISHED.values(), ids=lambda genotype: str(genotype.name))
def test_few_edges_of_published_cells_cross(genotype: Genotype) -> None:
    for cell in genotype.cells.values():
        layout = made(cell, 2, False)
        crossings = sum(
            (one.start[0] - other.start[0]) * (one.end[0] - other.end[0]) < 0
            for i, one in enumerate(layout.edges)
            for other in layout.edges[:i]
            if one.start[1] == other.start[1] and one.end[1] == other.end[1]
        )
        assert crossings <= 6  # four blocks that each read both inputs cannot do with fewer


def test_the_same_cell_is_always_laid_out_the_same() -> None:
    cell = PUBLISHED["amoebanet_a"].normal
    assert made(cell, 2, False) == made(cell, 2, False)
