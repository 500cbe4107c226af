"""The networks that benchmarks/inference.py compares."""

from __future__ import annotations

from pathlib import Path

import torch
from inference import Setting


def test_a_variant_in_another_type_leaves_the_networks_of_others_as_they_are() -> None:
    setting = Setting("nasnet_a_mobile", torch.device("cpu"), torch.bfloat16, 1, 224, None, Path())
    weight = next(setting.own().to(torch.bfloat16).parameters())
    again = next(setting.own().parameters())
    assert again.dtype == torch.float32 and torch.equal(again.bfloat16(), weight)
