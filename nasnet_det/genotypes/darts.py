"""Genotypes as DARTS and its descendants print them: ``Genotype(normal=[('sep_conv_3x3', 0), ...], ...)``.

Their conventions differ from this project's in three ways, all translated here (source: quark0/darts
``cnn/genotypes.py`` and ``cnn/operations.py``):

- states are numbered with 0 for the output two cells back and 1 for the output one cell back, the other way round;
- an operation comes before its state, and two such pairs make a node, whose results are added;
- ``skip_connect`` is the identity, and ``dil_conv_3x3`` and ``dil_conv_5x5`` are depthwise-separable convolutions
  dilated by 2 and applied once. This project's ``dil_conv_3x3`` is the paper's dense dilated convolution.

DARTS's ``conv_7x1_1x7`` is refused: it is a pair of convolutions at full width, and this project's one a bottleneck.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from nasnet_det.genotypes.genotype import Block, CellGenotype, Genotype, GenotypeError
from nasnet_det.safe_io.values import format_value

#: This project's name of each of DARTS's operations.
OPERATIONS = {
    "skip_connect": "identity",
    "max_pool_3x3": "max_pool_3x3",
    "avg_pool_3x3": "avg_pool_3x3",
    "sep_conv_3x3": "sep_conv_3x3",
    "sep_conv_5x5": "sep_conv_5x5",
    "sep_conv_7x7": "sep_conv_7x7",
    "dil_conv_3x3": "dil_sep_conv_3x3_once",
    "dil_conv_5x5": "dil_sep_conv_5x5_once",
}
_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_LONGEST = 20_000


def is_darts(text: str) -> bool:
    """Return True for text that looks like a printed DARTS genotype, perhaps assigned to a name."""
    return "Genotype(" in text


def parse_darts(text: str) -> Genotype:
    """Translate a printed DARTS genotype, ``[NAME =] Genotype(normal=..., normal_concat=..., reduce=..., ...)``.

    Only literals, ``range`` and ``list`` of literals are read; nothing is executed.

    Raises:
        GenotypeError: for broken text, a missing or unknown field, an unknown operation, or cells that are illegal.
    """
    name, fields = _read(text)
    if missing := [field for field in _FIELDS if field not in fields]:
        raise GenotypeError(f"DARTS genotype: {missing[0]} is missing")
    if unknown := [field for field in fields if field not in _FIELDS]:
        raise GenotypeError(f"DARTS genotype: unknown field {format_value(unknown[0])}; expected {', '.join(_FIELDS)}")
    return Genotype(
        _cell("normal", fields["normal"], fields["normal_concat"]),
        _cell("reduce", fields["reduce"], fields["reduce_concat"]),
        name=name,
    )


def _read(text: str) -> tuple[str | None, dict[str, Any]]:
    """Return the name that the genotype is assigned to and its fields."""
    if len(text) > _LONGEST:
        raise GenotypeError(f"DARTS genotype: expected at most {_LONGEST} characters, got {len(text)}")
    try:
        (statement,) = ast.parse(text.strip()).body
        name = None
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
        call = statement.value if isinstance(statement, (ast.Assign, ast.Expr)) else None
        if not isinstance(call, ast.Call) or getattr(call.func, "attr", getattr(call.func, "id", "")) != "Genotype":
            raise ValueError("expected Genotype(normal=..., ...)")
        fields = {field: _literal(value) for field, value in zip(_FIELDS, call.args, strict=False)}
        if len(call.args) > len(_FIELDS):
            raise ValueError(f"expected at most {len(_FIELDS)} arguments")
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in fields:
                raise ValueError(f"{keyword.arg or '**'} is given twice or unreadable")
            fields[keyword.arg] = _literal(keyword.value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise GenotypeError(f"DARTS genotype: unreadable ({str(error).splitlines()[0][:200]})") from None
    return name, fields


def _literal(node: ast.expr) -> Any:
    """Evaluate a literal, ``range(...)`` of literals or ``list(range(...))``.

    Raises:
        ValueError: for any other expression.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id == "range":
            numbers = range(*(ast.literal_eval(argument) for argument in node.args))
            if len(numbers) > 1000:
                raise ValueError("range is too long")
            return list(numbers)
        if node.func.id in ("list", "tuple") and len(node.args) == 1:
            return list(_literal(node.args[0]))
    return ast.literal_eval(node)


def _cell(kind: str, edges: Any, concat: Any) -> CellGenotype:
    if not isinstance(edges, (list, tuple)) or len(edges) % 2 or not edges:
        raise GenotypeError(f"DARTS genotype: {kind} must be a list of pairs of edges, got {format_value(edges)}")
    if not isinstance(concat, (list, tuple, set)) or not all(type(state) is int for state in concat):
        raise GenotypeError(f"DARTS genotype: {kind}_concat must be a list of states, got {format_value(concat)}")
    sides = [_edge(kind, edge) for edge in edges]
    blocks = tuple(
        Block(left, right, left_operation, right_operation)
        for (left_operation, left), (right_operation, right) in zip(sides[::2], sides[1::2], strict=True)
    )
    return CellGenotype(blocks, tuple(sorted(swap_inputs(state) for state in concat)))


def _edge(kind: str, edge: Any) -> tuple[str, int]:
    """Return the operation and state of an edge by this project's names and numbers."""
    if not isinstance(edge, Sequence) or isinstance(edge, str) or len(edge) != 2 or type(edge[1]) is not int:
        raise GenotypeError(f"DARTS genotype: {kind}: expected ('operation', state), got {format_value(edge)}")
    operation, state = edge
    if operation == "none":
        raise GenotypeError(
            f"DARTS genotype: {kind}: 'none' (zeros) is a choice of DARTS's search, not of a final cell"
        )
    if not isinstance(operation, str) or operation not in OPERATIONS:
        raise GenotypeError(
            f"DARTS genotype: {kind}: unknown operation {format_value(operation)}; expected {', '.join(OPERATIONS)}"
        )
    return OPERATIONS[operation], swap_inputs(state)


def swap_inputs(state: int) -> int:
    """Return a state's number in the other convention: the two inputs, 0 and 1, are exchanged."""
    return 1 - state if 0 <= state < 2 else state
