"""Weights in int8 with scales."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save

from nasnet_det import NASNet
from nasnet_det.weights.formats import read_state_dict
from nasnet_det.weights.formats.native import to_int8
from nasnet_det.weights.layout import WeightsError
from tests.helpers import randomize


def small_network() -> NASNet:
    return NASNet(num_cells=1, num_filters=4, stem="cifar", stem_channels=12, num_classes=10, img_size=32)


def test_int8_is_read_within_half_a_step_of_each_channel() -> None:
    state = randomize(small_network()).state_dict()
    state["fc.weight"][3] = 0.0
    state["stem.conv.weight"][:2] *= torch.tensor([1e3, 1e-3]).view(2, 1, 1, 1)
    stored = to_int8(state)
    assert all(stored[name].dtype == torch.int8 for name, value in state.items() if value.ndim > 1)
    found = read_state_dict(small_network(), stored)
    assert found.keys() == state.keys()
    for name, value in state.items():
        if value.ndim > 1:
            largest = value.abs().flatten(1).amax(1).view(-1, *[1] * (value.ndim - 1))
            assert bool(((found[name] - value).abs() <= 0.51 * largest / 127).all()), name
        elif value.is_floating_point():
            torch.testing.assert_close(found[name].float(), value.half().float())
    assert not found["fc.weight"][3].any()


@pytest.mark.parametrize("shape", [(), (7, 1), (10, 192), (1, 10)])
def test_scales_of_another_shape_are_damage(shape: tuple[int, ...]) -> None:
    stored = to_int8(small_network().state_dict())
    stored["fc.weight.scale"] = torch.ones(shape)
    with pytest.raises(WeightsError, match=r"fc\.weight\.scale"):
        read_state_dict(small_network(), stored)


def test_a_missing_scale_is_an_error() -> None:
    stored = to_int8(small_network().state_dict())
    del stored["fc.weight.scale"]
    with pytest.raises(WeightsError, match=r"fc\.weight"):
        read_state_dict(small_network(), stored)


def test_int8_takes_about_a_quarter_of_the_bytes() -> None:
    state = NASNet(
        num_cells=1, num_filters=32, stem="cifar", stem_channels=96, num_classes=10, img_size=32
    ).state_dict()
    assert len(save(to_int8(state))) < 0.35 * len(save(state))
