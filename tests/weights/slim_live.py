"""Runs TF-slim's own NASNet, with random weights and batch-norm statistics, as the reference of a test.

It needs TensorFlow, tf-slim, Keras 2 (``tf_keras``) and TF-slim's ``nets/nasnet``, which the PyPI sdist
``tf_models_research_object_detection`` carries in its ``slim`` folder: name that folder in ``NASNET_DET_TF_SLIM``.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

VARIABLE = "NASNET_DET_TF_SLIM"


class HParams(SimpleNamespace):
    """The part of ``tensorflow.contrib.training.HParams`` that TF-slim uses."""

    def set_hparam(self, name: str, value: Any) -> None:
        setattr(self, name, value)


def import_nasnet() -> ModuleType:
    """TF-slim's module, or a skip that says what is missing."""
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf_slim")
    pytest.importorskip("tf_keras")
    folder = os.environ.get(VARIABLE)
    if folder:
        sys.path.append(folder)
    training = ModuleType("tensorflow.contrib.training")
    training.HParams = HParams  # type: ignore[attr-defined]
    contrib = ModuleType("tensorflow.contrib")
    contrib.training = training  # type: ignore[attr-defined]
    sys.modules.setdefault("tensorflow.contrib", contrib)
    sys.modules.setdefault("tensorflow.contrib.training", training)
    # TensorFlow looks for Keras 2's graph-mode batch norm where earlier releases of Keras 2 had it.
    normalization = importlib.import_module("tf_keras.src.legacy_tf_layers.normalization")
    sys.modules.setdefault("tf_keras.legacy_tf_layers.normalization", normalization)
    try:
        return importlib.import_module("nets.nasnet.nasnet")
    except ImportError:
        pytest.skip(f"no TF-slim nets/nasnet: set {VARIABLE} to the slim folder of the sdist")


def run_slim(
    nasnet: ModuleType, kind: str, images: np.ndarray, num_classes: int, training: bool = False, **overrides: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Any]:
    """The variables, the end points (maps channels last) and the hyper-parameters of one run.

    Args:
        kind: ``cifar``, ``mobile`` or ``large``.
        images: ``(N, H, W, 3)``.
        training: build the auxiliary head too and normalize with the batch's statistics.
        overrides: hyper-parameters.
    """
    import tensorflow.compat.v1 as tf
    import tf_slim

    config = getattr(nasnet, f"{kind}_imagenet_config" if kind != "cifar" else "cifar_config")()
    for name, value in overrides.items():
        config.set_hparam(name, value)
    generator = np.random.default_rng(0)
    with tf.Graph().as_default(), tf.Session() as session:
        placeholder = tf.placeholder(tf.float32, images.shape)
        with tf_slim.arg_scope(getattr(nasnet, f"nasnet_{kind}_arg_scope")()):
            build = getattr(nasnet, f"build_nasnet_{kind}")
            _, end_points = build(placeholder, num_classes, is_training=training, config=config)
        values = {
            variable: random_value(generator, variable.op.name, variable.shape.as_list())
            for variable in tf.global_variables()
            if variable.dtype.base_dtype == tf.float32
        }
        # All at once: loading thousands of variables one by one takes minutes.
        feeds = {variable.initial_value: value for variable, value in values.items()}
        session.run([variable.initializer for variable in tf.global_variables()], feeds)
        variables = {variable.op.name: value for variable, value in values.items()}
        return variables, session.run(end_points, {placeholder: images}), config


def random_value(generator: np.random.Generator, name: str, shape: list[int]) -> np.ndarray:
    """Weights that keep the maps' scale, and statistics that touch every normalization."""
    if name.endswith(("gamma", "moving_variance")):
        value = generator.uniform(0.5, 1.5, shape)
    elif name.endswith(("beta", "moving_mean", "biases")):
        value = generator.normal(0.0, 0.1, shape)
    else:
        fan_in = np.prod(shape[:2]) if name.endswith("depthwise_weights") else np.prod(shape[:-1])
        value = generator.normal(0.0, np.sqrt(1.0 / fan_in), shape)
    return value.astype(np.float32)
