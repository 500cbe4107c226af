"""The training commands as a user runs them: what they print, leave behind, and say of mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from nasnet_det.cli.build_backbone import main as build_backbone
from nasnet_det.cli.prepare_cifar10 import main as prepare_cifar10
from nasnet_det.cli.train_cifar import main as train_cifar
from nasnet_det.cli.train_imagenet import main as train_imagenet
from nasnet_det.cli.validate import main as validate
from nasnet_det.training import progress
from nasnet_det.training.engine import Trainer
from tests.helpers import ONE_BLOCK, torchrun


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A found cell's file: one block."""
    path = tmp_path_factory.mktemp("cell") / "my_cell.json"
    ONE_BLOCK.save(path)
    return path


@pytest.fixture
def cifar_options(cifar_like: Path, cell: Path, tmp_path: Path) -> list[str]:
    network = ["--genotype", str(cell), "--num-cells", "1", "--num-filters", "4", "--device", "cpu"]
    return [str(cifar_like), "--unofficial", "--out", str(tmp_path / "runs"), "--batch-size", "20", *network]


def test_cifar_over_seeds(cifar_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*cifar_options, "--epochs", "2", "--cutout", "16", "--seeds", "3", "4"]
    assert train_cifar(options) == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "runs" / "summary.json").read_text())
    values = list(summary["seeds"].values())
    assert list(summary["seeds"]) == ["3", "4"] and summary["mean"] == pytest.approx(sum(values) / 2)
    assert summary["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert f"top-1 {100 * summary['mean']:.2f} %" in printed and printed.count("epoch 2/2") == 2
    described = json.loads((tmp_path / "runs" / "seed_3" / "run.json").read_text())
    assert described["recipe"]["augmentation"]["cutout"] == 16
    # 0.025 for a batch of 32, scaled to one of 20.
    assert described["recipe"]["learning_rate"] == 0.025 * 20 / 32
    model = timm.create_model(f"local-dir:{tmp_path / 'runs' / 'seed_4' / 'model'}", pretrained=True)
    assert model.genotype.name == "mine" and model.num_classes == 10
    # The same command again has nothing left to do.
    assert train_cifar(options) == 0
    assert "epoch" not in capsys.readouterr().out


def test_a_signal_as_a_seed_ends_stops_the_seeds_that_follow(
    cifar_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Trainer.evaluate

    def interrupted(trainer: Trainer, batches: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return evaluate(trainer, batches)

    monkeypatch.setattr(Trainer, "evaluate", interrupted)
    assert train_cifar([*cifar_options, "--epochs", "1", "--seeds", "3", "4"]) == 130
    assert (tmp_path / "runs" / "seed_3" / "model").is_dir() and not (tmp_path / "runs" / "seed_4").exists()


def test_a_warm_up_as_long_as_the_training_is_told(
    cifar_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not refused: a recipe is tried for an epoch before it is used."""
    assert train_cifar([*cifar_options, "--set", "epochs=1", "warmup_epochs=2"]) == 0
    assert "warmup_epochs (2)" in capsys.readouterr().out


def test_progress_shows_before_the_first_epoch_ends(
    cifar_options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    assert train_cifar([*cifar_options, "--epochs", "1"]) == 0
    begun, before = capsys.readouterr().out.split("epoch 1/1")[0].splitlines()[:2]
    assert " parameters, " in begun
    assert before.startswith("step 2/5") and "images/s" in before and before.endswith(" left")


def test_cifar_of_the_family_in_a_given_time(cifar_like: Path, tmp_path: Path) -> None:
    model = ["--model", "test_resnet", "--recipe", "cifar_quick", "--device", "cpu", "--set", "drop_path_rate=0"]
    held_out = ["--validation-images", "30", "--batch-size", "10", "--image-size", "16"]
    out = tmp_path / "runs"
    given = [str(cifar_like), "--unofficial", "--out", str(out), *model, *held_out, "--minutes", "0.01"]
    assert train_cifar(given) == 0
    described = json.loads((out / "seed_0" / "run.json").read_text())
    assert described["recipe"]["epochs"] >= 1 and described["validation_images"] == 30
    config = timm.create_model(f"local-dir:{out / 'seed_0' / 'model'}").pretrained_cfg
    assert tuple(config["input_size"]) == (3, 16, 16)
    assert train_cifar(given) == 0
    assert validate([str(cifar_like), "--unofficial", "--model", f"local-dir:{out / 'seed_0' / 'model'}"]) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "colour=1"], "colour"),
        (["--recipe", "imagenet_modern"], "imagenet_modern"),
        (["--genotype", "no_such_cell"], "no_such_cell"),
        (["--pretrained"], "--genotype"),
        (["--device", "nowhere"], "nowhere"),
        (["--device", "meta"], "meta"),
        (["--num-cells", "1000000"], "num_cells"),
        (["--num-filters", "10000", "--num-cells", "20"], "GiB"),
        (["--set", "augmentation.sizes=[24, 32]"], "aux_weight"),
        (["--batch-size", "101"], "101"),
        (["--batch-size", "21", "--set", "mix={mixup_alpha: 0.2}"], "21"),
        (["--set", "augmentation.cutout=-1"], "cutout"),
        (["--image-size", "33"], "33"),
        (["--image-size", "16", "24"], "16 x 24"),
        (["--set", "learning_rate=1e17", "clip_gradient_norm=0", "--epochs", "2"], "learning_rate"),
    ],
)
def test_mistakes_are_one_line(
    cifar_options: list[str], capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert train_cifar([*cifar_options, *more]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error


@pytest.mark.parametrize("words", [["--seeds", "-1"], ["--minutes", "inf"], ["--minutes", "nan"], ["--minutes", "-1"]])
def test_numbers_out_of_range_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_cifar(["data", "--out", "runs", *words])
    assert words[0] in capsys.readouterr().err


def test_official_data_are_asked_for(cifar_options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train_cifar([option for option in cifar_options if option != "--unofficial"]) == 2
    assert "data_batch_1.bin" in capsys.readouterr().err


def test_preparing_from_what_is_no_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.tar.gz").write_text("<html>not found</html>")
    assert prepare_cifar10([str(tmp_path / "data"), "--source", str(tmp_path / "page.tar.gz")]) == 2
    assert "error: " in (error := capsys.readouterr().err) and "page.tar.gz" in error
    assert not (tmp_path / "data").exists()


def test_a_terminated_process_is_continued_by_the_same_command(cifar_options: list[str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(Path(__file__).parents[2] / "tools" / "train_cifar.py"),
        *cifar_options,
        "--epochs",
        "400",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "seed_0" / "metrics.csv"
    began = time.monotonic()
    while not metrics.exists() and process.poll() is None and time.monotonic() - began < 120:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    state = torch.load(metrics.parent / "checkpoint.pt", weights_only=True)
    assert 5 <= state["step"] < 2000 and len(state["history"]) == state["step"] // 5
    assert f"stopped after step {state['step']} of 2000" in errors


def test_the_road_of_a_backbone(
    image_folder: Path, cell: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, out = tmp_path / "backbone", tmp_path / "run"
    sizes = ["--num-cells", "1", "--num-filters", "8", "--image-size", "96"]
    assert build_backbone([str(cell), *sizes, "--out", str(backbone)]) == 0
    assert "mine, N = 1, F = 8" in capsys.readouterr().out
    assert build_backbone([str(cell), *sizes, "--out", str(backbone)]) == 2
    recipe = ["--epochs", "2", "--batch-size", "8", "--set", "bn_momentum=0.1", "learning_rate=0.05"]
    here = ["--workers", "0", "--device", "cpu"]
    model = ["--model", f"local-dir:{backbone}"]
    assert train_imagenet([str(image_folder), "--out", str(out), *model, *recipe, *here]) == 0
    capsys.readouterr()
    figures = tmp_path / "figures.json"
    trained = ["--model", f"local-dir:{out / 'model'}", "--json", str(figures), *here]
    assert validate([str(image_folder), *trained]) == 0
    found = json.loads(figures.read_text())
    last = torch.load(out / "checkpoint.pt", weights_only=True)["history"][-1]
    assert found["images"] == 12 and found["top1"] == last["top1"]
    assert found["loss"] == pytest.approx(last["validation_loss"], rel=1e-5)
    assert f"top-1 {100 * found['top1']:.3f} %" in capsys.readouterr().out


def test_two_processes_train_one_network(image_folder: Path, cell: Path, tmp_path: Path) -> None:
    """Two processes of torchrun share each batch, take the steps of one and leave one run."""
    network = ["--genotype", cell, "--num-cells", "1", "--num-filters", "8", "--image-size", "96"]
    recipe = ["--batch-size", "8", "--workers", "0", "--device", "cpu", "--set", "bn_momentum=0.1"]
    out = tmp_path / "run"
    printed = torchrun("train_imagenet", [image_folder, "--out", out, *network, *recipe, "--epochs", "2"])
    assert "2 processes" in printed and printed.count("epoch 2/2") == 1
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["step"] == 6 and len(state["history"]) == 2
    assert timm.create_model(f"local-dir:{out / 'model'}", pretrained=True).num_classes == 3
