"""Weights that were trained by this project and are part of the package, a safetensors file for each model.

``benchmarks/package_trained.py`` writes them from a training run.
"""

from __future__ import annotations

from pathlib import Path

#: The folder of the files.
FOLDER = Path(__file__).parent


def packaged_weights(name: str) -> Path | None:
    """Return the file of a model's packaged weights, float16 or float32; None for a model without."""
    path = FOLDER / f"{name}.safetensors"
    return path if path.is_file() else None
