"""The wiring of a network as data: the order of its cells, the outputs that each reads, and the sizes that make one.

Everything else is derived from it: the modules, the inputs of each cell, feature maps, pruning, and the position at
which a detector cuts the network. Sources: paper figure 2; TF-slim ``nets/nasnet/nasnet.py``
(``_build_nasnet_base``) decides the details.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Stem = Literal["imagenet", "cifar"]
IMAGENET_STEM_CELLS = 2
#: The most normal cells of a stage, and filters: many times those of any published network.
_MOST_CELLS, _MOST_FILTERS = 100, 10_000


@dataclass(frozen=True)
class CellPlan:
    """The position of a cell in the network.

    Outputs are numbered in the order they are made; 0 is the stem convolution's, ``i + 1`` is that of cell ``i``.

    Args:
        name: TF-slim's scope: ``cell_stem_0``, ``cell_7``, ``reduction_cell_1``.
        reduces: whether it is the genotype's reduction cell.
        current: the output it reads as its current state.
        previous: the output it reads as its previous state; None for the first cell.
        filters: F of this cell.
        stage: the number of reductions below its output, without the stem's; -1 for stem cells.
    """

    name: str
    reduces: bool
    current: int
    previous: int | None
    filters: int
    stage: int

    @property
    def output(self) -> int:
        """The number of its output."""
        return self.current + 1


def plan_cells(
    stages: Sequence[int], num_filters: int, stem: Stem = "imagenet", skip_reduction_layer_input: bool = False
) -> tuple[CellPlan, ...]:
    """The wiring of a network.

    Args:
        stages: the number of normal cells before the first reduction, between reductions, and after the last.
        num_filters: F of the first stage; it doubles at every reduction. The ImageNet stem's cells have F/4 and F/2.
        stem: ``imagenet`` puts two reduction cells below the first stage, ``cifar`` none.
        skip_reduction_layer_input: the first normal cell after a reduction takes as its previous state what the
            reduction took as its own (the released large network), instead of the output just below the reduction.
    """
    plans: list[CellPlan] = []
    outputs: list[int | None] = [None, 0]  # TF-slim's cell_outputs

    def add(name: str, reduces: bool, filters: int, stage: int, previous: int | None) -> None:
        plans.append(CellPlan(name, reduces, len(plans), previous, filters, stage))
        outputs.append(len(plans))

    if stem == "imagenet":
        for i in range(IMAGENET_STEM_CELLS):
            add(f"cell_stem_{i}", True, num_filters // 2 ** (IMAGENET_STEM_CELLS - i), -1, outputs[-2])
    number = 0
    for stage, num_cells in enumerate(stages):
        filters = num_filters * 2**stage
        skipped = outputs[-2]
        if stage:
            add(f"reduction_cell_{stage - 1}", True, filters, stage, outputs[-2])
        for i in range(num_cells):
            previous = skipped if i == 0 and skip_reduction_layer_input else outputs[-2]
            add(f"cell_{number}", False, filters, stage, previous)
            number += 1
    return tuple(plans)


def slim_stages(num_cells: int, num_reductions: int = 2) -> tuple[int, ...]:
    """Normal cells per stage from their total: TF-slim's ``calc_reduction_layers``."""
    positions = [0, *(int(k / (num_reductions + 1) * num_cells) for k in range(1, num_reductions + 1)), num_cells]
    return tuple(after - before for before, after in pairwise(positions))


def check_size(stages: Sequence[int], num_filters: int, stem: str, output_stride: int | None = None) -> None:
    """Refuse sizes that make no network.

    Args:
        stages: the number of normal cells of each stage.
        num_filters: of the first normal cell.
        stem: ``imagenet`` or ``cifar``.
        output_stride: the largest stride of a map; None for all that the stages make.

    Raises:
        ValueError: naming the size.
    """
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem is 'imagenet' or 'cifar', not {stem!r:.60}")
    if not stages or any(type(n) is not int or not 1 <= n <= _MOST_CELLS for n in stages):
        raise ValueError(f"num_cells is the normal cells of each stage, 1 to {_MOST_CELLS}, not {stages!r:.60}")
    least = 2**IMAGENET_STEM_CELLS if stem == "imagenet" else 1
    if type(num_filters) is not int or not least <= num_filters <= _MOST_FILTERS:
        raise ValueError(
            f"num_filters is a whole number from {least} to {_MOST_FILTERS} with this stem, not {num_filters!r:.60}"
        )
    first, count = (2, len(stages) + IMAGENET_STEM_CELLS) if stem == "imagenet" else (1, len(stages))
    strides = [first * 2**i for i in range(count)]
    if output_stride is not None and output_stride not in strides:
        raise ValueError(f"output_stride is one of {strides} for this network, not {output_stride!r:.60}")
