"""``nasnet-det draw-accuracy``."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.cli.draw_accuracy import main
from nasnet_det.draw import labels
from nasnet_det.draw.published_accuracy import family_point
from nasnet_det.models.family import FAMILY


def test_the_picture_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "ORDERS", 1)
    out = tmp_path / "accuracy.svg"
    assert main(["--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert "<svg" in out.read_text(encoding="utf-8")


def test_only_models_with_published_imagenet_figures_are_drawn() -> None:
    points = {name: family_point(name, variant) for name, variant in FAMILY.items()}
    large = points["nasnet_a_large"]
    assert (large.multiply_adds, large.parameters, large.accuracy) == (23800, 88.9, 82.7)
    assert points["amoebanet_d"] is None  # nothing printed
    assert all(points[name] is None for name in FAMILY if name.endswith("cifar"))


def test_another_ending_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "accuracy.pdf")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
