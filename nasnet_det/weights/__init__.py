"""Reads published weights, each format by a rule from named arrays to a state dict."""

from nasnet_det.weights.arrays import read_arrays, read_checkpoint
from nasnet_det.weights.formats import FORMATS, detect, read_state_dict
from nasnet_det.weights.layout import WeightsError, to_state_dict

__all__ = ["FORMATS", "WeightsError", "detect", "read_arrays", "read_checkpoint", "read_state_dict", "to_state_dict"]
