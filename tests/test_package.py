"""The package as a whole: what importing it needs, and what it does not."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

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


#: Each package imports only from those before it (docs/architecture.md).
ORDER = (
    *("safe_io", "genotypes", "models", "weights", "fusion", "draw", "timm_models"),
    *("training", "detection", "export", "search", "golden", "cli"),
)


def test_imports_point_one_way() -> None:
    root = Path(nasnet_det.__file__).parent
    files = [path for path in root.rglob("*.py") if path.parent != root or path.stem == "timm_models"]
    assert {path.relative_to(root).parts[0].removesuffix(".py") for path in files} == set(ORDER)
    for path in files:
        package = path.relative_to(root).parts[0].removesuffix(".py")
        for imported in imports(path):
            assert ORDER.index(imported) <= ORDER.index(package), f"{path}: {package} imports {imported}"


def imports(path: Path) -> set[str]:
    """Return the packages of ``nasnet_det`` that a module imports, also inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "nasnet_det":
            names += [f"nasnet_det.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = [name.split(".") for name in names if name.startswith("nasnet_det.")]
    return {part[1] for part in parts if part[1] in ORDER}
