"""The weights that come with the package."""

from __future__ import annotations

import csv
import json
from importlib.resources import files
from pathlib import Path

import timm
import torch
from PIL import Image

from nasnet_det.weights import trained

NAME = "nasnet_a_cifar_1_at_576"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "cifar_small"


def test_the_packaged_network_recognizes_its_picture() -> None:
    model = timm.create_model(NAME, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    picture = Image.open(str(files(trained) / "ship.png"))
    with torch.no_grad():
        logits = model(transform(picture)[None])
    assert model.pretrained_cfg["label_names"][int(logits.argmax())] == "ship"


def test_the_published_accuracy_is_that_of_the_records() -> None:
    measured = json.loads((RESULTS / "validate.json").read_text())["top1"]
    with (RESULTS / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    packaged = json.loads((RESULTS / "test.json").read_text())
    assert float(last["top1"]) == packaged["float32"]["top1"] == packaged["float16"]["top1"] == measured
    family = (Path(trained.__file__).parents[2] / "models" / "family.csv").read_text()
    assert f"CIFAR-10 {100 * measured:.2f}, trained here" in family


def test_the_file_is_small() -> None:
    path = trained.packaged_weights(NAME)
    assert path is not None and path.stat().st_size < 4_000_000


def test_timm_lists_the_model_as_pretrained() -> None:
    assert NAME in timm.list_models("nasnet_*", pretrained=True) and timm.models.is_model_pretrained(NAME)
