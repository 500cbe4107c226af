"""tools/check_golden.py: a line per tensor, and what its exit status says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nasnet_det import NASNet
from nasnet_det.cli.check_golden import main
from nasnet_det.golden.classifier import classifier_end_points
from tests.weights.stored import small, stored, write_keras


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of another size, width, depth and number of classes than the shared ones, made by this package."""
    model: NASNet = small(num_cells=2, num_filters=12, stem_channels=10)
    path = tmp_path / "keras_other"
    path.mkdir()
    arguments = {
        "input_shape": [45, 70, 3],
        "penultimate_filters": 288,
        "num_blocks": 2,
        "stem_block_filters": 10,
        "skip_reduction": False,
        "filter_multiplier": 2,
    }
    (path / "meta.json").write_text(json.dumps({"seed": 3, "arguments": arguments, "classes": 7}))
    write_keras(path / "weights.h5", stored(model, "keras"))
    image = np.random.default_rng(3).uniform(-1, 1, (1, 45, 70, 3)).astype(np.float32)
    np.savez(path / "image.npz", image=image)
    with torch.no_grad():
        found = classifier_end_points(model, torch.from_numpy(image).permute(0, 3, 1, 2).contiguous())
    maps = found["Cell_3"].permute(0, 2, 3, 1)[:, ::4, ::4].numpy()
    np.savez(
        path / "outputs.npz", logits=found["Logits"].numpy(), logits_keras=found["Logits"].numpy() + 1, Cell_3=maps
    )
    return path


def change(folder: Path, **outputs: np.ndarray) -> None:
    with np.load(folder / "outputs.npz") as file:
        kept = dict(file)
    np.savez(folder / "outputs.npz", **{**kept, **outputs})


def test_all_within_their_bounds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[0].split()[:2] == ["keras_other", "logits"]
    assert lines[0].endswith("within 2e-06")
    assert "shown, not judged" in lines[1]
    assert lines[-1] == "6 tensors of 2 folders compared, 0 beyond their bounds"


@pytest.mark.parametrize("error", [1e-5, np.nan])
def test_one_beyond_its_bound(error: float, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(folder / "outputs.npz") as file:
        change(folder, logits=file["logits"] * np.float32(1 + error))
    assert main([str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "BEYOND 2e-06" in printed
    assert "3 tensors of 1 folders compared, 1 beyond their bounds" in printed


def test_what_cannot_be_compared(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error_of(path: Path) -> str:
        assert main([str(path)]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert "Traceback" not in captured.err
        return captured.err

    assert "meta.json: cannot be read" in error_of(tmp_path / "nothing")
    change(folder, Cell_99=np.zeros((1, 2), np.float32))
    assert "Cell_99" in error_of(folder)
    change(folder, Cell_99=np.zeros(1), Cell_3=np.zeros((1, 9, 9, 9)))
    assert "Cell_3 has the shape (1, 9, 9, 9)" in error_of(folder)
    (folder / "outputs.npz").write_bytes((folder / "outputs.npz").read_bytes()[:-30])
    assert "outputs.npz: cannot be read" in error_of(folder)
    (folder / "outputs.npz").write_bytes(b"no archive")
    assert "outputs.npz: cannot be read" in error_of(folder)
    np.savez(folder / "image.npz", image=np.zeros((1, 45, 70, 4), np.float32))
    assert "3 channels" in error_of(folder)
    (folder / "weights.h5").write_bytes((folder / "weights.h5").read_bytes()[:5000])
    assert "weights.h5" in error_of(folder)
    (folder / "meta.json").write_text("{}")
    assert "neither a classifier's" in error_of(folder)


def test_the_shared_folders(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorflow")
    assert main([str(golden / "slim_cifar_thin"), str(golden / "keras_mobile_thin")]) == 0
    assert "9 tensors of 2 folders compared, 0 beyond their bounds" in capsys.readouterr().out
