"""nasnet-det package and export as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from nasnet_det.cli.build_backbone import main as build_backbone
from nasnet_det.cli.main import main
from nasnet_det.cli.package import agreement, package, parse, read_pictures
from nasnet_det.cli.shared import models
from nasnet_det.export import PackageError, Program, available, classifier_program, load_package, read_info
from nasnet_det.export.runtime_support import AUTO, RUNTIMES
from nasnet_det.training.data.cifar10 import DataError
from tests.helpers import EVERY_STEP, ONE_BLOCK


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small network as timm's name for its folder."""
    folder = tmp_path_factory.mktemp("backbone")
    ONE_BLOCK.save(folder / "cell.json")
    numbers = ["--num-cells", "1", "--num-filters", "8", "--image-size", "32", "--num-classes", "5"]
    assert build_backbone([str(folder / "cell.json"), *numbers, "--output", str(folder / "model")]) == 0
    return f"local-dir:{folder / 'model'}"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_have_the_channels_of_the_model(channels: int, tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        Image.new(mode, (40, 30)).save(tmp_path / f"{mode}.tiff")
    sizes = {"num_cells": (1,), "num_filters": 4, "stem": "cifar", "stem_channels": 6, "num_classes": 0}
    model = timm.create_model("nasnet", genotype=EVERY_STEP, in_chans=channels, **sizes)
    program = classifier_program(model, (16, 16))
    if channels == 4:
        with pytest.raises(DataError, match="4 channels"):
            read_pictures(tmp_path, program)
    else:
        assert {tuple(picture.shape) for picture in read_pictures(tmp_path, program)} == {(1, channels, 16, 16)}


def test_a_package_is_written_described_and_shown(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "onnxruntime" not in available():
        pytest.skip("takes ONNX Runtime")
    target = tmp_path / "small"
    assert main(["package", backbone, "--runtime", "onnxruntime", "--image-size", "32", "--output", str(target)]) == 0
    path = tmp_path / "small.onnx"
    assert str(path) in capsys.readouterr().out
    assert load_package(path)(torch.zeros(3, 3, 32, 32)).shape == (3, 5)
    assert read_info(path).input_size == (1, 3, 32, 32)
    assert main(["package", "--show", str(path)]) == 0
    assert "onnxruntime" in capsys.readouterr().out
    assert main(["package", str(path), "--output", str(tmp_path / "again")]) == 2
    assert str(path) in (error := capsys.readouterr().err) and "timm" not in error  # it is known as a package
    for label in range(5):
        (tmp_path / "data" / f"class_{label}").mkdir(parents=True)
        Image.new("RGB", (40, 40), (50 * label, 90, 0)).save(tmp_path / "data" / f"class_{label}" / "0.png")
    capsys.readouterr()
    int8 = ["--precision", "int8", "--calibrate", str(tmp_path / "data"), "--output", str(tmp_path / "int8")]
    assert main(["package", backbone, "--runtime", "onnxruntime", "--image-size", "32", *int8]) == 0
    assert "of 5" in capsys.readouterr().out and read_info(tmp_path / "int8.onnx").precision == "int8"

    where = ["--workers", "0", "--device", "cpu", "--image-size", "32", "--json", str(tmp_path / "found.json")]
    found = {}
    for model in (backbone, str(path), str(tmp_path / "int8.onnx")):
        assert main(["validate", str(tmp_path / "data"), "--model", model, *where]) == 0
        found[model] = json.loads((tmp_path / "found.json").read_text())
    plain, packaged, quantized = found.values()
    assert plain["images"] == packaged["images"] == quantized["images"] == 5
    assert packaged["top1"] == plain["top1"] and packaged["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert quantized["loss"] == pytest.approx(plain["loss"], rel=0.1)


def test_pictures_that_cannot_be_used_are_skipped_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"kind": "detector", "resize_shortest": [60, 100], "channels": "BGR"}
    program = Program(torch.nn.Identity(), torch.zeros(1, 3, 8, 8), [], description=said)
    with pytest.raises(PackageError, match=tmp_path.name):
        read_pictures(tmp_path, program)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(PackageError, match=r"broken\.jpg"):
        read_pictures(tmp_path, program)
    Image.new("L", (900, 1)).save(tmp_path / "narrow.png")
    (tmp_path / "inner").mkdir()
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)).save(tmp_path / "inner" / "deep.png")
    assert [tuple(picture.shape) for picture in read_pictures(tmp_path, program)] == [(1, 3, 60, 80)]
    error = capsys.readouterr().err
    assert "broken.jpg" in error and "narrow.png" in error and "deep.png" not in error


class Constant(torch.nn.Module):
    """A module that returns the same whatever the image."""

    def __init__(self, *outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.outputs


def test_the_agreement_is_that_of_all_maps_and_tells_of_detections_of_its_own() -> None:
    image, ones = torch.zeros(1, 3, 4, 4), torch.ones(1, 2, 2)
    maps = Program(Constant(ones, ones), image, ["a", "b"], description={"kind": "features"})
    assert "5.0e-01" in agreement(maps, Constant(1.5 * ones, ones), [image])
    boxes, classes = torch.tensor([[[0.0, 0, 9, 9], [20, 20, 29, 29]]]), torch.zeros(1, 2, dtype=torch.int64)
    found = [Constant(boxes, torch.tensor([[0.9, score]]), classes) for score in (0.1, 0.8)]
    detector = Program(found[0], image, ["boxes", "scores", "classes"], description={"kind": "detector"})
    assert "1 of 1" in (text := agreement(detector, found[1], [image])) and "finds 2" in text


@pytest.mark.parametrize(
    ("model", "name"),
    [(".", "run"), ("local-dir:.", "run"), ("hf-hub:owner/net", "net"), ("my/run/", "run"), ("net.pth", "net")],
)
def test_a_package_has_the_name_of_its_model(
    model: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(program: None, path: Path, *_: object) -> None:
        raise FileExistsError(path)

    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    monkeypatch.setattr("nasnet_det.cli.package.make_program", lambda *_: None)
    monkeypatch.setattr("nasnet_det.export.save_package", save)
    with pytest.raises(FileExistsError) as error:
        package(parse([model]))
    assert Path(error.value.args[0]) == Path(name)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["missing.onnx", "--show"], "missing.onnx"),
        (["nasnet_a_mobile", "--batch-size", "0"], "--batch-size"),
        (["nasnet_a_mobile", "--precision", "int8"], "--calibrate"),
        (["no_such_model"], "no_such_model"),
        (["no_such_model", "--calibrate", "no_folder"], "no_folder"),
        ([str(Path(__file__).parent)], "config.yaml"),
        (["detector.yaml", "--precision", "int8"], "--calibrate"),
        (["detector.yaml", "--precision", "float16"], "openvino"),
        (["detector.safetensors", "--runtime", "inductor", "--precision", "bfloat16"], "openvino"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["package", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_commands_name_the_runtimes_that_exist() -> None:
    assert tuple(name for name, support in RUNTIMES.items() if support.suffix == ".onnx") == models.RUNTIMES
    choices = {*RUNTIMES, AUTO}
    precisions = {precision for support in RUNTIMES.values() for precision in support.precisions}
    for option, known in (("--runtime", choices), ("--precision", precisions)):
        for value in known:
            assert getattr(parse(["model", option, value]), option[2:]) == value


def test_the_ending_of_an_export_is_checked_before_the_model_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export-model", "no_such_model", "--output", str(tmp_path / "model.txt")]) == 2
    assert "model.txt" in capsys.readouterr().err
