"""Packages: what they compute in every runtime that is installed, what they refuse, and how the fastest is chosen."""

from __future__ import annotations

import filecmp
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import nasnet_det
from nasnet_det.export import (
    PackageError,
    available,
    classifier_program,
    feature_program,
    load_package,
    read_info,
    runtimes,
    save_package,
)
from nasnet_det.export.inductor import write_inductor
from nasnet_det.export.package_files import FORMAT, is_package
from nasnet_det.export.runtimes import package_path
from tests.helpers import EVERY_STEP

ONNX = [name for name in ("onnxruntime", "openvino") if name in available()]


def tiny(**kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    options = {
        "genotype": EVERY_STEP,
        "num_cells": (1,),
        "num_filters": 4,
        "stem": "cifar",
        "stem_channels": 6,
        "num_classes": 5,
    }
    return timm.create_model("nasnet", **{**options, **kwargs}).eval()


def images(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package of the same network for every runtime, for images of 16 x 16 in batches of two."""
    folder = tmp_path_factory.mktemp("packages")
    program = classifier_program(tiny(), (16, 16), batch_size=2)
    return {name: save_package(program, folder / name, name).path for name in available()}


@pytest.fixture(params=["inductor", "onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest, packages: dict[str, Path]) -> str:
    """Every runtime of packages that can be used here."""
    if request.param not in packages:
        pytest.skip(f"{request.param} cannot be used here")
    return request.param


@torch.inference_mode()
def test_every_runtime_computes_the_network(packages: dict[str, Path], runtime: str) -> None:
    """Any number of images: fewer and more than the package's batch, and a part of it."""
    package = load_package(packages[runtime])
    for count in (1, 2, 5):
        x = images(count, 3, 16, 16)
        assert relative(package(x), tiny()(x)) <= 2e-6
    assert (package(x.numpy().astype("float64")) == package(x.requires_grad_())).all()
    assert package(x[:0]).shape == (0, 5)
    assert package.info.runtime == runtime and package.info.description["num_classes"] == 5
    assert packages[runtime].suffix == (".pt2" if runtime == "inductor" else ".onnx")


def test_an_image_that_is_not_finite_has_no_logits(packages: dict[str, Path], runtime: str) -> None:
    package, x = load_package(packages[runtime]), images(3, 3, 16, 16)
    expected = package(x)
    x[1, 0, 2, 3] = torch.nan
    expected[1] = torch.nan
    torch.testing.assert_close(package(x), expected, rtol=0, atol=0, equal_nan=True)


def test_threads_share_a_package(packages: dict[str, Path], runtime: str) -> None:
    package, batches = load_package(packages[runtime]), [images(40 + 2 * i, 3, 16, 16) for i in range(4)]
    alone = [package(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(package, batches * 5))
    assert all(torch.equal(found, expected) for found, expected in zip(together, alone * 5, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="takes a system that forks processes")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_process_forked_after_a_package_ran_on_threads_can_run_it(packages: dict[str, Path], runtime: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        package, x = load_package(packages[runtime]), images(64, 3, 16, 16)
        expected = package(x)
        if not (child := os.fork()):
            signal.alarm(120)  # which ends a process that waits for its threads
            os._exit(0 if relative(package(x), expected) < 1e-5 and torch.get_num_threads() == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(threads)


def test_signals_are_handled_after_packages_are_gone(packages: dict[str, Path]) -> None:
    """In a process of its own, as the one that fails ends."""
    work = (
        "import gc, signal, sys, nasnet_det.export as export\n"
        "signal.signal(signal.SIGINT, lambda number, frame: print('handled'))\n"
        "for path in sys.argv[1:]:\n"
        "    loaded = [export.load_package(path) for _ in range(3)]\n"
        "    while loaded: loaded.pop(0); gc.collect()\n"
        "    signal.raise_signal(signal.SIGINT)"
    )
    command = [sys.executable, "-X", "faulthandler", "-c", work, *map(str, packages.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["handled"] * len(packages)), done.stderr[-2000:]


@pytest.mark.skipif(len(ONNX) < 2, reason="takes both runtimes of ONNX files")
def test_an_onnx_file_runs_in_both_runtimes(packages: dict[str, Path]) -> None:
    x = images(2, 3, 16, 16)
    first, second = (load_package(packages["openvino"], name)(x) for name in ONNX)
    assert relative(first, second) <= 2e-6
    if "inductor" in packages:
        with pytest.raises(PackageError, match="inductor"):
            load_package(packages["inductor"], "openvino")
    for wrong in ("auto", "inductor"):
        with pytest.raises(PackageError, match=f"onnxruntime or openvino.*'{wrong}'"):
            load_package(packages["openvino"], wrong)


def test_a_package_is_pickled_by_its_path(packages: dict[str, Path], runtime: str) -> None:
    """For workers that are started afresh; it stays in the runtime that it was loaded for."""
    asked = {"onnxruntime": "openvino", "openvino": "onnxruntime"}.get(runtime) if len(ONNX) == 2 else None
    package = load_package(packages[runtime], asked)
    again = pickle.loads(pickle.dumps(package))
    x = images(2, 3, 16, 16)
    assert again.info.runtime == package.info.runtime == (asked or runtime)
    assert torch.equal(again(x), package(x))


@pytest.mark.skipif(len(ONNX) < 2, reason="takes both runtimes of ONNX files")
def test_a_package_says_the_precision_that_the_runtime_computes_in(packages: dict[str, Path], tmp_path: Path) -> None:
    path = save_package(classifier_program(tiny(), (16, 16)), tmp_path / "net", "openvino", "bfloat16").path
    assert load_package(path).info.precision == "bfloat16"
    assert load_package(path, "onnxruntime").info.precision == "float32"


@torch.inference_mode()
@pytest.mark.parametrize("runtime", [*ONNX[-1:], pytest.param("inductor", marks=pytest.mark.slow)])
def test_features_of_free_size(tmp_path: Path, runtime: str) -> None:
    if runtime not in available():
        pytest.skip("compiling ahead of time needs a C++ compiler")
    model = tiny(stem="imagenet", features_only=True)
    path = save_package(feature_program(model, (64, 64), dynamic=True), tmp_path / "features", runtime).path
    x = images(3, 3, 51, 38)
    package = load_package(path)
    for found, expected in zip(package(x), model(x), strict=True):
        assert relative(found, expected) <= 2e-6
    assert not any(len(found) for found in package(x[:0]))


@torch.inference_mode()
def test_a_small_example_fixes_no_size() -> None:
    model = tiny(stem="imagenet")
    program = classifier_program(model, (8, 12), dynamic=True)
    x = images(2, 3, 51, 70)
    assert relative(program.export().module()(x), model(x)) <= 2e-6
    assert classifier_program(model, (8, 12), dynamic=[0]).example.shape[2:] == (8, 12)


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(1, 3, 32, 16), torch.zeros(3, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)],
    ids=["size", "dimensions", "type"],
)
def test_other_images_are_refused(packages: dict[str, Path], wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="16"):
        load_package(next(iter(packages.values())))(wrong)


def test_arrays_of_any_layout_and_float(packages: dict[str, Path]) -> None:
    """A picture whose channels are reversed, as between BGR and RGB, is an array with a negative stride."""
    run = load_package(next(iter(packages.values())))
    images = np.random.default_rng(0).random((2, 3, 16, 16))
    for array in (images[:, ::-1], images[:, ::-1].transpose(0, 2, 3, 1)[:, :, ::-1].transpose(0, 3, 1, 2)):
        torch.testing.assert_close(run(array), run(array.copy()))
    torch.testing.assert_close(run(images.astype(">f4")), run(images))
    torch.testing.assert_close(run(np.asfortranarray(images)), run(images))
    torch.testing.assert_close(run(torch.as_tensor(images).to_sparse()), run(images))
    torch.testing.assert_close(run(torch._neg_view(torch.as_tensor(-images))), run(images))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.parametrize(
    "wrong",
    [
        lambda: None,
        lambda: "cat.jpg",
        lambda: Image.new("RGB", (16, 16)),
        lambda: np.zeros((1, 3, 16, 16), object),
        lambda: torch.nested.nested_tensor([torch.zeros(3, 16, 16)]),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(packages: dict[str, Path], wrong: Any) -> None:
    with pytest.raises(ValueError, match="3, 16, 16"):
        load_package(next(iter(packages.values())))(wrong())


def test_a_missing_runtime_is_named_before_anything_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    monkeypatch.setattr(runtimes, "write_onnx", pytest.fail)
    with pytest.raises(ModuleNotFoundError, match="onnxruntime"):
        save_package(classifier_program(tiny()), tmp_path / "net", "openvino", "int8", [images(1, 3, 32, 32)])
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModuleNotFoundError, match=r"nasnet-det\[.*openvino\]"):
        save_package(classifier_program(tiny()), tmp_path / "net", "openvino")


def test_auto_names_what_every_runtime_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(PackageError, match=r"onnxruntime needs .*onnx.*openvino needs .*onnx"):
        save_package(classifier_program(tiny()), tmp_path / "net", "auto", "int8", [images(1, 3, 32, 32)])


@pytest.mark.parametrize(("key", "value"), [("torch", "1.0"), ("needs", ["another machine"])])
def test_a_package_for_another_machine_is_refused(
    packages: dict[str, Path], tmp_path: Path, key: str, value: Any
) -> None:
    if "inductor" not in packages:
        pytest.skip("compiling ahead of time needs a C++ compiler")
    other = tmp_path / "other.pt2"
    with zipfile.ZipFile(packages["inductor"]) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("_metadata.json") and FORMAT.encode() in content:
                metadata = json.loads(content)
                metadata[FORMAT] = json.dumps({**json.loads(metadata[FORMAT]), key: value})
                content = json.dumps(metadata).encode()
            new.writestr(name, content)
    with pytest.raises(PackageError, match=r"1\.0|another machine"):
        load_package(other)


def test_compiling_in_bfloat16_leaves_a_fused_model_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda *_, **__: None)
    model = nasnet_det.optimize_for_inference(tiny())
    write_inductor(classifier_program(model, (16, 16)), tmp_path / "model.pt2", "bfloat16")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("failure", [ImportError("libtbb.so.12 is missing"), type("Fail", (Exception,), {})("shape")])
def test_auto_takes_the_fastest(failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"inductor": 3.0, "onnxruntime": 2.0, "openvino": 1.0}
    tried: list[str] = []

    def write(program: Any, path: Path, runtime: str, *rest: Any) -> dict[str, float]:
        if runtime == "openvino":
            raise failure
        path.write_text(runtime)
        return {"logits": 0.0}

    monkeypatch.setattr(runtimes, "available", lambda *_: list(seconds))
    monkeypatch.setattr(runtimes, "_write_and_check", write)
    monkeypatch.setattr(runtimes, "load_package", lambda path: path.read_text())
    monkeypatch.setattr(runtimes, "shortest", lambda package, x: seconds[package])
    monkeypatch.setattr(runtimes, "read_info", lambda path: None)
    saved = save_package(classifier_program(tiny(), (16, 16)), tmp_path / "model.pt2", log=tried.append)
    assert saved.path == tmp_path / "model.onnx" and saved.path.read_text() == "onnxruntime"
    assert saved.seconds == {"inductor": 3.0, "onnxruntime": 2.0}
    assert [line.split(":")[0] for line in tried] == list(seconds)
    assert list(tmp_path.iterdir()) == [saved.path]
    tried.clear()
    save_package(classifier_program(tiny(), dynamic=True), tmp_path / "free", log=tried.append)
    assert [line.split(":")[0] for line in tried] == ["onnxruntime", "openvino"]
    monkeypatch.setattr(runtimes, "available", lambda *_: ["openvino"])
    with pytest.raises(PackageError, match=f"openvino.*{failure}"):
        save_package(classifier_program(tiny(), (16, 16)), tmp_path / "none")


@pytest.mark.skipif("onnxruntime" not in ONNX, reason="takes ONNX Runtime")
def test_a_failure_leaves_the_old_package(
    packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise PackageError("compiling it failed")

    path = shutil.copy(packages["onnxruntime"], tmp_path / "model.onnx")
    monkeypatch.setattr(runtimes, "_write_and_check", fail)
    with pytest.raises(PackageError):
        save_package(classifier_program(tiny(), (16, 16)), path, "onnxruntime")
    assert filecmp.cmp(path, packages["onnxruntime"], shallow=False) and list(tmp_path.iterdir()) == [path]


@torch.inference_mode()
@pytest.mark.skipif(not ONNX, reason="takes a runtime of ONNX files")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_int8_is_near_and_bounded_by_calibration(batch_size: int, tmp_path: Path) -> None:
    program = classifier_program(tiny(), (16, 16), batch_size=batch_size)
    path = save_package(program, tmp_path / "int8", ONNX[0], "int8", calibration=[images(1, 3, 16, 16)] * 4).path
    x = images(1, 3, 16, 16)
    assert 0 < relative(load_package(path)(x), tiny()(x)) < 0.2
    assert read_info(path).precision == "int8" and read_info(path).description["num_classes"] == 5
    with pytest.raises(PackageError, match="calibrate"):
        save_package(program, tmp_path / "other", ONNX[0], "int8")


@torch.inference_mode()
@pytest.mark.skipif("openvino" not in ONNX, reason="takes OpenVINO")
def test_openvino_computes_pools_at_even_sizes_in_bfloat16(tmp_path: Path) -> None:
    model = tiny(genotype="nasnet_a", num_cells=(1, 1), stem="imagenet")
    saved = save_package(classifier_program(model, (224, 224)), tmp_path / "model", "openvino", "bfloat16")
    x = images(1, 3, 224, 224)
    assert relative(load_package(saved.path)(x), model(x)) < 0.1


@pytest.mark.parametrize(
    ("runtime", "precision"), [("tensorrt", "float32"), ("onnxruntime", "bfloat16"), ("inductor", "int8")]
)
def test_combinations_that_do_not_exist_are_refused(tmp_path: Path, runtime: str, precision: str) -> None:
    with pytest.raises(PackageError, match=runtime):
        save_package(classifier_program(tiny(), (16, 16)), tmp_path / "model", runtime, precision)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("runtime", ["inductor", "onnxruntime"], indirect=True)
def test_a_damaged_package_is_named_and_one_under_another_name_is_read(
    packages: dict[str, Path], tmp_path: Path, runtime: str
) -> None:
    content = packages[runtime].read_bytes()
    middle = len(content) // 2
    for name, damaged in (
        ("flipped", content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]),
        ("cut", content[: len(content) // 3]),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(PackageError, match=name):
            load_package(tmp_path / name)
    (tmp_path / "renamed").write_bytes(content)
    assert is_package(tmp_path / "renamed") and load_package(tmp_path / "renamed").num_classes == 5


@pytest.mark.parametrize(
    ("given", "file"), [("net", "net.onnx"), ("net.pt2", "net.onnx"), ("net_v1.2", "net_v1.2.onnx")]
)
def test_only_the_suffix_of_a_package_is_replaced(given: str, file: str) -> None:
    assert package_path(f"out/{given}", "openvino") == Path("out", file)


@pytest.mark.parametrize("folder", ["", ".", "..", "out/..", "/"])
def test_a_path_without_a_files_name_is_refused(folder: str) -> None:
    with pytest.raises(PackageError, match=re.escape(repr(str(Path(folder))))):
        package_path(folder, "openvino")


def test_a_file_that_cannot_be_written_is_told_before_packaging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasnet_det.export.runtimes._write_and_check", lambda *_: pytest.fail("packaged"))
    (tmp_path / "net.onnx").mkdir()
    (tmp_path / "file").touch()
    program = classifier_program(tiny(), (16, 16))
    for path, named in ((tmp_path / "net", "net.onnx"), (tmp_path / "file" / "net", "file")):
        with pytest.raises(OSError, match=named):
            save_package(program, path, "onnxruntime")
