"""The comparison of a found cell with others in ``benchmarks/found_cells.py``."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import found_cells
import pytest

from nasnet_det.cli.search import main as search
from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.search.child import ChildResult
from nasnet_det.search.child_config import ChildConfig
from nasnet_det.search.records import best
from nasnet_det.search.report import read_run
from nasnet_det.search.run_folder import SearchFolder
from nasnet_det.training.recipe import Recipe
from tests.helpers import write_cifar

ACCURACIES = {"found": 0.7, "nasnet_a": 0.75, "random_0": 0.6, "random_1": 0.65}


def _row(name: str, kind: str, reward: float, *accuracies: float) -> dict:
    mean = sum(accuracies) / len(accuracies)
    return {"name": name, "kind": kind, "reward": reward, "accuracies": list(accuracies), "accuracy": mean}


def test_differences_have_their_standard_errors() -> None:
    rows = [
        _row("found", "found", 0.5, 0.70, 0.72),
        _row("nasnet_a", "published", 0.4, 0.69, 0.71),
        _row("random_0", "random", 0.3, 0.60, 0.62),
        _row("random_1", "random", 0.2, 0.64, 0.66),
    ]
    found = found_cells.compare(rows)
    within = 0.0002 / 2  # the variance of a mean of two seeds that differ by 0.02
    assert found["found_minus_random"] == pytest.approx(0.08)
    assert found["found_minus_random_error"] == pytest.approx((within + 0.0008 / 2) ** 0.5)
    assert (found["found_minus_nasnet_a"], found["found_minus_nasnet_a_error"]) == pytest.approx(
        (0.01, (2 * within) ** 0.5)
    )
    assert found["rank_correlation"] == pytest.approx(0.8)


def _searched(tmp_path: Path, trials: int) -> tuple[Path, Path]:
    data, folder = write_cifar(tmp_path / "data", 10), tmp_path / "search"
    options = f"--data {data} --trials {trials} --workers 0 --limit params=20k --output {folder}"
    child = "official_data=false num_cells=1 num_filters=2 epochs=1 image_size=8 train_images=32 validation_images=16"
    settings = ["--child", *child.split(), "batch_size=32", "recipe_settings={optimizer: sgd}"]
    assert not search([*options.split(), *settings])
    return data, folder


def test_the_found_cell_is_the_best_of_the_second_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, folder = _searched(tmp_path, 2)
    searched = read_run(SearchFolder(folder))
    [first, second] = best(searched.findings, 2)
    assert found_cells.Source.read(folder, str(data)).best == first
    monkeypatch.setattr(found_cells, "read_run", lambda folder: replace(searched, retrained=[second]))
    assert found_cells.Source.read(folder, str(data)).best == second


def test_every_cell_is_trained_with_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, folder = _searched(tmp_path, 1)
    trained, children = [], []

    def train_seed(options: argparse.Namespace, recipe: Recipe, seed: int) -> float:
        trained.append((options.output.name, options.image_size, recipe.epochs, seed))
        return ACCURACIES[options.output.name]

    def train_child(genotype: Genotype, config: ChildConfig, seed: int) -> ChildResult:
        children.append((config.image_size, config.recipe.optimizer, seed))
        return ChildResult("ok", len(children) / 10)

    monkeypatch.setattr(found_cells.train_cifar, "train_seed", train_seed)
    monkeypatch.setattr(found_cells, "train_child", train_child)
    options = f"--output {tmp_path / 'cells'} --random 2 --recipe cifar_small --epochs 3 --image-size 8"
    for _ in range(2):
        assert not found_cells.main([str(folder), str(data), *options.split()])
    names = list(ACCURACIES)
    assert trained == [(name, (8, 8), 3, seed) for seed in (0, 1) for name in names] * 2
    assert children == [(8, "sgd", 0)] * 3  # the second run reads what the first has written
    content = json.loads((tmp_path / "cells" / "cells.json").read_text())
    assert [(row["name"], row["accuracies"]) for row in content["rows"]] == [
        (name, [ACCURACIES[name]] * 2) for name in names
    ]
    assert all(row["params"] <= 20_000 for row in content["rows"] if row["kind"] != "published")
    assert (tmp_path / "cells" / "cells.png").is_file()


def test_one_random_cell_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        found_cells.main([str(tmp_path), str(tmp_path), "--output", str(tmp_path / "cells"), "--random", "1"])
