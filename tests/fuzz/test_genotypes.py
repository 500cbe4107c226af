"""Genotypes: files and values are read, or refused with a GenotypeError that names them."""

from __future__ import annotations

from nasnet_det import NASNet
from nasnet_det.genotypes.genotype import OPERATIONS, Genotype, GenotypeError
from nasnet_det.genotypes.published import PUBLISHED, as_genotype
from tests.fuzz.conftest import Fuzz
from tests.fuzz.engine import Case
from tests.fuzz.mutate import json_of, spoil_bytes, spoil_settings, spoil_value

_WORDS = (*OPERATIONS, "concat", "add_layer_norm", 4, 5, 6, "nasnet_det.genotype")


def genotype_of(case: Case) -> Genotype:
    return PUBLISHED[case.random.choice(list(PUBLISHED))]


def test_genotype_file(fuzz: Fuzz) -> None:
    def attempt(case: Case) -> None:
        path = case.folder / "cell.json"
        content = json_of(spoil_value(genotype_of(case).to_dict(), case, _WORDS), case)
        path.write_bytes(spoil_bytes(content, case, 1) if case.random.random() < 0.2 else content)
        with case.allows(GenotypeError, naming=path):
            found = Genotype.load(path)
            assert Genotype.from_json(found.to_json()) == found
            found.save(path.with_name("again.json"))
            assert Genotype.load(path.with_name("again.json")) == found
            path.with_name("again.json").unlink()

    fuzz(attempt)


def test_genotype_value(fuzz: Fuzz) -> None:
    def attempt(case: Case) -> None:
        value = spoil_value({"genotype": genotype_of(case).to_dict()}, case, [*_WORDS, *PUBLISHED, "x" * 300 + ".json"])
        given = value.get("genotype") if isinstance(value, dict) else value
        with case.allows(GenotypeError):
            assert isinstance(as_genotype(given), Genotype)

    fuzz(attempt)


def test_genotype_network(fuzz: Fuzz) -> None:
    """A genotype that is accepted builds a network at any small size."""

    def attempt(case: Case) -> None:
        data = spoil_value(genotype_of(case).to_dict(), case, _WORDS)
        sizes = {"num_cells": 1, "num_filters": 32, "stem_channels": 32, "num_classes": 3}
        numbers = spoil_settings(sizes, case, (2, 8))
        with case.allows(GenotypeError, ValueError):
            # Large numbers are valid, but take long.
            small = {
                k: v for k in sizes.keys() & numbers.keys() if not (isinstance(v := numbers[k], int) and abs(v) > 64)
            }
            NASNet(Genotype.from_dict(data), **small, device="meta")

    fuzz(attempt, share=0.2)
