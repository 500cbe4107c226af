"""Genotypes: what is legal survives a round trip, what is not is refused where it is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasnet_det.genotypes.genotype import Block, CellGenotype, Genotype, GenotypeError
from nasnet_det.genotypes.published import PUBLISHED, as_genotype
from tests.helpers import genotypes


@given(genotypes())
def test_json_round_trip(genotype: Genotype) -> None:
    assert Genotype.from_json(genotype.to_json()) == genotype
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype


@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_read_or_refused_with_one_error(text: str) -> None:
    with pytest.raises(GenotypeError):
        Genotype.from_json(text)


@given(st.data())
def test_a_spoiled_genotype_is_read_or_refused_with_one_error(data: st.DataObject) -> None:
    """Replace any one value inside a legal genotype by any other."""
    tree = data.draw(genotypes()).to_dict()
    spoiled = json.loads(json.dumps(tree))
    node, key = spoiled, None
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(
        st.none() | st.integers(-3, 20) | st.text(max_size=5) | st.lists(st.integers()) | st.floats(allow_nan=False)
    )
    try:
        genotype = Genotype.from_dict(spoiled)
    except GenotypeError:
        return
    assert Genotype.from_json(genotype.to_json()) == genotype


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells_name_their_source(name: str) -> None:
    genotype = as_genotype(name)
    assert genotype.name == name
    assert "arXiv:" in genotype.source or "benchmarks/results/" in genotype.source


def test_the_released_nasnet_a_cell() -> None:
    """The table in the reference facts: inputs, operations, and the joined previous state that DARTS leaves out."""
    genotype = PUBLISHED["nasnet_a"]
    assert genotype.normal.concat == (1, 2, 3, 4, 5, 6)
    assert genotype.reduction.concat == (3, 4, 5, 6)
    assert genotype.normal.blocks[2] == Block(0, 1, "avg_pool_3x3", "identity")
    assert genotype.reduction.blocks[3] == Block(3, 2, "identity", "avg_pool_3x3")


LEGAL = PUBLISHED["nasnet_a"]


def _with_normal(blocks: list[Block], concat: tuple[int, ...]) -> Genotype:
    return Genotype(CellGenotype(tuple(blocks), concat), LEGAL.reduction)


@pytest.mark.parametrize(
    ("blocks", "concat", "says"),
    [
        ([Block(2, 0, "identity", "identity")], (2,), "normal cell, block 0: left input 2"),
        ([Block(0, -1, "identity", "identity")], (2,), "normal cell, block 0: right input -1"),
        ([Block(0, True, "identity", "identity")], (2,), "right input True"),
        ([Block(0, 1, "sep_conv_9x9", "identity")], (2,), "unknown operation 'sep_conv_9x9'"),
        ([Block(0, 1, "identity", "identity", "multiply")], (2,), "unknown combiner 'multiply'"),
        ([Block(0, 1, "identity", "identity")], (3,), "concat state 3 does not exist"),
        ([Block(0, 1, "identity", "identity")], (), "concat is empty"),
        ([Block(0, 1, "identity", "identity")], (2, 0), "must ascend"),
        ([], (0,), "at least one block"),
        (
            [Block(0, 1, "sep_conv_3x3", "identity"), Block(0, 1, "identity", "identity")],
            (3,),
            "block 0: what it creates (state 2) is neither in concat nor read",
        ),
        (
            [
                Block(0, 1, "identity", "identity"),
                Block(2, 1, "identity", "identity"),
                Block(0, 0, "identity", "identity"),
            ],
            (4,),
            "block 1: what it creates (state 3)",
        ),
    ],
)
def test_an_illegal_cell_is_refused_naming_the_block(blocks: list[Block], concat: tuple[int, ...], says: str) -> None:
    with pytest.raises(GenotypeError) as error:
        _with_normal(blocks, concat)
    assert says in str(error.value)


def test_passing_all_states_needs_all_of_them_joined() -> None:
    block = Block(0, 0, "identity", "identity")
    with pytest.raises(GenotypeError, match="concat"):
        Genotype(CellGenotype((block,), (0,)), CellGenotype((block,), (1,)), passes_all=True)
    with pytest.raises(GenotypeError, match="blocks"):
        Genotype(CellGenotype((block,), (1,)), CellGenotype((block, block), (1, 2)), passes_all=True)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    LEGAL.save(path)
    assert as_genotype(path) == as_genotype(str(path)) == LEGAL
    path.write_text(path.read_text()[:100])
    with pytest.raises(GenotypeError, match=r"cell\.json"):
        as_genotype(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GenotypeError, match=r"cell\.json"):
        as_genotype(path)
    with pytest.raises(GenotypeError, match=r"other\.json"):
        as_genotype(tmp_path / "other.json")
    with pytest.raises(GenotypeError) as refused:
        as_genotype(tmp_path)
    assert str(refused.value).count(str(tmp_path)) == 1
    with pytest.raises(GenotypeError, match="nasnet_a"):
        as_genotype("nasnet_z")


def test_another_version_or_format_is_refused() -> None:
    with pytest.raises(GenotypeError, match=r"version.*2"):
        Genotype.from_dict({**LEGAL.to_dict(), "version": 2})
    with pytest.raises(GenotypeError, match=r"format.*'other'"):
        Genotype.from_dict({**LEGAL.to_dict(), "format": "other"})
    with pytest.raises(GenotypeError, match="colour") as refused:
        Genotype.from_dict({**LEGAL.to_dict(), "colour": 1})
    assert str(refused.value).count("genotype") == 1


def test_json_that_overwhelms_its_reader_is_refused(tmp_path: Path) -> None:
    for text in ("9" * 5000, "[" * 100_000):
        (tmp_path / "cell.json").write_text(text)
        with pytest.raises(GenotypeError, match=r"cell\.json"):
            Genotype.load(tmp_path / "cell.json")
    for name in ("\0", "x" * 5000, "x" * 5000 + ".json"):  # no path can be written so
        with pytest.raises(GenotypeError):
            as_genotype(name)
