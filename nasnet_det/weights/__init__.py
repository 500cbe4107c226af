"""Published weights: locations, download, cache, and readers of every format."""

import timm  # noqa: F401 - see nasnet_det.models

from nasnet_det.weights.arrays import read_arrays, read_checkpoint
from nasnet_det.weights.formats import FORMATS, detect, read_state_dict
from nasnet_det.weights.layout import WeightsError, to_state_dict
from nasnet_det.weights.published import PRETRAINED, PUBLISHED_WEIGHTS, PublishedWeights, load_published, resolve
from nasnet_det.weights.timm_hooks import checkpoint_filter, timm_overlay

__all__ = [
    "FORMATS",
    "PRETRAINED",
    "PUBLISHED_WEIGHTS",
    "PublishedWeights",
    "WeightsError",
    "checkpoint_filter",
    "detect",
    "load_published",
    "read_arrays",
    "read_checkpoint",
    "read_state_dict",
    "resolve",
    "timm_overlay",
    "to_state_dict",
]
