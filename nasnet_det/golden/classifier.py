"""Comparison of classifiers with the recorded outputs of the original implementations.

A folder holds ``meta.json`` (from which alone the network is built), ``image.npz``, ``outputs.npz`` and the checkpoint
in its original format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasnet_det.golden.comparison import Comparison, GoldenError, arrays_of, as_stored, relative_error
from nasnet_det.models.network import NASNet
from nasnet_det.models.plan import slim_stages
from nasnet_det.models.presets import PRESETS
from nasnet_det.safe_io.values import first_line
from nasnet_det.weights.arrays import read_arrays
from nasnet_det.weights.formats import read_state_dict
from nasnet_det.weights.layout import naming

#: The largest relative error of a classifier's tensors, in float32 on the CPU.
CLASSIFIER_BOUND = 2e-6


def is_classifier(meta: Mapping[str, Any]) -> bool:
    """Return True for the folder of a TF-slim or Keras classifier."""
    return "hparams" in meta or "arguments" in meta


def classifier_of(meta: Mapping[str, Any], **arguments: Any) -> NASNet:
    """Build the network that a classifier's ``meta.json`` describes, with random weights.

    Args:
        meta: the contents of ``meta.json``.
        arguments: of :class:`NASNet`, besides those that it describes.

    Raises:
        GoldenError: if an entry is missing or describes a network that is not built here.
    """
    try:
        numbers = _slim_numbers(meta) if "hparams" in meta else _keras_numbers(meta)
        return NASNet(**numbers, **arguments)
    except KeyError as error:
        raise GoldenError(f"meta.json lacks {error}, which the network is built from") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise GoldenError(f"meta.json describes no network that is built here: {first_line(error)}") from None


def classifier_end_points(model: NASNet, x: Tensor) -> dict[str, Tensor]:
    """Return TF-slim's end points of images ``(N, in_chans, H, W)`` in [-1, 1].

    ``Stem`` (of the last stem cell), ``Cell_0``, ``Reduction_Cell_0``, ... are raw cell outputs ``(N, C, h, w)``;
    ``global_pool`` is ``(N, C)``, ``Logits`` and ``Predictions`` are ``(N, classes)``.
    """
    outputs = {0: model.forward_stem(x)}
    found = {"Stem": outputs[0][0]}
    last = outputs[0]
    for number, last in model.run_cells(outputs, 0, len(model.plan)):
        name = model.plan[number - 1].name
        if name.startswith("cell_stem"):
            name = "Stem"
        found["_".join(part.capitalize() for part in name.split("_"))] = torch.cat(last, dim=1)
    pooled = torch.relu(torch.cat(last, dim=1)).mean(dim=(2, 3))
    logits = model.fc(pooled)
    return {**found, "global_pool": pooled, "Logits": logits, "Predictions": logits.softmax(dim=1)}


@torch.no_grad()
def compare_classifier(folder: Path, meta: Mapping[str, Any]) -> Iterator[Comparison]:
    """Run a classifier's folder and compare every stored tensor, float32 on the CPU.

    Raises:
        GoldenError: if a file or an entry is missing or of another shape than the network gives.
        WeightsError: if the checkpoint is damaged or not this network's.
    """
    model = classifier_of(meta).eval()
    checkpoint = folder / ("model.ckpt" if "hparams" in meta else "weights.h5")
    arrays = read_arrays(checkpoint)
    with naming(checkpoint):
        model.load_state_dict(read_state_dict(model, arrays))
    image = arrays_of(folder / "image.npz")
    in_chans = model.get_submodule("stem.conv").in_channels
    if "image" not in image or image["image"].ndim != 4 or image["image"].shape[3] != in_chans:
        raise GoldenError(
            f"{folder / 'image.npz'}: expected an array 'image': images, height, width, {in_chans} channels"
        )
    x = torch.from_numpy(image["image"]).float().permute(0, 3, 1, 2).contiguous()
    found = {name: _channels_last(value) for name, value in classifier_end_points(model, x).items()}
    for name, reference in arrays_of(folder / "outputs.npz").items():
        known = {**found, "logits": found["Logits"], "logits_keras": found["Logits"]}
        if name not in known:
            raise GoldenError(
                f"{folder / 'outputs.npz'}: expected an end point of this network ({', '.join(found)}), got {name!r}"
            )
        value = as_stored(known[name], reference, f"{folder / 'outputs.npz'}: {name}")
        keras = name == "logits_keras"
        note = "Keras's own pooling counts a border of zeros: shown, not judged" if keras else ""
        yield Comparison(name, relative_error(value, reference), None if keras else CLASSIFIER_BOUND, note)


def _slim_numbers(meta: Mapping[str, Any]) -> dict[str, Any]:
    hparams, variables = meta["hparams"], meta["variables"]
    if hparams.get("filter_scaling_rate", 2.0) != 2.0 or hparams.get("use_bounded_activation", False):
        raise ValueError("filter_scaling_rate is 2 and use_bounded_activation false in every published network")
    filters = hparams["num_conv_filters"]
    cifar = "l1_stem_3x3/weights" in variables
    first = variables["l1_stem_3x3/weights" if cifar else "conv0/weights"]
    return {
        "num_cells": slim_stages(hparams["num_cells"], hparams.get("num_reduction_layers", 2)),
        "num_filters": filters,
        "stem": "cifar" if cifar else "imagenet",
        "stem_channels": int((filters if cifar else 32) * hparams["stem_multiplier"]),
        "skip_reduction_layer_input": bool(hparams["skip_reduction_layer_input"]),
        "bn_eps": PRESETS["cifar" if cifar else "imagenet"].bn_eps,
        "in_chans": first[2],
        "num_classes": meta["num_classes"],
    }


def _keras_numbers(meta: Mapping[str, Any]) -> dict[str, Any]:
    arguments = meta["arguments"]
    if arguments.get("filter_multiplier", 2) != 2:
        raise ValueError("filter_multiplier is 2 in every published network")
    return {
        "num_cells": arguments["num_blocks"],
        "num_filters": arguments["penultimate_filters"] // 24,
        "stem_channels": arguments["stem_block_filters"],
        "skip_reduction_layer_input": arguments["skip_reduction"],
        "in_chans": arguments["input_shape"][2],
        "num_classes": meta["classes"],
    }


def _channels_last(value: Tensor) -> np.ndarray:
    return (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy()
