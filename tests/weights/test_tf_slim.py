"""TF-slim checkpoints, and TF-slim's own code run side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nasnet_det import NASNet
from nasnet_det.plan import slim_stages
from nasnet_det.weights import read_state_dict
from nasnet_det.weights.golden import CLASSIFIER_BOUND, end_points, relative_error
from tests.weights.slim_live import import_nasnet, run_slim


def network(kind: str, config: Any, num_classes: int, **other: Any) -> NASNet:
    cifar = kind == "cifar"
    filters = config.num_conv_filters
    return NASNet(
        num_cells=slim_stages(config.num_cells),
        num_filters=filters,
        stem="cifar" if cifar else "imagenet",
        stem_channels=int((filters if cifar else 32) * config.stem_multiplier),
        skip_reduction_layer_input=bool(config.skip_reduction_layer_input),
        bn_eps=1e-5 if cifar else 1e-3,
        num_classes=num_classes,
        **other,
    ).eval()


CASES = [
    ("mobile", (32, 32), {}),
    ("mobile", (97, 64), {"num_conv_filters": 10}),  # odd widths in the stem cells
    ("mobile", (66, 131), {"num_cells": 5}),
    ("large", (32, 32), {}),
    ("large", (75, 75), {"num_conv_filters": 12}),
    ("large", (100, 63), {"num_cells": 4}),
    ("cifar", (32, 32), {}),
    ("cifar", (31, 46), {"num_cells": 4}),
]


@pytest.mark.parametrize(("kind", "size", "overrides"), CASES)
def test_equal_to_tf_slim_itself_at_any_size(kind: str, size: tuple[int, int], overrides: dict[str, int]) -> None:
    nasnet = import_nasnet()
    images = np.random.default_rng(1).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    numbers = {"num_cells": 3, "num_conv_filters": 8, **overrides}
    variables, expected, config = run_slim(nasnet, kind, images, 7, **numbers)
    model = network(kind, config, 7)
    model.load_state_dict(read_state_dict(model, variables))
    with torch.no_grad():
        found = end_points(model, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    assert set(expected) <= set(found)
    for name, reference in expected.items():
        value = found[name].permute(0, 2, 3, 1) if reference.ndim == 4 else found[name]
        assert value.shape == reference.shape, name
        assert relative_error(value.numpy(), reference) <= CLASSIFIER_BOUND, name
