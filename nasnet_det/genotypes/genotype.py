"""Cells as data: a validated, immutable genotype, read from and written to JSON.

A genotype holds a normal and a reduction cell. A cell is a list of blocks; a block applies an operation to each of two
states and combines the results into a new state. States are numbered in the paper's order (section 2, figure 3, and
TF-slim's ``nasnet_utils.py``): the cell's inputs first, then what each block creates::

    0  the output of the cell below, after ReLU, 1x1 convolution and batch norm
    1  the output of the cell below that one, projected to the same size and width where they differ
    2  the result of block 0, 3 that of block 1, ...

The cell's output concatenates some of the states. A genotype may instead pass *all* created states to the next cell,
one by one, as the paper's appendix B describes for NASNet-B: each cell then has as many inputs as blocks.

Invalid genotypes raise :class:`GenotypeError`, which names the cell, the block and the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasnet_det.safe_io.files import protect, write_text
from nasnet_det.safe_io.values import format_names, format_value, parse_json, reason

FORMAT = "nasnet_det.genotype"
VERSION = 1

#: Operations of a block with their descriptions; ``operations.py`` has the module of each.
OPERATIONS: dict[str, str] = {
    "identity": "identity",
    "conv_1x1": "1x1 convolution",
    "conv_3x3": "3x3 convolution",
    "conv_1x3_3x1": "1x3 then 3x1 convolution",
    "conv_1x7_7x1": "1x7 then 7x1 convolution",
    "conv_7x1_1x7": "7x1 then 1x7 convolution",
    "dil_conv_3x3": "3x3 dilated convolution",
    "sep_conv_3x3": "3x3 depthwise-separable convolution, twice",
    "sep_conv_5x5": "5x5 depthwise-separable convolution, twice",
    "sep_conv_7x7": "7x7 depthwise-separable convolution, twice",
    "dil_sep_conv_5x5": "5x5 depthwise-separable convolution dilated by 2, twice",
    "dil_sep_conv_3x3_once": "3x3 depthwise-separable convolution dilated by 2, once",
    "dil_sep_conv_5x5_once": "5x5 depthwise-separable convolution dilated by 2, once",
    "avg_pool_3x3": "3x3 average pooling",
    "max_pool_2x2": "2x2 max pooling",
    "max_pool_3x3": "3x3 max pooling",
    "max_pool_5x5": "5x5 max pooling",
    "max_pool_7x7": "7x7 max pooling",
}

#: Combiners of a block's two results with their descriptions.
COMBINERS: dict[str, str] = {
    "add": "elementwise sum",
    "concat": "concatenation along the channels",
    "add_layer_norm": "elementwise sum, then layer normalization",
    "add_instance_norm": "elementwise sum, then instance normalization",
}


class GenotypeError(ValueError):
    """An invalid genotype; names the cell, the block and the reason."""


@dataclass(frozen=True)
class Block:
    """Two operations on two states and the combiner of their results (paper section 2, steps 1 to 5)."""

    left: int
    right: int
    left_operation: str
    right_operation: str
    combine: str = "add"

    @property
    def sides(self) -> tuple[tuple[int, str], tuple[int, str]]:
        """The ``(state, operation)`` pairs, left then right."""
        return (self.left, self.left_operation), (self.right, self.right_operation)


@dataclass(frozen=True)
class CellGenotype:
    """The blocks of one cell and the states that its output concatenates, in ascending order."""

    blocks: tuple[Block, ...]
    concat: tuple[int, ...]


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell.

    Args:
        normal: the cell that keeps the map's size.
        reduction: the cell that halves it: operations on its *inputs* have stride 2.
        passes_all: each cell passes all its created states to the next, one by one (paper appendix B, NASNet-B),
            instead of concatenating some of them. A cell then has as many inputs as blocks.
        name: its common name.
        source: the publication, or how it was found.

    Raises:
        GenotypeError: for an invalid genotype, including one with weights that never reach the output.
    """

    normal: CellGenotype
    reduction: CellGenotype
    passes_all: bool = False
    name: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if self.passes_all and len(self.normal.blocks) != len(self.reduction.blocks):
            raise GenotypeError(
                "a genotype that passes all states on needs as many blocks in its normal as in its reduction cell, "
                f"but they have {len(self.normal.blocks)} and {len(self.reduction.blocks)}"
            )
        for kind, cell in self.cells.items():
            _check_cell(kind, cell, self.num_inputs, self.passes_all)
        if not isinstance(self.passes_all, bool):
            raise GenotypeError(f"passes_all: expected true or false, got {format_value(self.passes_all)}")
        for field in ("name", "source"):
            value = getattr(self, field)
            if value is not None and not isinstance(value, str):
                raise GenotypeError(f"{field}: expected text, got {format_value(value)}")

    @property
    def cells(self) -> dict[str, CellGenotype]:
        """Both cells by kind: ``normal`` and ``reduction``."""
        return {"normal": self.normal, "reduction": self.reduction}

    @property
    def num_inputs(self) -> int:
        """The number of a cell's inputs: 2, or the number of blocks if ``passes_all``."""
        return len(self.normal.blocks) if self.passes_all else 2

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form as plain lists and dictionaries (see ``docs/genotypes.md``)."""
        data: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        data.update({key: value for key in ("name", "source") if (value := getattr(self, key)) is not None})
        data["passes_all"] = self.passes_all
        for kind, cell in self.cells.items():
            blocks = [[b.left, b.right, b.left_operation, b.right_operation, b.combine] for b in cell.blocks]
            data[kind] = {"blocks": blocks, "concat": list(cell.concat)}
        return data

    def to_json(self) -> str:
        """Return the JSON text, one block per line."""
        return _one_block_a_line(self.to_dict()) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the JSON file; an interrupted write leaves the previous file at ``path``."""
        write_text(Path(path), self.to_json())

    @classmethod
    def from_dict(cls, data: Any, origin: str = "genotype") -> Genotype:
        """Build a genotype from its JSON form; ``origin`` names it in errors.

        Raises:
            GenotypeError: if a key is missing or unknown, a value has the wrong type, or the cells are illegal.
        """
        try:
            fields = _keys(data, "it", required=("normal", "reduction"), optional=_OPTIONAL_KEYS)
            if fields.get("format", FORMAT) != FORMAT:
                raise GenotypeError(f"its format is {format_value(fields['format'])}, expected {FORMAT!r}")
            if fields.get("version", VERSION) != VERSION:
                raise GenotypeError(
                    f"its version is {format_value(fields['version'])}; this release reads version {VERSION}"
                )
            return cls(
                normal=_cell_from_dict(fields["normal"], "normal"),
                reduction=_cell_from_dict(fields["reduction"], "reduction"),
                passes_all=fields.get("passes_all", False),
                name=fields.get("name"),
                source=fields.get("source"),
            )
        except GenotypeError as error:
            raise GenotypeError(f"{origin}: {error}") from None

    @classmethod
    def from_json(cls, text: str, origin: str = "genotype") -> Genotype:
        """Build a genotype from JSON text; see :meth:`from_dict`."""
        try:
            data = parse_json(text)
        except ValueError as error:
            raise GenotypeError(f"{origin}: not JSON ({error})") from None
        return cls.from_dict(data, origin)

    @classmethod
    def load(cls, path: str | Path) -> Genotype:
        """Read a JSON file; see :meth:`from_dict`."""
        protect([path])
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise GenotypeError(f"{path}: no such genotype file") from None
        except (OSError, ValueError) as error:  # a ValueError is text that is not UTF-8, or an invalid path
            raise GenotypeError(f"{path}: cannot be read as a genotype ({reason(error)})") from None
        return cls.from_json(text, str(path))


_OPTIONAL_KEYS = ("format", "version", "name", "source", "passes_all")


def _keys(data: Any, what: str, required: Iterable[str], optional: Iterable[str] = ()) -> Mapping[str, Any]:
    """Return ``data`` as a mapping that has all the required keys and no unknown one."""
    if not isinstance(data, Mapping):
        raise GenotypeError(f"{what} must be a JSON object, not {type(data).__name__}")
    missing = [key for key in required if key not in data]
    unknown = sorted(str(key) for key in data if key not in (*required, *optional))
    if missing:
        raise GenotypeError(f"{what} lacks {', '.join(missing)}")
    if unknown:
        raise GenotypeError(f"{what} has unknown keys: {format_names(unknown)}")
    return data


def _cell_from_dict(data: Any, kind: str) -> CellGenotype:
    if isinstance(data, Mapping) and "joined" in data and "concat" not in data:  # files of release 0.1
        data = {"concat" if key == "joined" else key: value for key, value in data.items()}
    fields = _keys(data, f"the {kind} cell", required=("blocks", "concat"))
    for key in ("blocks", "concat"):
        if not isinstance(fields[key], Sequence) or isinstance(fields[key], str):
            raise GenotypeError(f"{kind} cell: {key}: expected a list, got {format_value(fields[key])}")
    blocks = []
    for number, entry in enumerate(fields["blocks"]):
        if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 5:
            raise GenotypeError(
                f"{kind} cell, block {number}: expected [input, input, operation, operation, combiner], "
                f"got {format_value(entry)}"
            )
        blocks.append(Block(*entry))
    return CellGenotype(tuple(blocks), tuple(fields["concat"]))


def _check_cell(kind: str, cell: CellGenotype, num_inputs: int, passes_all: bool) -> None:
    """Check that a cell can be built and that every created state reaches its output."""
    if not isinstance(cell, CellGenotype) or not cell.blocks:
        raise GenotypeError(f"the {kind} cell needs at least one block")
    for number, block in enumerate(cell.blocks):
        where = f"{kind} cell, block {number}"
        states = num_inputs + number
        for side, (state, operation) in zip(("left", "right"), block.sides, strict=True):
            if type(state) is not int or not 0 <= state < states:
                raise GenotypeError(
                    f"{where}: {side} input {format_value(state)} is not a state made before it (0 to {states - 1})"
                )
            if not isinstance(operation, str) or operation not in OPERATIONS:
                raise GenotypeError(
                    f"{where}: unknown operation {format_value(operation)}; known: {', '.join(OPERATIONS)}"
                )
        if not isinstance(block.combine, str) or block.combine not in COMBINERS:
            raise GenotypeError(
                f"{where}: unknown combiner {format_value(block.combine)}; known: {', '.join(COMBINERS)}"
            )

    states = num_inputs + len(cell.blocks)
    for state in cell.concat:
        if type(state) is not int or not 0 <= state < states:
            raise GenotypeError(f"{kind} cell: concat state {format_value(state)} does not exist (0 to {states - 1})")
    if not cell.concat:
        raise GenotypeError(f"{kind} cell: concat is empty, so the cell has no output")
    if list(cell.concat) != sorted(set(cell.concat)):
        raise GenotypeError(f"{kind} cell: concat must ascend without repeats, not {format_value(list(cell.concat))}")
    created = tuple(range(num_inputs, states))
    if passes_all and cell.concat != created:
        raise GenotypeError(
            f"{kind} cell: with passes_all, concat must be all created states {list(created)}, not "
            f"{format_value(list(cell.concat))}"
        )
    # Backwards from the output: a state that is neither concatenated nor read by a live block has no effect.
    live = set(cell.concat)
    for number in reversed(range(len(cell.blocks))):
        state = num_inputs + number
        if state not in live:
            raise GenotypeError(
                f"{kind} cell, block {number}: what it creates (state {state}) is neither in concat nor read by a "
                "block that reaches the output"
            )
        live.update(s for s, _ in cell.blocks[number].sides)


def _one_block_a_line(data: Mapping[str, Any]) -> str:
    lines = []
    for key, value in data.items():
        if key in ("normal", "reduction"):
            blocks = ",\n".join(f"      {json.dumps(block)}" for block in value["blocks"])
            text = f'{{\n    "blocks": [\n{blocks}\n    ],\n    "concat": {json.dumps(value["concat"])}\n  }}'
        else:
            text = json.dumps(value)
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}"
