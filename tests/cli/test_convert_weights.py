"""tools/convert_weights.py: any readable file becomes one that timm and this package load."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nasnet_det.cli.convert_weights import main
from nasnet_det.weights import load_published
from tests.helpers import assert_same
from tests.weights.stored import Server, serving, small, stored, write_keras

NUMBERS = ["--num-cells", "1", "--num-filters", "8", "--stem-channels", "8"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_keras(tmp_path / "small.h5", stored(small(), "keras"))


@pytest.mark.parametrize("form", ["file", "folder", "archive", "url"])
def test_every_kind_of_input(form: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "converted" / "small.safetensors"
    given = {"file": source, "folder": source.parent, "archive": tmp_path / "small.tar.gz", "url": "small.h5"}[form]
    if form == "archive":
        with tarfile.open(given, "w:gz") as tar:
            tar.add(source, "inside/small.h5")
    with serving() as server:
        server: Server
        server.files["small.h5"] = source.read_bytes()
        name = server.url("small.h5") if form == "url" else str(given)
        assert main([name, str(output), *NUMBERS, "--cache", str(tmp_path / "cache")]) == 0
    assert_same(load_file(output), small().state_dict())
    printed = capsys.readouterr().out
    assert "Keras file, 491 tensors" in printed
    assert "classes: 7 in the file, 7 kept" in printed
    assert "num_cells=1, num_filters=8" in printed
    assert f"wrote {output}" in printed


def test_the_background_of_imagenet_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {name: torch.from_numpy(v.copy()) for name, v in stored(small(num_classes=1001), "timm").items()}
    torch.save(state, tmp_path / "cadene.pth")
    expected = small(num_classes=1001).fc.weight
    for more, kept in (((), expected[1:]), (("--num-classes", "1001"), expected)):
        arguments = [str(tmp_path / "cadene.pth"), str(tmp_path / "out.safetensors"), *NUMBERS, *more, "--overwrite"]
        assert main(arguments) == 0
        assert torch.equal(load_file(tmp_path / "out.safetensors")["fc.weight"], kept)
    assert "1001 in the file, 1000 kept, without the background" in capsys.readouterr().out


def test_no_classifier(source: Path, tmp_path: Path) -> None:
    assert main([str(source), str(tmp_path / "out.safetensors"), *NUMBERS, "--num-classes", "0"]) == 0
    assert not any(name.startswith("fc.") for name in load_file(tmp_path / "out.safetensors"))


def test_the_member_is_found_by_itself_and_timm_loads_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = timm.create_model("nasnet_a_mobile")
    write_keras(tmp_path / "some.h5", stored(reference, "keras"))
    output = tmp_path / "mobile.safetensors"
    assert main([str(tmp_path / "some.h5"), str(output)]) == 0
    assert "network: nasnet_a_mobile, 5,289,978 parameters" in capsys.readouterr().out
    with safe_open(output, "pt") as file:
        assert file.metadata()["network"] == "nasnet_a_mobile"
    model = timm.create_model("nasnet_a_mobile", checkpoint_path=str(output))
    assert torch.equal(model.fc.weight, reference.fc.weight)


def test_bad_input_is_one_line_and_leaves_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"

    def error_of(*arguments: str) -> str:
        assert main([*arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert not output.exists()
        return error

    assert "nothing.h5" in error_of(str(tmp_path / "nothing.h5"), str(output))
    assert "--model" in error_of(str(source), str(output))
    assert "lacks" in error_of(str(source), str(output), "--model", "nasnet_a_mobile")
    assert str(source) in error_of(str(source), str(output), "--num-cells", "1", "--num-filters", "12")
    assert "has 7 classes, but the network has 5" in error_of(str(source), str(output), *NUMBERS, "--num-classes", "5")
    (tmp_path / "half.h5").write_bytes(source.read_bytes()[:20000])
    assert "half.h5" in error_of(str(tmp_path / "half.h5"), str(output), *NUMBERS)


def test_a_file_that_exists_is_kept(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "mine.safetensors"
    output.write_text("mine")
    assert main([str(source), str(output), *NUMBERS]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert main([str(source), str(output), *NUMBERS, "--overwrite"]) == 0
    model = small()
    load_published(model, output)


def test_a_checkpoint_with_its_moving_averages(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorflow")
    numbers = ["--num-cells", "6", "--num-filters", "16", "--stem-channels", "96", "--skip-reduction-layer-input"]
    assert main([str(golden / "slim_large_thin"), str(tmp_path / "out.safetensors"), *numbers]) == 0
    printed = capsys.readouterr().out
    assert "TF-slim checkpoint, 1546 tensors, 1018 moving averages" in printed
    assert "classes: 101 in the file, 101 kept" in printed
    assert "964,665 parameters" in printed
