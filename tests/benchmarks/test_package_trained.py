"""A finished run becomes weights of the package, which ``pretrained=True`` loads offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks import package_trained
from nasnet_det.genotypes.published import as_genotype
from nasnet_det.training import validation
from nasnet_det.training.data.cifar10 import CLASSES, MEAN, STD, Cifar10, Images
from nasnet_det.training.models import ModelChoice, save_local_dir
from nasnet_det.weights import trained
from nasnet_det.weights.formats.native import to_int8

NAME = "nasnet_a_cifar_7_at_2304"
NUMBERS: dict[str, Any] = {"num_cells": 1, "num_filters": 4, "stem_channels": 12}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose network is right on every second of 20 test images."""
    torch.manual_seed(0)
    choice = ModelChoice.of_genotype(as_genotype("nasnet_a"), 1, 4, "cifar")
    network = choice.build(num_classes=10).eval()
    config = {"input_size": (3, 32, 32), "mean": MEAN, "std": STD, "crop_pct": 1.0, "interpolation": "bilinear"}
    save_local_dir(choice, network.state_dict(), tmp_path / "run" / "model", 10, config, CLASSES)
    for record in package_trained.RECORDS:
        (tmp_path / "run" / record).write_text(record)
    pictures = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        labels = network((torch.from_numpy(pictures) / 255 - mean) / std).argmax(1).numpy().astype(np.uint8)
    labels[::2] = (labels[::2] + 1) % 10
    images = Images(pictures, labels)
    monkeypatch.setattr(validation, "read_once", lambda *_: Cifar10(images, images))
    monkeypatch.setattr(package_trained, "load_cifar10", lambda root: Cifar10(images, images))
    return tmp_path / "run"


def _package(run: Path, *more: str) -> int:
    folders = ["--weights", str(run / "weights"), "--results", str(run / "results")]
    return package_trained.main([str(run), str(run), "--name", NAME, *folders, *more])


def test_the_packaged_weights_are_those_of_pretrained_true(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _package(run, "--least", "0.5") == 0
    figures = json.loads((run / "results" / "test.json").read_text())
    assert figures["float32"]["top1"] == 0.5 and figures["float32"]["images"] == 20
    assert {path.name for path in (run / "results").iterdir()} == {*package_trained.RECORDS, "test.json"}
    assert trained.packaged_weights(NAME) is None
    monkeypatch.setattr(trained, "FOLDER", run / "weights")
    picture = np.asarray(Image.open(run / "weights" / package_trained.PICTURE_NAME))
    assert picture.shape == (32, 32, 3)
    model = timm.create_model(NAME, pretrained=True, **NUMBERS)
    kept = load_file(run / "weights" / f"{NAME}.safetensors")
    assert kept["fc.weight"].dtype == getattr(torch, figures["dtype"])
    assert all(torch.equal(value, kept[name].to(value.dtype)) for name, value in model.state_dict().items())


def test_int8_weights_are_packaged_if_they_fit(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_trained, "forms", lambda state: {"int8": to_int8(state)})  # float16 fits as well
    assert _package(run, "--least", "0.1") == 0
    figures = json.loads((run / "results" / "test.json").read_text())
    assert figures["dtype"] == "int8" and figures["int8"]["images"] == 20
    assert (run / "weights" / f"{NAME}.safetensors").stat().st_size == figures["bytes"]
    monkeypatch.setattr(package_trained, "LARGEST", figures["bytes"] - 1)
    assert _package(run, "--least", "0.1") == 2


def test_a_low_accuracy_writes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _package(run) == 2
    assert "50.00%" in capsys.readouterr().err
    assert not (run / "weights").exists() and not (run / "results").exists()
