"""The package as a whole: what importing it needs, and what it does not."""

from __future__ import annotations

import subprocess
import sys

import nasnet_det

EXTRAS = ("detectron2", "ray", "tensorflow", "optuna", "pycocotools", "fvcore", "onnx", "tensorboard")


def test_importing_needs_no_extra() -> None:
    """With every extra out of reach, the package imports, registers its models and builds one."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"
        "import timm, nasnet_det, nasnet_det.detection, nasnet_det.search, nasnet_det.training, nasnet_det.weights\n"
        "print(timm.create_model('nasnet', num_cells=1, num_filters=4, device='meta').num_features)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "96"


def test_version() -> None:
    assert nasnet_det.__version__.count(".") == 2
