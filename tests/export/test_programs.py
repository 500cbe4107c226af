"""Exported files compute what the model computes, describe their use, and never replace a good file if they differ."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import nasnet_det
from nasnet_det.export import (
    ExportError,
    Program,
    classifier_program,
    description,
    feature_program,
    load_package,
    save_program,
)
from nasnet_det.export.package_files import PackageInfo
from nasnet_det.export.programs import check, imported
from nasnet_det.export.runtimes import Package
from nasnet_det.safe_io.files import OverwriteError
from tests.helpers import EVERY_STEP

TINY: dict[str, Any] = {"num_cells": (1,), "num_filters": 4, "stem": "cifar", "stem_channels": 6}


def tiny(**kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("nasnet", genotype=EVERY_STEP, **{**TINY, **kwargs})


def test_what_an_extra_needs_itself_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_extra.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        imported("some_extra")


def test_images_smaller_than_the_network_takes_are_refused() -> None:
    """OpenVINO would read beyond its memory."""
    program = classifier_program(tiny(stem="imagenet"), dynamic=True)
    package = Package(lambda x: x[:, 0, 0], PackageInfo.from_dict(json.loads(program.described()), "openvino"))
    assert package(torch.zeros(2, 3, 3, 40)).shape == (2, 40)
    for sides in ((2, 40), (40, 0)):
        with pytest.raises(ValueError, match="at least 3"):
            package(torch.zeros(1, 3, *sides))
    assert classifier_program(tiny()).description["least_side"] == 1


def test_features_come_as_a_list_from_every_package() -> None:
    """Also one map alone, and those that timm gives by their index."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    for more in ({}, {"feature_cls": "dict"}):
        model = tiny(features_only=True, out_indices=(0,), **more)
        program = feature_program(model, (16, 16), dynamic=[0])
        package = Package(model, PackageInfo.from_dict(json.loads(program.described()), "inductor"))
        assert program.differences(package) == {"stride_1": 0.0}
        for images in (x, x[:0]):
            assert [len(map_) for map_ in package(images)] == [len(images)]


def test_onnx_features_of_free_size(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = tiny(stem="imagenet", features_only=True)
    errors = save_program(feature_program(model, (64, 64), dynamic=True), tmp_path / "features.onnx")
    assert list(errors) == ["stride_2", "stride_4", "stride_8"]
    assert max(errors.values()) < 1e-5

    session = onnxruntime.InferenceSession(str(tmp_path / "features.onnx"))
    x = torch.randn(3, 3, 51, 38)
    with torch.no_grad():
        expected = model(x)
    for output, wanted in zip(session.run(None, {"image": x.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(output), wanted, rtol=1e-4, atol=1e-5)

    said = description(tmp_path / "features.onnx")
    assert said["outputs"] == list(errors)
    assert nasnet_det.as_genotype(said["genotype"]) == model.model.genotype
    assert said["mean"] == [0.5, 0.5, 0.5]


def test_a_package_runs_at_free_size_and_is_described(tmp_path: Path) -> None:
    model = tiny(num_classes=7)
    assert save_program(classifier_program(model, (16, 16), dynamic=True), tmp_path / "model.pt2") == {"logits": 0.0}
    x = torch.randn(2, 3, 21, 18)
    torch.testing.assert_close(load_package(tmp_path / "model.pt2").eval()(x), model(x))
    said = description(tmp_path / "model.pt2")
    assert said["num_classes"] == 7
    assert said["outputs"] == ["logits"]


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.pth"):
        save_program(classifier_program(tiny(), (16, 16)), tmp_path / "model.pth")


class Fickle(nn.Module):
    """A module that computes something else once it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if torch.compiler.is_compiling() else x


def test_a_file_that_gives_something_else_does_not_take_a_good_ones_place(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    save_program(Program(nn.Identity(), torch.ones(2), ["y"]), path)
    good = path.read_bytes()
    with pytest.raises(ExportError, match="model"):
        save_program(Program(Fickle(), torch.ones(2), ["y"]), path)
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrapped_model_is_exported_as_it_is() -> None:
    model = tiny(num_classes=3, pretrained_cfg_overlay={"label_names": ["cat", "猫", "кот"]})
    program = classifier_program(nn.DataParallel(model), (16, 16))
    assert program.model is model and program.description["label_names"] == ["cat", "猫", "кот"]
    model.reset_classifier(2)
    assert "label_names" not in classifier_program(model, (16, 16)).description


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (nn.Sequential, "Sequential"),
        (nn.Module.bfloat16, "bfloat16"),
        (lambda model: model.to("meta"), "meta"),
        (lambda _: timm.create_model("resnet18"), "resnet18"),
    ],
)
def test_other_models_are_refused(change: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        classifier_program(change(tiny()), (16, 16))


@pytest.mark.parametrize("free", [(0, 2, 3), (3,)])
@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_outputs_of_small_images_are_compared_where_the_size_is_free(kind: str, free: tuple[int, ...]) -> None:
    side = 64 if kind == "classifier" else 192
    program = Program(nn.Identity(), torch.ones(2, 3, side, side), ["y"], free, {"kind": kind})
    assert check(program, nn.Identity(), "model") == {"y": 0}
    for wrong in (1, torch.nan):
        with pytest.raises(ExportError, match="model"):
            check(program, lambda x, wrong=wrong: x if x.shape[3] == side else x + wrong, "model")


@pytest.mark.parametrize("content", [b"a user's", b"\x08\x07", "archive"])
def test_only_an_exported_model_is_replaced(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"weight": torch.ones(2)}, path)
    before = path.read_bytes()
    with pytest.raises(OverwriteError, match=r"model\.pt2"):
        save_program(Program(nn.Identity(), torch.ones(2), ["y"]), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("missing", ["onnxscript", "onnxruntime"])
def test_what_is_not_installed_is_named_with_its_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None if module == missing else types.ModuleType(module))
    program = Program(nn.Identity(), torch.ones(1, 3, 4, 4), ["maps"])
    with pytest.raises(ModuleNotFoundError, match=missing):
        save_program(program, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
