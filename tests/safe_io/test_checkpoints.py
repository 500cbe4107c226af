"""State dicts in every wrapping that training tools save them in."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nasnet_det.safe_io.checkpoints import SeveralNetworksError, find_state_dict, load_torch

RAW, AVERAGE = {"stem.weight": torch.zeros(2)}, {"stem.weight": torch.ones(2)}


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("data", "name", "averaged"),
    [
        (RAW, "", False),
        ({**prefixed(RAW, "module.net."), **prefixed(AVERAGE, "module.ema.")}, "ema", True),
        ({"state_dict": RAW, "state_dict_ema": AVERAGE, "epoch": 3}, "state_dict_ema", True),  # timm's train.py
        ({"state_dict": RAW, "state_dict_ema": None}, "state_dict", False),
        (
            {"model": RAW, "model_ema": {"n_averaged": 5, **prefixed(AVERAGE, "module.")}},
            "model_ema",
            True,
        ),  # torchvision
        ({"model": RAW, "ema": {"module": AVERAGE, "updates": 9}}, "ema.module", True),  # RT-DETR
        ({"model_state_dict": prefixed(RAW, "module._orig_mod.")}, "model_state_dict", False),
        ({"state_dict": prefixed(RAW, "_orig_mod.module.")}, "state_dict", False),
        ({"stem._fsdp_wrapped_module._checkpoint_wrapped_module.weight": RAW["stem.weight"]}, "", False),
        ({"model": prefixed(RAW, "_forward_module.model.")}, "model", False),  # Fabric
        ({"state_dict": RAW, "ema_state_dict": {"steps": 5, **prefixed(AVERAGE, "module.")}}, "ema_state_dict", True),
        (
            {"message_hub": {}, "state_dict": AVERAGE, "ema_state_dict": {"steps": 5, **RAW}},
            "state_dict",
            True,
        ),  # MMEngine
        ({"model": RAW, "swa_model": {"n_averaged": 5, **prefixed(AVERAGE, "module.")}}, "swa_model", True),
        ({"params": RAW, "params_ema": AVERAGE}, "params_ema", True),  # BasicSR
        ({"model": RAW, "ema": {"decay": 0.9, "shadow": AVERAGE}}, "ema.shadow", True),
        ({"epoch": 3, "weights": RAW, "optimizer": {"state": {}}}, "weights", False),
        (
            {"step": 5, "initted": 1, **prefixed(RAW, "online_model."), **prefixed(AVERAGE, "ema_model.")},
            "ema_model",
            True,
        ),
        ({"model": RAW, "ema": {"decay": 0.9, "shadow_params": [AVERAGE["stem.weight"]]}}, "model", False),  # torch_ema
        ({"state_dict": {**prefixed(RAW, "model."), "criterion.weight": 1}}, "state_dict.model", False),  # Lightning
        ({"state_dict": {**prefixed(RAW, "net._orig_mod."), "criterion.weight": 1}}, "state_dict.net", False),
        ({"state_dict": {**prefixed(RAW, "model."), **prefixed(AVERAGE, "ema.module.")}}, "state_dict.ema", True),
        ({"model": RAW, "ema_state": AVERAGE, "iteration": 3}, "ema_state", True),  # d2go and detrex
        ({"model": RAW, "ModelEMA": {"module": prefixed(AVERAGE, "module.")}}, "ModelEMA.module", True),
        ({"model": RAW, "model_ema_0.9999": AVERAGE}, "model_ema_0.9999", True),
        ({"model": RAW, "avg_meters": {"loss": torch.ones(2)}, "optimizer": {"exp_avg": AVERAGE}}, "model", False),
        ({"checkpoint": {"state_dict": RAW}, "epoch": 3}, "checkpoint.state_dict", False),
        ({"model_state": RAW, "model_ema_state": AVERAGE}, "model_ema_state", True),
        ({"model": RAW, "average": AVERAGE, "optimizer": {"state": {}}}, "average", True),  # nasnet-det train-imagenet
    ],
)
def test_weights_are_found_and_averages_preferred(data: dict[str, Any], name: str, averaged: bool) -> None:
    found = find_state_dict(data)
    assert found.name == name
    assert list(found.tensors) == ["stem.weight"]
    assert bool(found.tensors["stem.weight"][0]) is averaged


def test_a_run_is_resumed_from_the_raw_weights() -> None:
    found = find_state_dict({"model": RAW, "model_ema": AVERAGE}, averaged=False)
    assert found.name == "model" and not found.tensors["stem.weight"].any()


@pytest.mark.parametrize(
    "other",
    [
        {"teacher": AVERAGE},
        {"best_state_dict": {"net": AVERAGE}},
        {"callbacks": {"EMA": {"ema_weights": [*AVERAGE.values()]}}},
        {"callbacks": {"EMA": {"ema_state_dict": AVERAGE}}},
    ],
)
def test_weights_that_are_not_taken_are_named(caplog: pytest.LogCaptureFixture, other: dict[str, Any]) -> None:
    assert find_state_dict({"state_dict": RAW, **other, "optimizer": {"state": {0: {"exp_avg": RAW}}}}).name
    assert next(iter(other)) in caplog.text and "optimizer" not in caplog.text


@pytest.mark.parametrize("average", [AVERAGE, {"shadow_params": [AVERAGE["stem.weight"]]}])
def test_the_choice_between_two_is_reported(caplog: pytest.LogCaptureFixture, average: dict[str, Any]) -> None:
    find_state_dict({"state_dict": RAW, "state_dict_ema": average})
    assert "'state_dict_ema'" in caplog.text and "'state_dict'" in caplog.text


def test_objects_of_other_classes_are_not_made(tmp_path: Path) -> None:
    extras = {"args": argparse.Namespace(model="x"), "when": datetime.datetime(2026, 1, 1), "path": tmp_path}
    torch.save({"state_dict": RAW, **extras}, tmp_path / "timm.pth")
    loaded = load_torch(tmp_path / "timm.pth")
    assert not any(isinstance(loaded[key], type(value)) for key, value in extras.items())
    assert find_state_dict(loaded).name == "state_dict"


def test_arrays_are_read(tmp_path: Path) -> None:
    torch.save({"model": {"stem.weight": np.ones(2, np.float32)}, "best": np.float64(3)}, tmp_path / "arrays.pth")
    assert find_state_dict(load_torch(tmp_path / "arrays.pth")).tensors["stem.weight"].tolist() == [1, 1]


def test_nothing_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"state_dict": RAW, "args": Evil()}, tmp_path / "evil.pth")
    assert find_state_dict(load_torch(tmp_path / "evil.pth")).name == "state_dict"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [{"student": RAW, "teacher": AVERAGE}, {"G": {"net": RAW}, "D": {"net": RAW}}])
def test_several_networks_are_refused_by_their_keys(data: dict[str, Any]) -> None:
    with pytest.raises(SeveralNetworksError, match=".*".join(data)):
        find_state_dict(data)


@pytest.mark.parametrize("data", [nn.Linear(2, 2), {"model": nn.Linear(2, 2)}, [RAW], {3: torch.ones(1)}])
def test_what_is_no_state_dict_is_refused(data: Any, tmp_path: Path) -> None:
    torch.save(data, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="state dict"):
        find_state_dict(load_torch(tmp_path / "other.pth"))
