"""timm's and Cadene's own networks side by side with this one, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.layers.pool2d_same import AvgPool2dSame
from torch import nn
from torch.nn import functional

from nasnet_det import NASNet
from nasnet_det.weights import read_state_dict
from tests.helpers import randomize
from tests.weights.stored import small, stored

LARGE: dict[str, Any] = {"num_cells": 6, "stem_channels": 96, "skip_reduction_layer_input": True}


def relative(found: torch.Tensor, reference: torch.Tensor) -> float:
    return float((found - reference).double().norm() / reference.double().norm())


def ours(reference: nn.Module, **numbers: Any) -> NASNet:
    """This network with the weights of another port's."""
    model = NASNet(**numbers).eval()
    model.load_state_dict(read_state_dict(model, reference.state_dict()))
    return model


def mean_of_real_pixels(pool: AvgPool2dSame, x: torch.Tensor) -> torch.Tensor:
    """timm's pool, corrected: the sum over a window divided by the number of its pixels inside the map."""
    height, width = x.shape[-2:]
    # SAME at stride 2: an odd size is padded on both sides, an even one after its last pixel only.
    padding = (width % 2, 1, height % 2, 1)
    total, inside = (
        functional.avg_pool2d(functional.pad(values, padding), pool.kernel_size, pool.stride, divisor_override=1)
        for values in (x, torch.ones_like(x))
    )
    return total / inside


@pytest.mark.parametrize(
    ("filters", "size"),
    [(8, (64, 64)), (8, (75, 98)), (8, (32, 331)), pytest.param(168, (331, 331), marks=pytest.mark.slow)],
)
def test_timms_border_error_is_the_whole_difference(
    filters: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    reference = randomize(timm.create_model("nasnetalarge", num_classes=7, num_features=24 * filters))
    model, x = ours(reference, num_filters=filters, num_classes=7, **LARGE), torch.randn(2, 3, *size)
    with torch.no_grad():
        logits = model(x)
        assert relative(reference(x), logits) > 1e-3
        monkeypatch.setattr(AvgPool2dSame, "forward", mean_of_real_pixels)
        assert relative(reference(x), logits) <= 2e-6


def test_the_published_large_file_has_these_names_and_shapes() -> None:
    """timm's own model, whose names its hub repository has, is read whole at full size."""
    reference = timm.create_model("nasnetalarge", device="meta")
    arrays = {name: torch.zeros(value.shape) for name, value in reference.state_dict().items()}
    model = NASNet(num_filters=168, device="meta", **LARGE)
    assert read_state_dict(model, arrays).keys() == model.state_dict().keys()


def test_cadenes_mobile_network_numbers_its_cells_as_the_large_one_does() -> None:
    arrays = stored(small(num_cells=4), "timm")
    cells = {name.split(".")[0] for name in arrays if name.startswith("cell_") and "stem" not in name}
    assert cells == {f"cell_{i}" for i in (0, 1, 2, 3, 6, 7, 8, 9, 12, 13, 14, 15)}
    for name in (
        "conv0.conv.weight",
        "cell_stem_0.comb_iter_0_left.separable_1.depthwise_conv2d.weight",
        "cell_stem_1.path_2.conv.weight",
        "cell_6.final_path_bn.running_var",
        "cell_15.conv_prev_1x1.bn.weight",
        "reduction_cell_1.comb_iter_4_left.bn_sep_2.bias",
        "last_linear.weight",
    ):
        assert name in arrays


def test_cadenes_mobile_network_is_equal_at_its_size() -> None:
    nasnet_mobile = pytest.importorskip("pretrainedmodels.models.nasnet_mobile")
    reference = randomize(nasnet_mobile.NASNetAMobile(num_classes=1000))
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert relative(ours(reference)(x), reference(x)) <= 2e-6


@pytest.mark.slow
def test_cadenes_large_network_is_equal_at_its_size_without_the_background() -> None:
    nasnet = pytest.importorskip("pretrainedmodels.models.nasnet")
    reference = randomize(nasnet.NASNetALarge(num_classes=1001))
    x = torch.randn(1, 3, 331, 331)
    with torch.no_grad():
        assert relative(ours(reference, num_filters=168, **LARGE)(x), reference(x)[:, 1:]) <= 2e-6
