"""Inference-time fusion: the same function as a :class:`NASNet`, with fewer and larger operations.

:func:`optimize_for_inference` rewrites every network inside a model: norms are folded into convolutions, ReLU, pooling
and subsampling of a state are computed once for all readers, and the pointwise convolutions that a block adds up become
one matrix product. The rewrite is derived from the cell's own modules (``graph.py``), so it works for any genotype.
``torch.compile``, ``torch.export`` and ahead-of-time compilation take the result as any other module.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from nasnet_det.fusion.network import FusedNASNet
from nasnet_det.models.network import NASNet

__all__ = ["optimize_for_inference"]

Model = TypeVar("Model", bound=nn.Module)


def optimize_for_inference(model: Model) -> Model:
    """Return a faster copy of ``model``, in evaluation mode, that computes the same function.

    The outputs differ by rounding only; ``docs/speed.md`` gives the measured bounds. Modules that the fusion does not
    know are kept unchanged, with one warning. The copy uses the channels_last memory format and is for inference only.
    Its parameters have other names, so load weights first and keep the original for checkpoints. The copy can be
    compiled, exported, moved to a device and converted to bfloat16. Changes of its parameters through ``.data``, which
    PyTorch does not count, are not seen after its first call.

    Args:
        model: a :class:`NASNet`, or any module that contains such networks, for example timm's feature extractors or a
            detector.

    Raises:
        ValueError: if ``model`` contains no NASNet, or is optimized already.
    """
    networks = [module for module in model.modules() if isinstance(module, NASNet)]
    if not networks:
        raise ValueError(f"optimize_for_inference needs a model with a NASNet inside; {type(model).__name__} has none")
    if any(isinstance(network, FusedNASNet) for network in networks):
        raise ValueError("this model is optimized for inference already")
    with torch.inference_mode(False), torch.no_grad():  # inference tensors have no version counter to detect changes
        model = copy.deepcopy(model).eval()
        for network in [module for module in model.modules() if isinstance(module, NASNet)]:
            FusedNASNet.convert(network)
            network.to(memory_format=torch.channels_last)
    return model
