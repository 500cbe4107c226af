"""The command that measures on a GPU, tried on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu


@pytest.mark.parametrize(
    "parts",
    [["detector", "cifar"], pytest.param(["mobile", "training", "cifar", "mobile_compiled"], marks=pytest.mark.slow)],
)
def test_every_part_gives_rows(parts: list[str], tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    assert gpu.main(["--device", "cpu", "--quick", "--parts", *parts, "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["part"] for row in rows} == set(parts)
    assert all(row["seconds"] > 0 and row["peak_mib"] > 0 for row in rows)
    assert len((tmp_path / "gpu.md").read_text().splitlines()) == len(rows) + 2


def test_a_part_that_fails_is_named(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--quick", "--parts", "cifar", "--cifar", str(tmp_path / "none")]
    assert gpu.main([*arguments, "--output", str(tmp_path)]) == 1
    (row,) = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert row["part"] == "cifar" and "error" in row


def test_no_gpu_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--output", str(tmp_path / "gpu")]) == 2
    assert not (tmp_path / "gpu").exists()
