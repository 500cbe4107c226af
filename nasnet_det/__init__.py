"""NASNet's cells as exact timm and detectron2 backbones, the paper's Faster R-CNN, and its search and training.

Importing this package registers its models with timm. It needs neither detectron2 nor Ray nor TensorFlow.
"""

from nasnet_det import timm_models
from nasnet_det.family import FAMILY
from nasnet_det.fusion import optimize_for_inference
from nasnet_det.genotypes import Block, CellGenotype, Genotype, GenotypeError, as_genotype
from nasnet_det.network import NASNet

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
    "timm_models",
]
