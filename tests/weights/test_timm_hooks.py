"""``timm.create_model(..., pretrained=True)`` with weights of every format and origin."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from nasnet_det import NASNet
from nasnet_det.weights import PublishedWeights, WeightsError, published
from nasnet_det.weights.timm_hooks import checkpoint_filter
from tests.weights.stored import Server, small, stored, write_keras

NUMBERS: dict[str, Any] = {"num_cells": 1, "num_filters": 8, "stem_channels": 8}


def create(file: Path | str | None = None, **kwargs: Any) -> NASNet:
    overlay = {"pretrained_cfg_overlay": {"file": file}} if file else {}
    return timm.create_model("nasnet_a_mobile", pretrained=True, **NUMBERS, **overlay, **kwargs)


def write(folder: Path, kind: str, **other: Any) -> Path:
    """A small network's file of 1000 classes, with a background class where Cadene's files have one."""
    model = small(**{"num_classes": 1001 if kind == "timm" else 1000, **other})
    if kind == "keras":
        return write_keras(folder / "weights.h5", stored(model, "keras"))
    if kind == "timm":
        state = {name: torch.from_numpy(value.copy()) for name, value in stored(model, "timm").items()}
        torch.save(state, folder / "weights.pth")
        return folder / "weights.pth"
    save_file(model.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def assert_same(model: torch.nn.Module, expected: NASNet, but: tuple[str, ...] = ()) -> None:
    found = model.state_dict()
    for name, value in expected.state_dict().items():
        if not name.startswith(but or "none"):
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("kind", ["keras", "timm", "own"])
def test_a_local_file_of_any_format(kind: str, tmp_path: Path) -> None:
    model = create(write(tmp_path, kind))
    expected = small(num_classes=1001 if kind == "timm" else 1000)
    assert_same(model, expected, but=("fc.",))
    assert torch.equal(model.fc.weight, expected.fc.weight[-1000:])
    assert "state_dict" not in model.pretrained_cfg, "the configuration stays small enough to be saved"


@pytest.mark.parametrize("place", ["folder", "text", "url"])
def test_the_same_from_other_places(place: str, server: Server, tmp_path: Path) -> None:
    path = write(tmp_path, "keras")
    server.files["a.h5"] = path.read_bytes()
    if place == "url":
        model = timm.create_model(
            "nasnet_a_mobile", pretrained=True, pretrained_cfg_overlay={"url": server.url("a.h5")}, **NUMBERS
        )
    else:
        model = create(tmp_path if place == "folder" else str(path))
    assert_same(model, small(num_classes=1000))


def test_other_classes_are_an_error_unless_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "keras", num_classes=7)
    with pytest.raises(WeightsError, match=r"weights\.h5.*1000.*num_classes=7"):
        create(path)
    assert_same(create(path, num_classes=7), small(num_classes=7))
    fresh = create(path, num_classes=5)
    assert fresh.fc.weight.shape[0] == 5
    assert_same(fresh, small(num_classes=7), but=("fc.",))


def test_a_new_classifier_no_classifier_other_channels(tmp_path: Path) -> None:
    path = write(tmp_path, "keras")
    expected = small(num_classes=1000)
    assert_same(create(path, num_classes=10), expected, but=("fc.",))
    assert_same(create(path, num_classes=0), expected, but=("fc.",))
    grey = create(path, in_chans=1)
    torch.testing.assert_close(grey.stem.conv.weight, expected.stem.conv.weight.sum(1, keepdim=True))


def test_features_and_auxiliary_heads(tmp_path: Path) -> None:
    path = write(tmp_path, "keras")
    features = create(path, features_only=True, out_indices=(1, 2))
    x = torch.randn(1, 3, 64, 64)
    expected = small(num_classes=1000).forward_intermediates(x, [1, 2], intermediates_only=True)
    with torch.no_grad():
        for found, reference in zip(features.eval()(x), expected, strict=True):
            torch.testing.assert_close(found, reference)
    assert_same(create(path, aux_head=True), small(num_classes=1000))
    assert create(path, aux_head=True, num_classes=10).aux_head.fc.out_features == 10


def test_a_file_of_another_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights\.h5"):
        create(write(tmp_path, "keras", num_filters=12))


def test_pretrained_of_a_member_is_fetched_checked_and_cached(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps of ``pretrained=True`` at full size, with random weights in the published format."""
    torch.manual_seed(0)
    reference = NASNet().eval()
    write_keras(tmp_path / "NASNet-mobile.h5", stored(reference, "keras"))
    server.files["NASNet-mobile.h5"] = (tmp_path / "NASNet-mobile.h5").read_bytes()
    digest = "md5:" + hashlib.md5(server.files["NASNet-mobile.h5"]).hexdigest()
    name = "nasnet_a_mobile.keras"
    weights = PublishedWeights(name, "nasnet_a_mobile", server.url("NASNet-mobile.h5"), digest)
    monkeypatch.setitem(published.PUBLISHED_WEIGHTS, name, weights)
    for _ in range(2):
        model = timm.create_model("nasnet_a_mobile", pretrained=True)
        assert_same(model, reference)
        server.files.clear()
    assert server.asked == ["NASNet-mobile.h5"]
    with pytest.raises(WeightsError, match=r"\(2, 2, 2\)|cell_"):
        timm.create_model("nasnet_a_mobile", pretrained=True, num_cells=3)
    assert timm.create_model("nasnet_a_mobile", pretrained=True, num_classes=3).num_classes == 3
    elsewhere = tmp_path / "elsewhere"
    server.files["NASNet-mobile.h5"] = (tmp_path / "NASNet-mobile.h5").read_bytes()
    timm.create_model("nasnet_a_mobile", pretrained=True, cache_dir=elsewhere)
    assert list(elsewhere.glob("*.safetensors"))


def test_a_member_without_published_weights_says_so() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model("nasnet_a_5_at_1536", pretrained=True)


def test_what_timm_found_itself_is_left_to_it(tmp_path: Path) -> None:
    from timm.models._hub import save_for_hf

    model = timm.create_model("nasnet_a_mobile", num_classes=5, **NUMBERS)
    save_for_hf(model, tmp_path / "saved", model_args={**NUMBERS, "num_classes": 5})
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    assert_same(again, model)


def test_the_filter_reads_checkpoints_of_other_ports() -> None:
    model = small()
    state = {name: torch.from_numpy(value.copy()) for name, value in stored(model, "timm").items()}
    filtered = checkpoint_filter(state, small())
    assert filtered.keys() == model.state_dict().keys()
    assert torch.equal(filtered["fc.weight"], model.fc.weight)
