"""The weights that come with the package."""

from __future__ import annotations

import csv
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from nasnet_det.models.family import FAMILY
from nasnet_det.weights import WeightsError, trained

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RECORDS = {"nasnet_a_cifar_1_at_576": "cifar_small", "nasnet_a_cifar_6_at_768": "gpu_h100"}

pytestmark = pytest.mark.parametrize("name", RECORDS)


def record(name: str, file: str) -> Any:
    return json.loads((RESULTS / RECORDS[name] / file).read_text())


def test_the_packaged_network_recognizes_its_picture(name: str) -> None:
    model = timm.create_model(name, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    picture = Image.open(str(files(trained) / "ship.png"))
    with torch.no_grad():
        logits = model(transform(picture)[None])
    assert model.pretrained_cfg["label_names"][int(logits.argmax())] == "ship"


def test_the_published_accuracy_is_that_of_the_records(name: str) -> None:
    packaged = record(name, "test.json")
    accuracy = packaged[packaged["dtype"]]["top1"]
    assert accuracy == record(name, "validate.json")["top1"]
    assert abs(accuracy - packaged["float32"]["top1"]) <= 5e-4
    with (RESULTS / RECORDS[name] / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert abs(float(last["top1"]) - packaged["float32"]["top1"]) <= 5e-4  # measured on another device
    assert f"{100 * accuracy:.2f}" in FAMILY[name].accuracy


def test_the_file_is_small(name: str) -> None:
    path = trained.packaged_weights(name)
    assert path is not None and path.stat().st_size < 4_000_000


def test_timm_lists_the_model_as_pretrained(name: str) -> None:
    assert name in timm.list_models("nasnet_*", pretrained=True) and timm.models.is_model_pretrained(name)


def test_other_classes_are_an_error_unless_asked_for(name: str) -> None:
    five = {"num_classes": 5}
    with pytest.raises(WeightsError, match=r"10 classes.* 5\b"):
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay=five)
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=five, num_classes=5)
    assert model.fc.out_features == 5
