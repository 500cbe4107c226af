"""NASNet's cells as exact timm and detectron2 backbones, the paper's Faster R-CNN, and its search and training.

Importing this package registers its models with timm: at once if timm is imported already, otherwise as soon as it is.
The import itself loads neither PyTorch nor timm, so that the command line can answer ``--help`` without them; the names
below are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wrapt import register_post_import_hook

if TYPE_CHECKING:
    from nasnet_det.fusion import optimize_for_inference
    from nasnet_det.genotypes.genotype import Block, CellGenotype, Genotype, GenotypeError
    from nasnet_det.genotypes.published import as_genotype
    from nasnet_det.models.family import FAMILY
    from nasnet_det.models.network import NASNet

__version__ = "0.1.0"

__all__ = [
    "FAMILY",
    "Block",
    "CellGenotype",
    "Genotype",
    "GenotypeError",
    "NASNet",
    "as_genotype",
    "optimize_for_inference",
]

_MODULES = {
    **dict.fromkeys(("Block", "CellGenotype", "Genotype", "GenotypeError"), "nasnet_det.genotypes.genotype"),
    "FAMILY": "nasnet_det.models.family",
    "NASNet": "nasnet_det.models.network",
    "as_genotype": "nasnet_det.genotypes.published",
    "optimize_for_inference": "nasnet_det.fusion",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "timm_models":
        return importlib.import_module("nasnet_det.timm_models")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _register(timm: Any) -> None:
    del timm
    importlib.import_module("nasnet_det.timm_models")


register_post_import_hook(_register, "timm")
