"""Conversion of published weights of any readable format to a safetensors file of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from nasnet_det.models.family import FAMILY
from nasnet_det.models.network import NASNet
from nasnet_det.safe_io.files import file_digest, replacing
from nasnet_det.weights.arrays import read_arrays
from nasnet_det.weights.formats import detect
from nasnet_det.weights.formats.tf_slim import AVERAGE
from nasnet_det.weights.layout import Arrays, Format, WeightsError, to_state_dict
from nasnet_det.weights.published import PRETRAINED, PUBLISHED_WEIGHTS, resolve

_IMAGENET_WITH_BACKGROUND = 1001


def convert_weights(
    source: str,
    output: Path,
    model: str | None = None,
    network: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    cache: Path | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Read ``source``, convert it, write ``output`` and log what was read and written.

    Args:
        source: a file, folder or archive, a URL, ``hf-hub:OWNER/REPOSITORY`` or the name of a published file.
        output: the safetensors file to write.
        model: the member of the family that the weights belong to; None to try those with published weights.
        network: arguments of :class:`NASNet` that replace the model's, or describe a network outside the family.
        num_classes: classes to keep; 0 for no classifier; None for all without the background class of 1001.
        cache: the folder that keeps downloads.
        log: called with each line of the report.

    Raises:
        WeightsError: if the weights cannot be read, or belong to none of the networks.
    """
    file = resolve(source, cache)
    arrays = read_arrays(file)
    fmt = detect(arrays)
    averages = sum(name.endswith(AVERAGE) for name in arrays)
    log(f"read {file}: {fmt.title}, {len(arrays)} tensors" + (f", {averages} moving averages" if averages else ""))

    stored = fmt.num_classes(arrays)
    kept = _kept_classes(num_classes, stored, fmt)
    if stored:
        log(f"classes: {stored} in the file, {kept} kept{', without the background' if 0 < kept < stored else ''}")
    candidates = _candidates(source, model, network or {})
    name, built, state = _first_match(source, candidates, arrays, fmt, kept)
    log(f"network: {name}, {sum(parameter.numel() for parameter in built.parameters()):,} parameters")
    with replacing(output) as part:
        save_file(state, part, {"format": "pt", "network": name, "source": source, "source_format": fmt.title})
    log(f"wrote {output}: {len(state)} tensors, SHA-256 {file_digest(output)}")


def _kept_classes(asked: int | None, stored: int, fmt: Format) -> int:
    if asked is not None:
        return asked
    return stored - 1 if fmt.has_background and stored == _IMAGENET_WITH_BACKGROUND else stored


def _candidates(source: str, model: str | None, network: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arguments of the possible networks by name."""
    published = PUBLISHED_WEIGHTS.get(source)
    if model:
        names: tuple[str, ...] = (model,)
    elif published and isinstance(published.model, str):
        names = (published.model,)
    elif {"num_cells", "num_filters"} & network.keys():
        return {", ".join(f"{key}={value}" for key, value in network.items()): dict(network)}
    else:
        names = (source,) if source in PRETRAINED else tuple(PRETRAINED)
    return {name: {**FAMILY[name].network_arguments(), **network} for name in names}


def _first_match(
    source: str, candidates: Mapping[str, dict[str, Any]], arrays: Arrays, fmt: Format, num_classes: int
) -> tuple[str, NASNet, dict[str, Any]]:
    """Return name, network and state dict of the first candidate that the weights belong to."""
    problems = []
    for name, arguments in candidates.items():
        network = NASNet(**{**arguments, "num_classes": num_classes, "device": "meta"})
        try:
            return name, network, to_state_dict(network, arrays, fmt)
        except WeightsError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise WeightsError(f"{source}: {problems[0]}")
    raise WeightsError(
        f"{source}: neither {' nor '.join(candidates)}: name the network with --model or with --num-cells, "
        "--num-filters and the options beside them"
    )
