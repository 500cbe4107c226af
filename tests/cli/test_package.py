"""tools/package.py as a user runs it, and what the package that it makes does and refuses."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import torch

import nasnet_det  # noqa: F401 - registers our models
from nasnet_det.export import packages as packaging
from nasnet_det.export.packages import FORMAT, PackageError, load_package, read_info, save_package

TOOLS = Path(__file__).parents[2] / "tools"
main = runpy.run_path(str(TOOLS / "package.py"))["main"]
#: Every kind of step that a fused cell has: products, depthwise convolutions, pools, sums, joins.
CELL = {
    "normal": {
        "blocks": [[0, 1, "sep_conv_3x3", "avg_pool_3x3", "add"], [2, 0, "sep_conv_5x5", "identity", "add"]],
        "concat": [1, 3],
    },
    "reduction": {"blocks": [[0, 1, "sep_conv_5x5", "max_pool_3x3", "add"]], "concat": [2]},
}
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="compiling ahead of time needs a C++ compiler")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small network of that cell, as timm's name for its folder."""
    folder = tmp_path_factory.mktemp("backbone")
    (folder / "cell.json").write_text(json.dumps(CELL), encoding="utf-8")
    build = runpy.run_path(str(TOOLS / "build_backbone.py"))["main"]
    numbers = ["--num-cells", "1", "--num-filters", "8", "--image-size", "64", "--num-classes", "5"]
    assert build([str(folder / "cell.json"), *numbers, "--out", str(folder / "model")]) == 0
    return f"local-dir:{folder / 'model'}"


@pytest.fixture(scope="module")
def package(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package that the command makes of it, for any number of images."""
    path = tmp_path_factory.mktemp("package") / "small.pt2"
    assert (
        main([str(path), "--model", backbone, "--pretrained", "--any-batch", "--batch-size", "2", "--device", "cpu"])
        == 0
    )
    return path


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_computes_what_the_network_does(package: Path, backbone: str, count: int) -> None:
    network = timm.create_model(backbone, pretrained=True).eval()
    images = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(count))
    with torch.inference_mode():
        found, expected = load_package(package)(images), network(images)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_another_process_needs_no_model_to_run_it(package: Path) -> None:
    program = (
        "import sys, torch; from nasnet_det.export.packages import load_package;"
        "print(tuple(load_package(sys.argv[1])(torch.zeros(3, 3, 64, 64)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(package)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(3, 5)"


def test_it_says_what_it_is_for(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(package), "--show"]) == 0
    assert f"any number of x 3 x 64 x 64 float32 on cpu, torch {torch.__version__}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 3, 32, 64), torch.zeros(3, 64, 64), torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16)],
    ids=["size", "dimensions", "type"],
)
def test_other_images_are_refused(package: Path, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="this package is for images"):
        load_package(package)(images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: replace(info, torch="1.0"), "was made by torch 1.0"),
        (lambda info: replace(info, needs=("another machine",)), "needs another machine"),
    ],
    ids=["torch", "processor"],
)
def test_a_package_for_elsewhere_is_refused(
    package: Path, tmp_path: Path, change: Callable[[packaging.PackageInfo], packaging.PackageInfo], message: str
) -> None:
    other = tmp_path / "other.pt2"
    changed = json.dumps(asdict(change(read_info(package))))
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("_metadata.json") and FORMAT.encode() in content:
                content = json.dumps({**json.loads(content), FORMAT: changed}).encode()
            new.writestr(name, content)
    with pytest.raises(PackageError, match=message):
        load_package(other)


def test_what_cannot_be_compiled_leaves_the_old_package(
    package: Path, backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise packaging.InvalidCxxCompiler

    path = tmp_path / "small.pt2"
    shutil.copy(package, path)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(PackageError, match="cannot be compiled here"):
        save_package(timm.create_model(backbone), path, (1, 3, 64, 64))
    assert path.read_bytes() == package.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["network.zip"], "ends in .pt2"),
        (["missing.pt2", "--show"], "no such package"),
        (["network.pt2", "--batch-size", "0"], "at least 1"),
        (["network.pt2", "--any-batch"], "2 or more"),
        (["network.pt2", "--model", "no_such_model"], "no_such_model"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    backbone: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [] if "--model" in arguments else ["--model", backbone]
    assert main([*arguments, "--device", "cpu", *named]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
