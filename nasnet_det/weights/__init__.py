"""Reads published weights, each format by a pure function from named arrays to a state dict."""

from nasnet_det.weights.keras import keras_state_dict
from nasnet_det.weights.layout import WeightsError
from nasnet_det.weights.tf_slim import tf_slim_state_dict

__all__ = ["WeightsError", "keras_state_dict", "tf_slim_state_dict"]
