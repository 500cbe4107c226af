"""Packages and other models by their names on a command line."""

from __future__ import annotations

import pytest

from nasnet_det.cli.shared.models import names_package
from nasnet_det.cli.validate import load_model, parse


def test_options_that_do_not_go_with_a_package_or_another_model_are_refused() -> None:
    assert names_package("a/mobile.onnx", "openvino", others=False) and not names_package("runs/a", None, others=True)
    for model, options, named in (
        ("mobile.onnx", ["--weights", "NASNet-mobile.h5"], "weights"),
        ("mobile.onnx", ["--precision", "bfloat16"], "precision"),
        ("mobile.onnx", ["--mode", "compile"], "options"),
        ("mobile.onnx", ["--device", "cuda"], "CPU"),
        ("nasnet_a_mobile", ["--runtime", "openvino"], "--runtime"),
    ):
        with pytest.raises(ValueError, match=f"{named}.*{model}|{model}.*{named}"):
            load_model(parse(["data", "--model", model, *options]))
