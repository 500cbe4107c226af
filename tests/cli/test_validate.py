"""The command that measures accuracy: which classifier it measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from nasnet_det.cli.main import main

SMALL = "nasnet_a_cifar_1_at_576"


def test_weights_of_other_classes_are_measured_with_their_own_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = timm.create_model(SMALL, num_classes=3)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # every image is of the second class
    weights, data = tmp_path / "mine.pth", tmp_path / "data"
    torch.save({"state_dict": network.state_dict()}, weights)
    for label, count in (("a", 1), ("b", 3), ("c", 1)):
        (data / label).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 32), (90, 60 * number, 0)).save(data / label / f"{number}.png")

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
