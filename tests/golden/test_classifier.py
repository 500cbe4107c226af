"""Exactness on what the original implementations computed: every stored tensor of every classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nasnet_det.golden.classifier import classifier_end_points, classifier_of, compare_classifier
from nasnet_det.golden.comparison import GoldenError, read_meta

STORED = {
    "slim_mobile": {"Stem", "Cell_0", "Cell_11", "Reduction_Cell_0", "Reduction_Cell_1", "global_pool", "Logits"},
    "slim_large_thin": {"Stem", "Cell_0", "Cell_17", "Reduction_Cell_0", "Reduction_Cell_1", "global_pool", "Logits"},
    "slim_cifar_thin": {"Stem", "Cell_0", "Cell_5", "Reduction_Cell_0", "Reduction_Cell_1", "global_pool", "Logits"},
    "keras_mobile_thin": {"logits", "logits_keras"},
    "keras_large_thin": {"logits", "logits_keras"},
}


@pytest.mark.parametrize("name", STORED)
def test_every_stored_tensor(name: str, golden: Path) -> None:
    if name.startswith("slim"):
        pytest.importorskip("tensorflow")
    results = list(compare_classifier(golden / name, read_meta(golden / name)))
    assert {result.name for result in results} == STORED[name]
    for result in results:
        if result.name == "logits_keras":
            assert result.error > 1e-3, "Keras's own pools differ at the border"
        else:
            assert result.error <= 2e-6, result


@pytest.mark.parametrize("name", ["slim_mobile", "slim_large_thin", "slim_cifar_thin"])
def test_parameters_and_shapes_are_those_of_tf_slim(name: str, golden: Path) -> None:
    meta = read_meta(golden / name)
    model = classifier_of(meta).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == meta["parameters_without_aux"]
    with torch.no_grad():
        found = classifier_end_points(model, torch.zeros(2, 3, meta["input_size"], meta["input_size"]))
    for point, shape in meta["feature_shapes_nhwc"].items():
        assert sorted(found[point].shape) == sorted(shape), point


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": None}, "lacks 'num_classes'"),
        ({"hparams": {"use_bounded_activation": True}}, "use_bounded_activation"),
        ({"hparams": {"filter_scaling_rate": 3.0}}, "filter_scaling_rate"),
        ({"hparams": {"num_cells": 1}}, "no network that is built here"),
        ({"hparams": {"num_conv_filters": "many"}}, "no network that is built here"),
        ({"variables": {"conv0/weights": []}}, "no network that is built here"),
    ],
)
def test_what_describes_no_network_is_refused(change: dict[str, object], message: str) -> None:
    meta: dict[str, object] = {
        "hparams": {"num_cells": 3, "num_conv_filters": 8, "stem_multiplier": 1.0, "skip_reduction_layer_input": 0},
        "variables": {"conv0/weights": [3, 3, 3, 32]},
        "num_classes": 7,
    }
    assert classifier_of(meta).num_classes == 7
    for key, value in change.items():
        if value is None:
            del meta[key]
        else:
            meta[key] = {**meta[key], **value}  # type: ignore[dict-item]
    with pytest.raises(GoldenError, match=message):
        classifier_of(meta)
