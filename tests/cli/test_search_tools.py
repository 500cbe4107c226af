"""The search commands as a user gives them, on data made here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optuna")
import timm
from PIL import Image

from nasnet_det.cli.export_cell import main as export_cell
from nasnet_det.cli.retrain_cells import main as retrain_cells
from nasnet_det.cli.search import main as search
from nasnet_det.cli.search_report import main as search_report
from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.search import command
from nasnet_det.training.data.cifar10 import TEST_BATCH, TRAIN_BATCHES, Images, to_binary
from tests.helpers import another_process
from tests.search.fakes import FakeChild

CHILD = ("official_data=false", "epochs=1", "num_filters=4", "num_cells=1", "train_images=32", "validation_images=32")
SPACE = ("--blocks", "1", "--operations", "identity", "conv_1x1", "avg_pool_3x3")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    for name in (*TRAIN_BATCHES, TEST_BATCH):
        images = Images(rng.integers(0, 255, (20, 3, 32, 32)).astype(np.uint8), np.arange(20, dtype=np.uint8) % 10)
        (root / f"{name}.bin").write_bytes(to_binary(images))
    return root


def run(out: Path, data: Path, *more: str, trials: int = 3) -> int:
    arguments = ("--data", str(data), "--out", str(out), "--trials", str(trials), *SPACE)
    return search([*arguments, "--workers", "0", "--device", "cpu", "--child", *CHILD, "batch_size=16", *more])


@pytest.fixture(scope="module")
def searched(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "s1"
    assert run(out, data, "--strategy", "ppo") == 0
    return out


def test_a_search_is_continued_and_exported(
    searched: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (searched / "study.db").is_file()
    assert run(searched, data, "--strategy", "ppo", trials=5) == 0
    said = capsys.readouterr().out
    assert "3 of 5 trials were done before" in said and "5/5" in said and "best 0." in said

    path = tmp_path / "my_cell.json"
    assert export_cell([str(searched), "--top", "1", "--out", str(path)]) == 0
    genotype = Genotype.load(path)
    assert genotype.name == "my_cell" and "s1, trial" in str(genotype.source)
    model = timm.create_model("nasnet", genotype=str(path), num_cells=1, num_filters=8, stem_channels=8)
    assert model.genotype == genotype
    assert export_cell([str(searched), "--top", "2", "--out", str(path)]) == 0
    assert (tmp_path / "my_cell-2.json").is_file()


def test_the_second_phase_ranks_and_the_report_shows(
    searched: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = ("--child", "epochs=2", "--data", str(data), "--device", "cpu", "--workers", "0")
    assert retrain_cells([str(searched), "--top", "2", *child]) == 0
    said = capsys.readouterr().out
    assert "2 architectures, 2 epochs each" in said and "2/2" in said
    assert retrain_cells([str(searched), "--top", "2", *child]) == 0  # nothing is done twice
    assert "model     0" not in capsys.readouterr().out

    assert run(tmp_path / "random", data, "--strategy", "random", "--seed", "1") == 0
    report = tmp_path / "report"
    assert search_report([str(searched), str(tmp_path / "random"), "--out", str(report), "--draw", "1"]) == 0
    text = (report / "report.md").read_text()
    assert "Second phase: 2 retrained" in text and "| random | random | 3 |" in text
    for name in (
        "search_curves.png",
        "search_hours.png",
        "s1-1.svg",
        "s1-1.json",
        "s1-search.csv",
        "s1-retrained.csv",
        "random-1.json",
    ):
        assert (report / name).stat().st_size > 0
    assert export_cell([str(searched), "--top", "2", "--out", str(tmp_path / "cell.json")]) == 0
    cells = [Genotype.load(tmp_path / f"cell-{rank}.json") for rank in (1, 2)]
    assert Genotype.load(report / "s1-1.json").source == cells[0].source
    for cell in cells:  # the search's numbers
        source, trial = str(cell.source), tmp_path / "trial.json"
        assert source.startswith("retrained s1, trial ")
        number = source.split("trial ")[1].split(",")[0]
        assert export_cell([str(searched), "--trial", number, "--out", str(trial)]) == 0
        assert Genotype.load(trial) == replace(cell, name="trial", source=Genotype.load(trial).source)


def test_searches_of_one_name_are_told_apart(searched: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / searched.name
    assert run(other, data, "--strategy", "random") == 0
    report = tmp_path / "report"
    assert search_report([str(searched), str(other), str(other), "--out", str(report), "--draw", "1"]) == 0
    names = (f"{searched.parent.name}-s1", "other-s1")
    text = (report / "report.md").read_text()
    for name in names:
        assert text.count(f"## {name}:") == 1 and f"]({name}-1.json)" in text
    sources = [Genotype.load(report / f"{name}-1.json").source for name in names]
    assert [name in str(source) for name, source in zip(names, sources, strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--strategy", "annealing"), "annealing"),
        (("--set", "minibatch"), "minibatch"),
        (("--strategy", "ppo", "--set", "speed=3"), "speed"),
        (("--storage", "postgresql://u:secret@127.0.0.1:1/d"), "127.0.0.1:1/d cannot be used"),
        (("--ray", "127.0.0.1:1", "--workers", "1"), "nothing answers at Ray address 127.0.0.1:1"),
        (("--limit", "size=3"), "size=3"),
        (("--limit", "params=10"), "params=10"),
        (("--objectives", "accuracy", "params", "--strategy", "ppo"), "params"),
        (("--rungs", "3", "--child", "epochs=2"), "rung 3"),
        (("--rungs", "1", "2", "--child", "epochs=2", "--pruner", "best"), "best"),
        (("--order", "arrival", "--strategy", "ppo"), "ppo"),
        (("--operations", "conv_9x9"), "unknown operations: conv_9x9"),
        (("--child", "colour=red"), "colour"),
        (("--child", "momentum=1.5"), "momentum"),
        (("--child", "stem=imagenet"), "num_filters"),
        (("--child", "stop_rules=[[1, 15]]"), "stop_rules"),
        (("--child", "stop_rules=[[2, 0.5]]", "epochs=2"), "stop rule of epoch 2"),
        (("--child", "num_cells=1000"), "child: num_cells"),
        (("--child", "recipe_settings={optimizer: sgdx}"), "sgdx"),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_named_before_any_child_is_trained(
    arguments: tuple[str, ...], words: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--ray" in arguments:
        pytest.importorskip("ray")
    if "--storage" in arguments:
        pytest.importorskip("psycopg2")
    given = ["--data", str(data), "--out", str(tmp_path / "s"), "--trials", "2", "--workers", "0", "--device", "cpu"]
    assert search([*given, "--child", *CHILD, *arguments]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and words in output.err and output.err.count("\n") == 1
    assert "secret" not in output.err and "trial " not in output.out


def test_workers_without_ray_name_the_extra(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "nasnet_det.search.ray_workers", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(tmp_path / "s", data, "--workers", "1") == 2
    assert "Ray is not installed" in (said := capsys.readouterr().err) and "'nasnet-det[search]'" in said


def test_another_space_recipe_or_folder_is_refused(
    searched: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(searched, data, "--strategy", "ppo", "--combiners", "add") == 2
    assert "space.combiners is" in capsys.readouterr().err
    longer = [word.replace("epochs=1", "epochs=3") for word in (*CHILD, "batch_size=16")]
    assert run(searched, data, "--strategy", "ppo", "--child", *longer) == 2
    assert "recipe.epochs is 1 there and 3 here" in capsys.readouterr().err
    assert run(searched, data, "--strategy", "random") == 2
    assert "strategy.name is ppo there and random here" in capsys.readouterr().err
    assert run(searched, data, "--strategy", "ppo", "--study", "other") == 2
    assert "is of study 's1'" in capsys.readouterr().err
    assert export_cell([str(tmp_path), "--out", str(tmp_path / "x.json")]) == 2
    assert "not the folder of a search" in capsys.readouterr().err


def test_a_search_without_an_accuracy_falls_short(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for trials in (1, 2):
        assert run(tmp_path / "s", data, "learning_rate=1e15", "weight_decay=1e10", trials=trials) == 1
    output = capsys.readouterr()
    assert "2 diverged" in output.err and "best" not in output.out and "export-cell" not in output.out


def test_a_space_may_be_larger_than_any_float(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ChildEvaluator", lambda *_: FakeChild(epochs=1))
    assert run(tmp_path / "s", data, "--strategy", "random", "--blocks", "44", trials=1) == 0
    assert "e+334 architectures" in capsys.readouterr().out


def test_one_search_at_a_time(searched: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fcntl")
    with another_process("locks", f"working_in(Path({str(searched)!r}))"):
        assert run(searched, data, "--strategy", "ppo") == 2
    assert str(searched) in capsys.readouterr().err
    noted = json.loads((searched / "search.json").read_text())
    assert noted == {"storage": None, "study": "s1"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with pictures of several sizes, as a user's archive has them."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, colour in (("cat", 60), ("dog", 200)):
        (root / name).mkdir()
        for number in range(24):
            pixels = (rng.integers(-40, 40, (40, 44 + number % 3, 3)) + colour).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
        (root / name / ".DS_Store").write_text("")
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "._0.png").write_text("")
    (root / "readme.txt").write_text("")
    return root


def test_pictures_of_ones_own_are_searched_at_rungs_within_limits(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own"
    arguments = ["--data", str(pictures), "--out", str(out), *SPACE, "--workers", "0", "--device", "cpu"]
    arguments += ["--child", "num_filters=4", "num_cells=1", "batch_size=16", "train_images=32"]
    arguments += ["--rungs", "1", "2", "--pruner-set", "reduction=2", "--limit", "params=3k", "latency=10s"]
    assert search([*arguments, "--trials", "4"]) == 0
    said = capsys.readouterr().out
    assert "2 classes (cat, dog)" in said and "40 x 40" in said and "cifar stem" in said and "epoch  2/2" in said
    path = tmp_path / "cell.json"
    assert export_cell([str(out), "--output", str(path)]) == 0
    assert Genotype.load(path).name == "cell"
    child = ("--child", "epochs=1", "--data", str(pictures), "--device", "cpu", "--workers", "0")
    assert retrain_cells([str(out), "--top", "1", *child]) == 0
    assert search([*arguments[:-1], "latency=9s", "--trials", "5"]) == 2
    assert "demands.limits.latency" in capsys.readouterr().err
    for wrong in ("validation_images=few", "validation_images=99"):
        assert search([*arguments[: arguments.index("--child")], "--trials", "1", "--child", wrong]) == 2
        assert "validation_images" in capsys.readouterr().err


def test_a_front_is_drawn_and_any_point_exported(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "front"
    assert run(out, data, "--strategy", "random", "--objectives", "accuracy", "params", "macs", trials=4) == 0
    said = capsys.readouterr().out
    assert "Pareto front of accuracy, params, macs" in said
    assert (out / "front-params.png").stat().st_size > 0 and (out / "front-macs.png").stat().st_size > 0
    assert export_cell([str(out), "--front", "--output", str(tmp_path / "cells.json")]) == 0
    exported = capsys.readouterr().out.splitlines()
    assert len(exported) == said.count("accuracy 0.") and (tmp_path / "cells-1.json").is_file()
    assert export_cell([str(out), "--trial", "2", "--output", str(tmp_path / "second.json")]) == 0
    assert "trial 2" in str(Genotype.load(tmp_path / "second.json").source)
    for wrong in (["--trial", "9"], ["--trial", "2", "--phase", "retrained"]):
        assert export_cell([str(out), *wrong, "--output", str(tmp_path / "none.json")]) == 2
    assert search_report([str(out), "--output", str(tmp_path / "report"), "--draw", "1"]) == 0
    assert "front-front-params.png" in (tmp_path / "report" / "report.md").read_text()
