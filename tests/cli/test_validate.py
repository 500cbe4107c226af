"""The command that measures accuracy: which classifier it measures, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from nasnet_det.cli.main import main
from nasnet_det.export import classifier_program, feature_program, save_program
from tests.helpers import ONE_BLOCK

SMALL = "nasnet_a_cifar_1_at_576"


def folder_of_images(folder: Path, *counts: tuple[str, int]) -> Path:
    for label, count in counts:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 32), (90, 60 * number, 0)).save(folder / label / f"{number}.png")
    return folder


def test_weights_of_other_classes_are_measured_with_their_own_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = timm.create_model(SMALL, num_classes=3)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # every image is of the second class
    weights, data = tmp_path / "mine.pth", folder_of_images(tmp_path / "data", ("a", 1), ("b", 3), ("c", 1))
    torch.save({"state_dict": network.state_dict()}, weights)

    def validate(model: str, *more: str) -> tuple[int, str]:
        words = [
            "validate",
            str(data),
            "--model",
            model,
            "--weights",
            str(weights),
            "--workers",
            "0",
            "--device",
            "cpu",
        ]
        status = main([*words, *more])
        said = capsys.readouterr()
        return status, said.err if status else said.out

    status, said = validate(SMALL, "--num-classes", "3")
    assert status == 0 and "5 images: top-1 60.000 %" in said
    for more in ([], ["--num-classes", "4"]):
        status, said = validate(SMALL, *more)
        assert status == 2 and str(weights) in said and "3 classes" in said
    status, said = validate("test_resnet", "--num-classes", "3")  # of another network
    assert status == 2 and "test_resnet" in said and len(said) < 500 and said.count("\n") == 1


def test_a_package_is_measured_on_the_cpu_in_its_own_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside a GPU, on which networks are measured."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    data = folder_of_images(tmp_path / "data", ("a", 1), ("b", 1))
    kinds = {"num_cells": (1,), "num_filters": 4, "stem": "cifar", "num_classes": 2}
    network = timm.create_model("nasnet", genotype=ONE_BLOCK, **kinds)
    maps = timm.create_model("nasnet", genotype=ONE_BLOCK, **kinds, features_only=True)
    for name, program in (("net", classifier_program(network, (32, 32))), ("maps", feature_program(maps, (32, 32)))):
        save_program(program, tmp_path / f"{name}.onnx")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    words = ["validate", str(data), "--workers", "0", "--model"]
    assert main([*words, str(tmp_path / "net.onnx")]) == 0
    assert "2 images" in (said := capsys.readouterr().out) and "cpu, float32, onnxruntime" in said
    assert main([*words, str(tmp_path / "maps.onnx")]) == 2
    assert "features" in capsys.readouterr().err
