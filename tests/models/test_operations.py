"""Every operation: shapes at any size, gradients, and the dilated form that replaces a stride."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from nasnet_det.genotypes.genotype import OPERATIONS
from nasnet_det.models import operations
from nasnet_det.models.operations import (
    FactorizedReduction,
    LayerSettings,
    Scale,
    build_operation,
    projection,
    register_operation,
)
from tests.helpers import randomize

SETTINGS = LayerSettings(partial(nn.BatchNorm2d, eps=1e-3))


def test_the_table_and_the_names_agree() -> None:
    assert set(operations._BUILDERS) == set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [(8, 8), (6, 8), (8, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_shapes_and_gradients(name: str, channels: tuple[int, int], stride: int) -> None:
    operation = build_operation(name, *channels, SETTINGS, Scale(stride))
    for height, width in ((9, 12), (1, 2), (5, 1)):
        x = torch.randn(2, channels[0], height, width, requires_grad=True)
        y = operation(x)
        assert y.shape == (2, channels[1], -(-height // stride), -(-width // stride))
        y.sum().backward()
    assert all(p.grad is not None for p in operation.parameters())


DILATED = {name: partial(build_operation, name, 4, 4) for name in OPERATIONS if name != "max_pool_2x2"}
DILATED["factorized reduction"] = partial(FactorizedReduction, 4, 5)


@pytest.mark.parametrize("name", DILATED)
def test_dilation_replaces_stride(name: str) -> None:
    """For odd sizes, every second pixel of the dilated operation's output is the strided one's output."""
    strided, dilated = (randomize(DILATED[name](SETTINGS, scale)) for scale in (Scale(2), Scale(1, 1, 2)))
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(2, 4, 13, 17)
    torch.testing.assert_close(dilated(x)[:, :, ::2, ::2], strided(x), rtol=1e-4, atol=1e-5)


def test_an_odd_width_gives_its_extra_channel_to_the_second_path() -> None:
    reduction = FactorizedReduction(4, 5, SETTINGS, Scale(2))
    assert (reduction.path1.out_channels, reduction.path2.out_channels) == (2, 3)


def test_fit_does_no_more_than_is_needed() -> None:
    assert isinstance(projection(8, 8, SETTINGS, Scale()), nn.Identity)
    assert isinstance(projection(8, 8, SETTINGS, Scale(2)), FactorizedReduction)


def test_a_new_operation_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_BUILDERS", dict(operations._BUILDERS))
    before = set(OPERATIONS)
    try:
        register_operation("zero", "zeros", lambda i, o, settings, scale: nn.Conv2d(i, o, 1, scale.stride))
        assert build_operation("zero", 3, 4, SETTINGS)(torch.zeros(1, 3, 5, 5)).shape == (1, 4, 5, 5)
        with pytest.raises(ValueError, match="already"):
            register_operation("zero", "zeros", lambda *_: nn.Identity())
    finally:
        for name in set(OPERATIONS) - before:
            del OPERATIONS[name]
