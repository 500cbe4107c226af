"""Registration with timm: the models, their preprocessing and the locations of their published weights.

Every entry point is made from a row of :data:`nasnet_det.models.family.FAMILY`. ``nasnet`` builds a network of any
genotype::

    timm.create_model("nasnet", genotype="my_cell.json", num_cells=4, num_filters=44)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import FeatureGetterNet
from torch import Tensor

from nasnet_det.models.family import FAMILY, Variant
from nasnet_det.models.network import NASNet
from nasnet_det.models.presets import CIFAR10_CLASSES, PRESETS
from nasnet_det.weights.download import HUB
from nasnet_det.weights.published import PUBLISHED_WEIGHTS
from nasnet_det.weights.timm_hooks import checkpoint_filter, timm_overlay
from nasnet_det.weights.trained import packaged_weights

__all__ = []


def _pretrained_cfg(variant: Variant | None, **weights: Any) -> dict[str, Any]:
    """Return timm's description of a model's preprocessing and of its weights."""
    preset = PRESETS[variant.stem if variant else "imagenet"]
    size = variant.img_size if variant else preset.image_size
    crop = {"crop_pct": 0.911} if size == 331 else {}  # the crop of timm's nasnetalarge
    # The last map: after the ImageNet stem's VALID convolution and four reductions, or after two reductions.
    last = math.ceil((size - 1) // 2 / 16) if preset is PRESETS["imagenet"] else math.ceil(size / 4)
    return {
        "input_size": (3, size, size),
        "pool_size": (last, last),
        "num_classes": preset.num_classes,
        **preset.data_config(),
        **crop,
        "first_conv": "stem.conv",
        "classifier": "fc",
        "license": "apache-2.0",
        **weights,
    }


_PAPER = {"paper_ids": "arXiv:1707.07012"}
_IMAGENET = {"origin_url": "https://github.com/tensorflow/models/tree/master/research/slim/nets/nasnet", **_PAPER}
_CIFAR = {"label_names": list(CIFAR10_CLASSES), **_PAPER}
#: Where the weights of a model are published, and what else timm is told of them.
_WEIGHTS: dict[str, dict[str, Any]] = {
    "nasnet_a_large": {
        "hf_hub_id": PUBLISHED_WEIGHTS["nasnet_a_large.timm"].location.removeprefix(HUB),
        "url": PUBLISHED_WEIGHTS["nasnet_a_large.keras"].location,
        **_IMAGENET,
    },
    "nasnet_a_mobile": {"url": PUBLISHED_WEIGHTS["nasnet_a_mobile.keras"].location, **_IMAGENET},
    "nasnet_a_cifar_1_at_576": _CIFAR,
    "nasnet_a_cifar_6_at_768": _CIFAR,
}
#: The tags of pretrained weights in timm's names.
_TAGS = {"nasnet_a_large": ".tf_in1k", "nasnet_a_mobile": ".tf_in1k"}


def _weights(name: str) -> dict[str, Any]:
    """Return what timm is told of a model's weights, the file of those in the package included."""
    path = packaged_weights(name)
    return {**_WEIGHTS.get(name, {}), **({"file": str(path)} if path else {})}


default_cfgs = generate_default_cfgs(
    {
        **{name + _TAGS.get(name, ""): _pretrained_cfg(variant, **_weights(name)) for name, variant in FAMILY.items()},
        "nasnet": _pretrained_cfg(None),
    }
)


class _FeaturesByIndex(FeatureGetterNet):
    """Features ``(N, C, H, W)`` by the index of each as text, as timm's FeatureDictNet returns them."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {str(index): map for index, map in zip(self.feature_info.out_indices, super().forward(x), strict=True)}


#: What replaces timm's feature extractors that run a network's modules one after the other, as cells do not.
_FEATURE_CLASSES: dict[Any, Any] = {"list": "getter", "dict": _FeaturesByIndex}


def _create(name: str, pretrained: bool, **kwargs: Any) -> NASNet:
    if pretrained:
        kwargs["pretrained_cfg_overlay"] = timm_overlay(name, kwargs)
    if isinstance(kind := kwargs.get("feature_cls"), str):
        kwargs["feature_cls"] = _FEATURE_CLASSES.get(kind.lower(), kind)
    # An ImageNet network has two feature maps of the stem and one of each stage.
    stages = kwargs.get("num_cells", 3)
    taps = (len(stages) if isinstance(stages, Sequence) else 3) + (
        2 if kwargs.get("stem", "imagenet") == "imagenet" else 0
    )
    return build_model_with_cfg(
        NASNet,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter,
        feature_cfg={"feature_cls": "getter", "out_indices": tuple(range(taps))},
        **kwargs,
    )


def _register(name: str, variant: Variant) -> None:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> NASNet:
        return _create(name, pretrained, **{**variant.network_arguments(), **kwargs})

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f"{variant.genotype}, {variant.notation}, for {variant.img_size} pixels ({variant.source})."
    globals()[name] = register_model(entry_point)


for _name, _variant in FAMILY.items():
    _register(_name, _variant)


@register_model
def nasnet(pretrained: bool = False, **kwargs: Any) -> NASNet:
    """Network of any genotype, with every argument of :class:`nasnet_det.models.network.NASNet`."""
    return _create("nasnet", pretrained, **kwargs)
