"""The search space: the decisions about a pair of cells, and the genotype that they make.

Paper section 2: each of two cells has B blocks of five decisions: two states, an operation on each, and how to combine
the results. Decisions are numbered in the order in which the paper's controller makes them: the normal cell's blocks,
then the reduction cell's. B, the operations and the combiners are settings, so the variants of the paper's appendix B
are settings too.

Every sequence of decisions makes a genotype whose every weight takes part in the output. Two rules see to it:

* States that no block reads are concatenated. The paper states this for created states; here it holds for a cell's
  inputs as well, which TF-slim's ``used_hiddenstates`` also counts among the states. Otherwise one cell in 18 would
  ignore one of the cells below it, and whole cells of the network would be trained in vain.
* A cell whose inputs are all states of the cell below (NASNet-B) reads each of them: when only as many reads are left
  as inputs are unread, a decision chooses among these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb, prod
from numbers import Integral
from typing import Any

from nasnet_det.genotypes.genotype import COMBINERS, OPERATIONS, Block, CellGenotype, Genotype
from nasnet_det.safe_io.settings import build
from nasnet_det.safe_io.values import format_names, format_value
from nasnet_det.search.strategies.base import Decisions

#: The thirteen operations of the paper's section 2, in its order.
PAPER_OPERATIONS = (
    "identity",
    "conv_1x7_7x1",
    "avg_pool_3x3",
    "max_pool_5x5",
    "conv_1x1",
    "sep_conv_3x3",
    "sep_conv_7x7",
    "conv_1x3_3x1",
    "dil_conv_3x3",
    "max_pool_3x3",
    "max_pool_7x7",
    "conv_3x3",
    "sep_conv_5x5",
)
#: Decisions about a block; the most blocks, many times those of any published cell.
_PER_BLOCK, _MOST_BLOCKS = 5, 100


class SpaceError(ValueError):
    """Invalid settings of a space, or decisions or a genotype that do not belong to one."""


@dataclass(frozen=True)
class Space:
    """The settings of a search space; the defaults are NASNet-A's.

    Args:
        blocks: B, of each cell.
        operations: what may be applied to a state.
        combiners: how a block may combine two.
        passes_all: each cell outputs all states that it creates, as many as it has inputs (NASNet-B).

    Raises:
        SpaceError: for a value of another type, an empty set of choices, or a name that is unknown or repeated.
    """

    blocks: int = 5
    operations: tuple[str, ...] = PAPER_OPERATIONS
    combiners: tuple[str, ...] = ("add", "concat")
    passes_all: bool = False

    def __post_init__(self) -> None:
        if type(self.blocks) is not int or not 1 <= self.blocks <= _MOST_BLOCKS:
            raise SpaceError(f"blocks must be an int from 1 to {_MOST_BLOCKS}, got {format_value(self.blocks)}")
        for what, names, known in (
            ("operations", self.operations, OPERATIONS),
            ("combiners", self.combiners, COMBINERS),
        ):
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise SpaceError(f"{what} must be a tuple of names, got {format_value(names)}")
            if unknown := [name for name in names if name not in known]:
                raise SpaceError(f"unknown {what}: {format_names(unknown)}; known: {', '.join(known)}")
            if not names or len(set(names)) < len(names):
                raise SpaceError(f"{what} must be at least one name, each given once, got {format_value(list(names))}")
        if not isinstance(self.passes_all, bool):
            raise SpaceError(f"passes_all must be true or false, got {format_value(self.passes_all)}")

    @property
    def num_inputs(self) -> int:
        """The number of inputs of a cell."""
        return self.blocks if self.passes_all else 2

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of choices of each of the ``2 * 5 * blocks`` decisions."""
        operations, combiners = len(self.operations), len(self.combiners)
        cell: list[int] = []
        for states in range(self.num_inputs, self.num_inputs + self.blocks):
            cell += [states, states, operations, operations, combiners]
        return tuple(cell * 2)

    @property
    def num_architectures(self) -> int:
        """The number of genotypes that decisions can make.

        If every input must be read, it is counted by inclusion and exclusion of the unread inputs.
        """
        operations, combiners = len(self.operations), len(self.combiners)

        def cells(inputs: int) -> int:
            return prod(((inputs + block) * operations) ** 2 * combiners for block in range(self.blocks))

        unread = range(self.num_inputs if self.passes_all else 1)
        total = sum((-1) ** k * comb(self.num_inputs, k) * cells(self.num_inputs - k) for k in unread)
        return total**2

    def genotype(self, decisions: Sequence[int]) -> Genotype:
        """Return the genotype of a sequence of decisions.

        Raises:
            SpaceError: for too many or too few decisions, or one beyond its choices.
        """
        sizes = self.sizes
        count = len(decisions) if isinstance(decisions, Sequence) else format_value(decisions)
        if count != len(sizes):
            raise SpaceError(f"an architecture of this space has {len(sizes)} decisions, got {count}")
        for i, (decision, size) in enumerate(zip(decisions, sizes, strict=True)):
            if isinstance(decision, bool) or not isinstance(decision, Integral) or not 0 <= decision < size:
                raise SpaceError(f"decision {i} must be from 0 to {size - 1}, got {format_value(decision)}")
        half = len(sizes) // 2
        return Genotype(self._cell(decisions[:half]), self._cell(decisions[half:]), passes_all=self.passes_all)

    def decisions(self, genotype: Genotype) -> Decisions:
        """Return the decisions that make a genotype: ``space.genotype(space.decisions(g))`` has the cells of ``g``.

        Raises:
            SpaceError: for a genotype outside this space.
        """
        found: list[int] = []
        for kind, cell in genotype.cells.items():
            if len(cell.blocks) != self.blocks:
                raise SpaceError(f"the {kind} cell has {len(cell.blocks)} blocks, not {self.blocks} as in this space")
            reads = self._choices([state for block in cell.blocks for state, _ in block.sides])
            for number, block in enumerate(cell.blocks):
                where = f"{kind} cell, block {number}"
                found += reads[2 * number : 2 * number + 2]
                found += [_index(name, self.operations, where) for _, name in block.sides]
                found += [_index(block.combine, self.combiners, where)]
        made = self.genotype(found)
        for kind, cell in genotype.cells.items():
            if made.cells[kind].blocks != cell.blocks:
                raise SpaceError(f"the {kind} cell does not read all of its inputs, as it must in this space")
            if genotype.passes_all != self.passes_all or made.cells[kind].concat != cell.concat:
                raise SpaceError(
                    f"the {kind} cell's output is not that of this space, which is {list(made.cells[kind].concat)}"
                )
        return tuple(found)

    def parameters(self, decisions: Sequence[int]) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """Return decisions as named parameters, each a value and its choices: ``normal_0_left_operation``."""
        named: dict[str, tuple[Any, tuple[Any, ...]]] = {}
        for i, (decision, size) in enumerate(zip(decisions, self.sizes, strict=True)):
            block, part = divmod(i, _PER_BLOCK)
            kind, number = ("normal", block) if block < self.blocks else ("reduction", block - self.blocks)
            name = ("left_input", "right_input", "left_operation", "right_operation", "combine")[part]
            choices = (range(size), range(size), self.operations, self.operations, self.combiners)[part]
            named[f"{kind}_{number}_{name}"] = choices[decision], tuple(choices)
        return named

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "operations": list(self.operations), "combiners": list(self.combiners)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Space:
        """Read what :meth:`to_dict` gave.

        Raises:
            SpaceError: for a setting that is unknown, or of another type or range.
        """
        return build(cls, data, SpaceError, "space")

    def _cell(self, decisions: Sequence[int]) -> CellGenotype:
        rows = [decisions[i : i + _PER_BLOCK] for i in range(0, len(decisions), _PER_BLOCK)]
        reads = self._reads([choice for row in rows for choice in row[:2]])
        blocks = tuple(
            Block(
                reads[2 * number],
                reads[2 * number + 1],
                self.operations[row[2]],
                self.operations[row[3]],
                self.combiners[row[4]],
            )
            for number, row in enumerate(rows)
        )
        states = range(self.num_inputs + self.blocks)
        concat = states[self.num_inputs :] if self.passes_all else [s for s in states if s not in reads]
        return CellGenotype(blocks, tuple(concat))

    def _reads(self, choices: Sequence[int]) -> list[int]:
        """Return the states that the blocks of a cell read, two for each block."""
        reads: list[int] = []
        for choice in choices:
            unread = self._must_read(reads)
            reads.append(unread[choice % len(unread)] if unread else choice)
        return reads

    def _choices(self, reads: Sequence[int]) -> list[int]:
        """Return the inverse of :meth:`_reads`."""
        choices = []
        for i, state in enumerate(reads):
            unread = self._must_read(reads[:i])
            choices.append(unread.index(state) if state in unread else state)
        return choices

    def _must_read(self, reads: Sequence[int]) -> list[int]:
        """Return the unread inputs if only as many reads are left, else nothing."""
        unread = [state for state in range(self.num_inputs) if state not in reads]
        left = 2 * self.blocks - len(reads)
        return unread if self.passes_all and len(unread) == left else []


def _index(name: str, names: Sequence[str], where: str) -> int:
    if name not in names:
        raise SpaceError(f"{where}: {name} is not in this space, which has {', '.join(names)}")
    return names.index(name)


#: The spaces of the paper: section 2, and the two variants of appendix B (figures 7 and 8).
SPACES: dict[str, Space] = {
    "nasnet_a": Space(),
    "nasnet_b": Space(blocks=4, combiners=tuple(COMBINERS), passes_all=True),
    "nasnet_c": Space(blocks=4, combiners=tuple(COMBINERS)),
}
