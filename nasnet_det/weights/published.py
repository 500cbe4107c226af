"""Where published weights lie, and how a model gets them: ``pretrained=True``, a local file, a folder, a URL."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from timm.models import adapt_input_conv
from torch import Tensor

from nasnet_det.models.family import FAMILY
from nasnet_det.models.network import NASNet
from nasnet_det.weights.arrays import read_arrays
from nasnet_det.weights.cache import cache_folder, cached, is_cached
from nasnet_det.weights.download import HUB, Unreachable, from_hub, is_remote
from nasnet_det.weights.formats import detect
from nasnet_det.weights.layout import AUXILIARY, WeightsError, to_state_dict, wrong_classes

_logger = logging.getLogger(__name__)

#: Raised by one whenever the network's own names of tensors change, so that older caches are made anew.
LAYOUT_VERSION = 1


@dataclass(frozen=True)
class PublishedWeights:
    """One published file.

    Args:
        name: what it is called here and in the cache.
        model: the member of the family that it belongs to, or the arguments of its :class:`NASNet`.
        location: its URL, or ``hf-hub:OWNER/REPOSITORY``.
        digest: ``ALGORITHM:HASH`` where one is published; otherwise the hash that is seen first is recorded.
        source: who says where it lies, and its hash.
    """

    name: str
    model: str | Mapping[str, Any]
    location: str
    digest: str | None = None
    source: str = ""


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/nasnet/"
_SLIM = "https://storage.googleapis.com/download.tensorflow.org/models/"
_KERAS_SOURCE = "keras/applications/nasnet.py"
_SLIM_SOURCE = "tensorflow/models research/slim/README.md"

_FILES = (
    PublishedWeights(
        "nasnet_a_large.timm", "nasnet_a_large", f"{HUB}timm/nasnetalarge.tf_in1k", source="timm/models/nasnet.py"
    ),
    PublishedWeights(
        "nasnet_a_large.keras",
        "nasnet_a_large",
        _KERAS + "NASNet-large.h5",
        "md5:11577c9a518f0070763c2b964a382f17",
        _KERAS_SOURCE,
    ),
    PublishedWeights(
        "nasnet_a_mobile.keras",
        "nasnet_a_mobile",
        _KERAS + "NASNet-mobile.h5",
        "md5:020fb642bf7360b370c678b08e0adf61",
        _KERAS_SOURCE,
    ),
    PublishedWeights(
        "nasnet_a_large.tf_slim", "nasnet_a_large", _SLIM + "nasnet-a_large_04_10_2017.tar.gz", source=_SLIM_SOURCE
    ),
    PublishedWeights(
        "nasnet_a_mobile.tf_slim", "nasnet_a_mobile", _SLIM + "nasnet-a_mobile_04_10_2017.tar.gz", source=_SLIM_SOURCE
    ),
)

#: Every published file by name.
PUBLISHED_WEIGHTS: dict[str, PublishedWeights] = {weights.name: weights for weights in _FILES}

#: The files that ``pretrained=True`` tries, in this order.
PRETRAINED: dict[str, tuple[str, ...]] = {
    "nasnet_a_large": ("nasnet_a_large.timm", "nasnet_a_large.keras"),
    "nasnet_a_mobile": ("nasnet_a_mobile.keras",),
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

    A network with other image channels gets the first convolution as timm adapts it; one without classifier, with an
    auxiliary head that the file lacks, or with its upper cells pruned takes what there is.

    Args:
        model: the network that the weights were made for.
        source: see :func:`resolve`.
        classifier: ``new`` leaves the network's own classifier, for another number of classes.
        cache_dir: the cache's folder, see :func:`nasnet_det.weights.cache.cache_folder`.

    Raises:
        WeightsError: for weights that cannot be had or do not fit; the network is then unchanged.
    """
    arrays = read_arrays(resolve(source, cache_dir))
    state = _naming(source, partial(to_state_dict, model, arrays, detect(arrays), as_stored=True))
    kept = model.state_dict()
    if classifier == "new":
        state = {name: value for name, value in state.items() if not name.startswith(_CLASSIFIERS)}
    elif "fc.bias" in state and len(state["fc.bias"]) != model.num_classes:
        raise WeightsError(f"{source}: {wrong_classes(len(state['fc.bias']), model.num_classes)} (classifier='new')")
    in_chans = kept[_STEM].shape[1]
    if state[_STEM].shape[1] != in_chans:
        state[_STEM] = adapt_input_conv(in_chans, state[_STEM], base_chans=state[_STEM].shape[1])
    model.load_state_dict({**kept, **state})


def resolve(source: PublishedWeights | str | Path, cache_dir: str | Path | None = None) -> Path:
    """The local file of a source; fetched, checked and converted first where need be.

    Args:
        source: a :class:`PublishedWeights` or the name of one; a family member's name, for what ``pretrained=True``
            gives it; a URL or ``hf-hub:OWNER/REPOSITORY``; or a local path, given back as it is.
        cache_dir: the cache's folder.

    Raises:
        WeightsError: if the weights cannot be had; where several places were tried, it names each.
    """
    if isinstance(source, str) and source in PRETRAINED:
        return _first_of(PRETRAINED[source], cache_dir)
    if isinstance(source, str) and source in PUBLISHED_WEIGHTS:
        source = PUBLISHED_WEIGHTS[source]
    if isinstance(source, PublishedWeights):
        return cached(_place(source, cache_dir), source.location, partial(_convert, source), source.digest)
    location = str(source)
    if location.startswith(HUB):
        return from_hub(location)
    if is_remote(location):
        name = hashlib.sha256(location.encode()).hexdigest()[:16]
        return cached(cache_folder(cache_dir) / f"download-{name}", location)
    return Path(source).expanduser()


def _place(weights: PublishedWeights, cache_dir: str | Path | None) -> Path:
    return cache_folder(cache_dir) / f"{weights.name}-v{LAYOUT_VERSION}.safetensors"


def _first_of(names: tuple[str, ...], cache_dir: str | Path | None) -> Path:
    """The first of several published files that is cached, or else that can be reached."""
    for name in names:
        if is_cached(place := _place(PUBLISHED_WEIGHTS[name], cache_dir)):
            return place
    failed = []
    for name in names:
        try:
            return resolve(name, cache_dir)
        except Unreachable as error:
            _logger.warning("%s", error.what)
            failed.append(error.what)
    raise Unreachable("; ".join(failed))


def _convert(weights: PublishedWeights, file: Path, target: Path) -> None:
    numbers = FAMILY[weights.model].network_arguments() if isinstance(weights.model, str) else weights.model
    network = NASNet(**{"num_classes": 1000, **numbers, "device": "meta"})
    arrays = read_arrays(file)
    state = _naming(weights.location, partial(to_state_dict, network, arrays, detect(arrays)))
    save_file(state, target, {"format": "pt"})


def _naming(source: Any, read: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Let errors begin with what the user named."""
    try:
        return read()
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
