"""Locations of the published weights, and loading of weights into a network from a file, folder, URL or hub."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from timm.models import adapt_input_conv

from nasnet_det.models.family import FAMILY
from nasnet_det.models.network import NASNet
from nasnet_det.safe_io.cache import cache_folder
from nasnet_det.weights.arrays import read_arrays
from nasnet_det.weights.cache import cached, is_cached
from nasnet_det.weights.download import HUB, Unreachable, from_hub, is_remote
from nasnet_det.weights.formats import detect
from nasnet_det.weights.layout import AUXILIARY, WeightsError, naming, to_state_dict, wrong_classes

_logger = logging.getLogger(__name__)

#: Part of the names of cached files; to be incremented when the names of the network's tensors change.
LAYOUT_VERSION = 1


@dataclass(frozen=True)
class PublishedWeights:
    """One published file.

    Args:
        name: its name here and in the cache.
        model: the member of the family that it belongs to, or the arguments of its :class:`NASNet`.
        location: its URL, or ``hf-hub:OWNER/REPOSITORY``.
        digest: ``ALGORITHM:HASH`` where one is published; otherwise the first hash seen is recorded and compared later.
    """

    name: str
    model: str | Mapping[str, Any]
    location: str
    digest: str | None = None


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/nasnet/"
_SLIM = "https://storage.googleapis.com/download.tensorflow.org/models/"
_FROZEN = _SLIM + "tflite/model_zoo/upload_20180427/"
#: Network and kind, location and published hash, in the order in which ``pretrained=True`` tries them: those with a
#: published hash or a hub's check come first, and those that need TensorFlow last.
_FILES = (
    # timm/models/nasnet.py
    ("nasnet_a_large.timm", f"{HUB}timm/nasnetalarge.tf_in1k", None),
    # keras/applications/nasnet.py
    ("nasnet_a_large.keras", _KERAS + "NASNet-large.h5", "md5:11577c9a518f0070763c2b964a382f17"),
    ("nasnet_a_mobile.keras", _KERAS + "NASNet-mobile.h5", "md5:020fb642bf7360b370c678b08e0adf61"),
    # tensorflow/models research/slim/README.md
    ("nasnet_a_large.tf_slim", _SLIM + "nasnet-a_large_04_10_2017.tar.gz", None),
    ("nasnet_a_mobile.tf_slim", _SLIM + "nasnet-a_mobile_04_10_2017.tar.gz", None),
    # tensorflow/lite/g3doc/guide/hosted_models.md
    ("nasnet_a_large.frozen", _FROZEN + "nasnet_large_2018_04_27.tgz", None),
    ("nasnet_a_mobile.frozen", _FROZEN + "nasnet_mobile_2018_04_27.tgz", None),
)

#: Every published file by name.
PUBLISHED_WEIGHTS: dict[str, PublishedWeights] = {
    name: PublishedWeights(name, name.partition(".")[0], *where) for name, *where in _FILES
}

#: The files that ``pretrained=True`` tries.
PRETRAINED: dict[str, tuple[str, ...]] = {
    model: tuple(name for name, weights in PUBLISHED_WEIGHTS.items() if weights.model == model)
    for model in ("nasnet_a_large", "nasnet_a_mobile")
}


_STEM = "stem.conv.weight"
_CLASSIFIERS = ("fc.", f"{AUXILIARY}fc.")


def load_published(
    model: NASNet,
    source: PublishedWeights | str | Path,
    *,
    classifier: Literal["read", "new"] = "read",
    cache_dir: str | Path | None = None,
) -> None:
    """Load weights into a network.

    For other image channels, the first convolution is adapted as timm does it. A network without a classifier, with an
    auxiliary head that the file lacks, or with pruned cells loads the tensors that it shares with the file.

    Args:
        model: the network that the weights belong to.
        source: see :func:`resolve`.
        classifier: ``new`` leaves the network's own classifier, for another number of classes.
        cache_dir: the cache's folder, see :func:`nasnet_det.safe_io.cache.cache_folder`.

    Raises:
        WeightsError: if the weights cannot be read or belong to another network, which is then unchanged.
    """
    arrays = read_arrays(resolve(source, cache_dir))
    with naming(source):
        state = to_state_dict(model, arrays, detect(arrays), as_stored=True)
    kept = model.state_dict()
    if classifier == "new":
        state = {name: value for name, value in state.items() if not name.startswith(_CLASSIFIERS)}
    elif "fc.bias" in state and len(state["fc.bias"]) != model.num_classes:
        raise WeightsError(f"{source}: it {wrong_classes(len(state['fc.bias']), model.num_classes)} (classifier='new')")
    in_chans = kept[_STEM].shape[1]
    if state[_STEM].shape[1] != in_chans:
        state[_STEM] = adapt_input_conv(in_chans, state[_STEM], base_chans=state[_STEM].shape[1])
    model.load_state_dict({**kept, **state})


def resolve(source: PublishedWeights | str | Path, cache_dir: str | Path | None = None) -> Path:
    """Return the local file of a source, after downloading, checking and converting it if necessary.

    Args:
        source: a :class:`PublishedWeights` or the name of one; a family member's name, for its ``pretrained=True``
            weights; a URL or ``hf-hub:OWNER/REPOSITORY``; or a local path, which is returned unchanged.
        cache_dir: the cache's folder; for ``hf-hub:`` that of the hub's client.

    Raises:
        WeightsError: if the weights cannot be read; if several locations were tried, each is named with its problem.
    """
    if isinstance(source, str) and source in PRETRAINED:
        return _first_of(PRETRAINED[source], cache_dir)
    if isinstance(source, str) and source in PUBLISHED_WEIGHTS:
        source = PUBLISHED_WEIGHTS[source]
    if isinstance(source, PublishedWeights):
        return cached(_target(source, cache_dir), source.location, partial(_convert, source), source.digest)
    location = str(source)
    if location.startswith(HUB):
        return from_hub(location, cache_dir)
    if is_remote(location):
        name = hashlib.sha256(location.encode()).hexdigest()[:16]
        return cached(cache_folder(cache_dir) / f"download-{name}", location)
    return Path(source).expanduser()


def _target(weights: PublishedWeights, cache_dir: str | Path | None) -> Path:
    return cache_folder(cache_dir) / f"{weights.name}-v{LAYOUT_VERSION}.safetensors"


def _first_of(names: tuple[str, ...], cache_dir: str | Path | None) -> Path:
    """Return the first of several published files that is cached, or else that can be downloaded and read here."""
    for name in names:
        if is_cached(target := _target(PUBLISHED_WEIGHTS[name], cache_dir)):
            return target
    problems = []
    for name in names:
        try:
            path = resolve(name, cache_dir)
        except (WeightsError, ImportError) as error:  # ImportError: a format that needs TensorFlow
            problems.append(error.what if isinstance(error, Unreachable) else f"{name}: {error}")
        else:
            for problem in problems:
                _logger.warning("%s; %s is used instead", problem, name)
            return path
    raise Unreachable("; ".join(problems))


def _convert(weights: PublishedWeights, file: Path, target: Path) -> None:
    numbers = FAMILY[weights.model].network_arguments() if isinstance(weights.model, str) else weights.model
    network = NASNet(**{"num_classes": 1000, **numbers, "device": "meta"})
    arrays = read_arrays(file)
    with naming(weights.location):
        state = to_state_dict(network, arrays, detect(arrays))
    save_file(state, target, {"format": "pt"})
