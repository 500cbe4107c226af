"""Printed DARTS genotypes are translated to the same cells, or refused by name."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasnet_det.genotypes.darts import OPERATIONS, parse_darts
from nasnet_det.genotypes.genotype import Genotype, GenotypeError
from nasnet_det.genotypes.published import PUBLISHED, as_genotype
from tests.helpers import DARTS_V2

ONE = (
    "Genotype(normal={normal}, normal_concat={concat}, reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], "
    "reduce_concat=[2])"
)
EDGES = "[('sep_conv_3x3', 0), ('skip_connect', 1)]"


def one(normal: str = EDGES, concat: str = "[2]") -> str:
    return ONE.format(normal=normal, concat=concat)


@pytest.mark.parametrize(
    "text", [DARTS_V2, DARTS_V2.removeprefix("DARTS_V2 = "), DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)")]
)
def test_the_published_genotype(text: str) -> None:
    assert as_genotype(text).cells == PUBLISHED["darts_v2"].cells


def test_the_name_is_kept() -> None:
    assert as_genotype(DARTS_V2).name == "DARTS_V2"


def test_inputs_and_operations_are_translated() -> None:
    block = parse_darts(one("[('dil_conv_5x5', 0), ('skip_connect', 1)]")).normal.blocks[0]
    assert block.sides == ((1, "dil_sep_conv_5x5_once"), (0, "identity"))
    assert parse_darts(one(concat="list(range(1, 3))")).normal.concat == (0, 2)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (one("[('none', 0), ('skip_connect', 1)]"), "none"),
        (one("[('conv_7x1_1x7', 0), ('skip_connect', 1)]"), "conv_7x1_1x7"),
        (one("[('dil_sep_conv_3x3_once', 0), ('skip_connect', 1)]"), "dil_sep_conv_3x3_once"),
        (one("[('sep_conv_3x3', 0)]"), "normal"),
        (one("[('sep_conv_3x3', 0), ('sep_conv_3x3', 5)]"), "5"),
        (one(concat="[7]"), "7"),
        (one(concat="range(10**9)"), "unreadable"),
        (one(concat="range(1000000000)"), "range"),
        (one().replace("reduce_concat=[2]", "reduce_cat=[2]"), "reduce_concat"),
        (one().replace("reduce_concat=[2]", "reduce_concat=[2], more=1"), "more"),
        (one(normal="__import__('os').getcwd()"), "unreadable"),
        (one() + "; import os", "unreadable"),
        ("Genotype(" * 5000, "characters"),
        ("print(Genotype(1))", "Genotype"),
    ],
)
def test_what_cannot_be_translated_is_named(text: str, named: str) -> None:
    with pytest.raises(GenotypeError, match=named.replace("(", r"\(")):
        as_genotype(text)


@given(st.text(max_size=60))
def test_any_text_is_translated_or_refused(inside: str) -> None:
    with contextlib.suppress(GenotypeError):
        assert isinstance(as_genotype(f"Genotype({inside})"), Genotype)


@given(st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 1)), min_size=2, max_size=2))
def test_every_operation(edges: list[tuple[str, int]]) -> None:
    block = parse_darts(one(repr(edges))).normal.blocks[0]
    assert block.sides == tuple((1 - state, OPERATIONS[operation]) for operation, state in edges)


@pytest.mark.parametrize("form", ["json", "yaml", "mapping"])
def test_inline_genotypes(form: str) -> None:
    genotype = PUBLISHED["pnasnet_5"]
    yaml = """
    name: pnasnet_5
    source: %s
    normal: {blocks: %s, concat: [2, 3, 4, 5, 6]}
    reduction: {blocks: %s, concat: [2, 3, 4, 5, 6]}
    """
    blocks = genotype.to_dict()["normal"]["blocks"]
    values = {
        "json": genotype.to_json(),
        "mapping": genotype.to_dict(),
        "yaml": yaml % (f"'{genotype.source}'", blocks, blocks),
    }
    assert as_genotype(values[form]) == genotype
