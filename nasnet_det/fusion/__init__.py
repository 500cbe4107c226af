"""The same function, faster at inference.

:func:`optimize_for_inference` rewrites every network inside a model: norms are folded into convolutions, ReLU and pools
of one state are computed once for all that read it, and the pointwise convolutions that a block adds up become one
matrix product. It reads a cell's own modules (``graph.py``), so it holds for any genotype. On a GPU, depthwise
convolutions that are ready together share a launch (``schedule.py``, ``depthwise.py``).
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from nasnet_det.fusion.cuda_graphs import owners, use_graphs
from nasnet_det.fusion.network import FusedNASNet
from nasnet_det.models.network import NASNet

__all__ = ["optimize_for_inference"]

Model = TypeVar("Model", bound=nn.Module)


def optimize_for_inference(model: Model, cuda_graphs: bool = False) -> Model:
    """A copy of ``model``, in evaluation, that computes the same faster.

    Outputs differ by rounding only (in float32 at most 2e-6, relative to the largest). What it does not know runs as
    it is, and a warning says so once. The copy has the channels_last memory format, cannot be trained, and its weights
    have other names: load weights before, and keep the original for checkpoints. It can be compiled, exported, moved
    and converted to bfloat16 as any other module.

    Args:
        model: a :class:`NASNet`, or anything with such networks inside: timm's feature extractors, a detector.
        cuda_graphs: on a GPU, record the calls of ``model``, if it is such a network itself, or of the modules around
            each network (a feature extractor, both stages of a detector), as CUDA graphs: one for each shape of image,
            at its first call. Elsewhere, and where that cannot be, it runs as it is and a warning says so once.

    Raises:
        ValueError: if there is no network of this package in ``model``, or it is optimized already.
    """
    networks = [module for module in model.modules() if isinstance(module, NASNet)]
    if not networks:
        raise ValueError(f"optimize_for_inference takes a model with a NASNet inside; {type(model).__name__} has none")
    if any(isinstance(network, FusedNASNet) for network in networks):
        raise ValueError("this model is optimized for inference already")
    with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be told apart when they change
        model = copy.deepcopy(model).eval()
        for network in [module for module in model.modules() if isinstance(module, NASNet)]:
            FusedNASNet.take_over(network)
            network.to(memory_format=torch.channels_last)
    if cuda_graphs:
        for owner in owners(model, FusedNASNet):
            use_graphs(owner)
    return model
