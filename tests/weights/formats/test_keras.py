"""Keras files, and Keras's own network side by side with this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nasnet_det import NASNet
from nasnet_det.golden.comparison import relative_error
from nasnet_det.weights import read_arrays, read_state_dict
from tests.helpers import assert_same
from tests.weights.slim_live import random_value
from tests.weights.stored import small, stored, write_keras


def test_names_as_keras_gives_them() -> None:
    arrays = stored(small(num_cells=4), "keras")
    for name in (
        "stem_conv1/kernel",
        "stem_bn1/moving_mean",
        "reduction_conv_1_stem_1/kernel",
        "adjust_conv_1_stem_2/kernel",
        "adjust_bn_0/gamma",
        "adjust_conv_projection_3/kernel",
        "separable_conv_1_normal_left1_0/depthwise_kernel",
        "separable_conv_2_bn_normal_left5_3/beta",
        "reduction_conv_1_reduce_4/kernel",
        "separable_conv_1_reduction_left4_reduce_8/pointwise_kernel",
        "adjust_conv_2_5/kernel",  # the reduction took number 4
        "normal_bn_1_10/moving_variance",
        "predictions/bias",
    ):
        assert name in arrays
    assert not any("_left5_reduce" in name or "_normal_left1_13" in name for name in arrays)


def test_a_file_of_a_whole_model_holds_the_same_weights(tmp_path: Path) -> None:
    import h5py

    arrays = stored(small(), "keras")
    write_keras(tmp_path / "weights.h5", arrays)
    with h5py.File(tmp_path / "model.h5", "w") as file, h5py.File(tmp_path / "weights.h5") as weights:
        group = file.create_group("model_weights")
        for layer in weights:
            weights.copy(layer, group)
        file["optimizer_weights/iterations"] = 3
    assert read_arrays(tmp_path / "model.h5").keys() == read_arrays(tmp_path / "weights.h5").keys()


@pytest.mark.parametrize("scope", ["", "reduction_A_block_stem_1/", "scope/of/2018_1/"])
def test_scopes_and_names_of_any_release(scope: str, tmp_path: Path) -> None:
    model = small()
    arrays = {name.replace("_reduction_right1_", "_reduction_1_"): v for name, v in stored(model, "keras").items()}
    path = write_keras(tmp_path / "weights.h5", arrays, scope)
    assert_same(read_state_dict(model, read_arrays(path)), model.state_dict())


def keras_network(nasnet: Any, size: tuple[int, int], skip_reduction: bool, blocks: int) -> tuple[Any, dict[str, Any]]:
    """A thin Keras NASNet with random weights, and the arguments of the same network here."""
    model = nasnet.NASNet(
        input_shape=(*size, 3),
        penultimate_filters=192,
        num_blocks=blocks,
        stem_block_filters=8,
        skip_reduction=skip_reduction,
        weights=None,
        classes=7,
        classifier_activation=None,
        include_top=True,
        default_size=64,
    )
    generator = np.random.default_rng(0)
    kinds = {"kernel": "weights", "depthwise_kernel": "depthwise_weights", "bias": "biases"}
    for weight in model.weights:
        name = weight.path.rsplit("/", 1)[1]
        weight.assign(random_value(generator, kinds.get(name, name), list(weight.shape)))
    numbers = {
        "num_cells": blocks,
        "num_filters": 8,
        "stem_channels": 8,
        "num_classes": 7,
        "skip_reduction_layer_input": skip_reduction,
    }
    return model, numbers


def with_same_pools(keras: Any, model: Any) -> Any:
    """The same network, its stride-2 pools padded as SAME instead of with a border of zeros."""

    def replaced(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name.startswith("reduction_pad_"):
            return keras.layers.Identity(name=layer.name)
        pools = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
        if isinstance(layer, pools) and config["pool_size"] == (3, 3):
            return type(layer).from_config({**config, "padding": "same"})
        return type(layer).from_config(config)

    mended = keras.models.clone_model(model, clone_function=replaced)
    mended.set_weights(model.get_weights())
    return mended


@pytest.mark.parametrize(("size", "skip_reduction", "blocks"), [((75, 98), True, 2), ((32, 33), False, 1)])
def test_keras_border_error_is_the_whole_difference(size: tuple[int, int], skip_reduction: bool, blocks: int) -> None:
    pytest.importorskip("tensorflow")
    keras, nasnet = pytest.importorskip("keras"), pytest.importorskip("keras.src.applications.nasnet")
    reference, numbers = keras_network(nasnet, size, skip_reduction, blocks)
    model = NASNet(**numbers).eval()
    model.load_state_dict(read_state_dict(model, {w.path: w.numpy() for w in reference.weights}))
    images = np.random.default_rng(1).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()).numpy()
    assert relative_error(logits, np.asarray(reference(images))) > 1e-3
    assert relative_error(logits, np.asarray(with_same_pools(keras, reference)(images))) <= 2e-6
