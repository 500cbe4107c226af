"""The space: decisions and genotypes, and that every architecture is alive from end to end."""

from __future__ import annotations

import itertools
import random
from math import prod
from typing import Any

import pytest
import torch

from nasnet_det import NASNet
from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.genotypes.published import PUBLISHED
from nasnet_det.search.space import PAPER_OPERATIONS, SPACES, Space, SpaceError
from nasnet_det.search.strategies.base import uniform


def test_the_paper_s_space() -> None:
    space = SPACES["nasnet_a"]
    assert len(PAPER_OPERATIONS) == 13 and len(space.sizes) == 2 * 5 * 5
    assert space.sizes[:5] == (2, 2, 13, 13, 2) and space.sizes[20:25] == (6, 6, 13, 13, 2)
    # (2 3 4 5 6)^2 choices of inputs, 13^2 of operations and 2 of combiners in each of 5 blocks, for two cells
    assert space.num_architectures == (720**2 * 338**5) ** 2 == prod(space.sizes)


def test_variants_are_settings() -> None:
    assert SPACES["nasnet_b"].num_inputs == SPACES["nasnet_b"].blocks == 4
    assert SPACES["nasnet_b"].combiners == SPACES["nasnet_c"].combiners and len(SPACES["nasnet_c"].combiners) == 4
    for space in SPACES.values():
        assert Space.from_dict(space.to_dict()) == space


@pytest.mark.parametrize(
    "space",
    [
        Space(1, ("identity", "conv_1x1")),
        Space(2, ("identity",), ("add",)),
        Space(2, ("identity",), ("add",), passes_all=True),
        Space(1, ("identity", "conv_1x1"), ("add",), passes_all=True),
    ],
)
def test_the_number_of_architectures_is_that_of_all_decisions(space: Space) -> None:
    cell = space.sizes[: len(space.sizes) // 2]
    cells = {space.genotype((*decisions, *decisions)).normal for decisions in itertools.product(*map(range, cell))}
    assert space.num_architectures == len(cells) ** 2


@pytest.mark.parametrize("name", SPACES)
def test_thousands_of_genotypes_survive_every_form(name: str) -> None:
    space, rng = SPACES[name], random.Random(name)
    for _ in range(2000):
        genotype = space.genotype(uniform(space.sizes, rng))
        decisions = space.decisions(genotype)
        assert space.genotype(decisions) == genotype
        assert Genotype.from_json(genotype.to_json()) == genotype
        for cell in genotype.cells.values():
            read = {state for block in cell.blocks for state, _ in block.sides}
            assert read | set(cell.concat) == set(range(space.num_inputs + space.blocks))


def check_alive(genotype: Genotype) -> None:
    """Build a small network, run it, and see that every weight has a gradient."""
    network = NASNet(
        genotype, num_cells=(1, 1), num_filters=4, stem="cifar", stem_channels=12, num_classes=10, img_size=8
    )
    logits = network(torch.randn(2, 3, 8, 8))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    dead = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not dead, f"{dead} of {genotype}"
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)


@pytest.mark.parametrize("name", SPACES)
def test_architectures_are_alive(name: str) -> None:
    rng = random.Random(f"alive {name}")
    for _ in range(25):
        check_alive(SPACES[name].genotype(uniform(SPACES[name].sizes, rng)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_thousands_of_architectures_are_alive(name: str) -> None:
    rng = random.Random(f"thousands {name}")
    for _ in range(1500):
        check_alive(SPACES[name].genotype(uniform(SPACES[name].sizes, rng)))


def test_inputs_that_no_block_reads_are_joined() -> None:
    space = Space(1, ("identity",), ("add",))
    genotype = space.genotype((0, 0, 0, 0, 0) * 2)
    assert genotype.normal.concat == (1, 2)
    check_alive(genotype)


def test_decisions_are_checked() -> None:
    space = SPACES["nasnet_a"]
    with pytest.raises(SpaceError, match=r"\b50\b.*\b3\b"):
        space.genotype((0, 0, 0))
    with pytest.raises(SpaceError, match=r"decision 2 .*13"):
        space.genotype((0, 0, 13, *[0] * 47))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"blocks": 0}, "blocks"),
        ({"blocks": 2.5}, "blocks"),
        ({"blocks": 3000}, "blocks"),
        ({"operations": "identity"}, "operations"),
        ({"passes_all": 1}, "passes_all"),
        ({"operations": ("conv_9x9",)}, "conv_9x9"),
        ({"operations": ()}, "operations"),
        ({"combiners": ("add", "add")}, "combiners"),
    ],
)
def test_impossible_spaces_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(SpaceError, match=match):
        Space(**settings)


def test_genotypes_of_other_spaces_are_refused() -> None:
    with pytest.raises(SpaceError, match="output"):
        SPACES["nasnet_a"].decisions(PUBLISHED["nasnet_a"])
    with pytest.raises(SpaceError, match=r"\b5\b.*\b4\b"):
        SPACES["nasnet_c"].decisions(PUBLISHED["nasnet_a"])
    with pytest.raises(SpaceError, match="identity"):
        Space(operations=("identity",)).decisions(PUBLISHED["nasnet_a"])
