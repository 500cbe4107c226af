"""Published ImageNet accuracy of networks against their cost: the data of the paper's figure 5."""

from __future__ import annotations

from nasnet_det.draw.accuracy import NetworkPoint
from nasnet_det.models.family import FAMILY, Variant

# Zoph et al., arXiv:1707.07012, tables 2 and 3: millions of multiply-adds and of parameters, top-1 accuracy in %.
_OTHERS = (
    NetworkPoint("Inception V2", 1940, 11.2, 74.8, "designed by hand"),
    NetworkPoint("Inception V3", 5720, 23.8, 78.0, "designed by hand"),
    NetworkPoint("Xception", 8380, 22.8, 79.0, "designed by hand"),
    NetworkPoint("Inception-ResNet V2", 13200, 55.8, 80.4, "designed by hand"),
    NetworkPoint("ResNeXt-101", 31500, 83.6, 80.9, "designed by hand"),
    NetworkPoint("PolyNet", 34700, 92.0, 81.3, "designed by hand"),
    NetworkPoint("DPN-131", 32000, 79.5, 81.5, "designed by hand"),
    NetworkPoint("SENet", 42300, 145.8, 82.7, "designed by hand"),
    NetworkPoint("Inception V1", 1448, 6.6, 69.8, "designed by hand"),
    NetworkPoint("MobileNet", 569, 4.2, 70.6, "designed by hand"),
    NetworkPoint("ShuffleNet (2x)", 524, 5.0, 70.9, "designed by hand"),
    NetworkPoint("NASNet-B (4 @ 1536)", 488, 5.3, 72.8, "NASNet"),
    NetworkPoint("NASNet-C (3 @ 960)", 558, 4.9, 72.5, "NASNet"),
)
_SERIES = {"nasnet": "NASNet", "amoebanet": "AmoebaNet", "pnasnet": "PNASNet", "darts": "DARTS", "pc": "DARTS"}


def family_point(name: str, variant: Variant) -> NetworkPoint | None:
    """Return a model's published figures, or None if its paper does not print all three."""
    if not variant.accuracy.startswith("ImageNet") or variant.multiply_adds is None or variant.parameters is None:
        return None
    top_1 = float(variant.accuracy.removeprefix("ImageNet").split("/")[0])
    label = f"NASNet-A ({variant.notation})" if variant.genotype == "nasnet_a" else name
    return NetworkPoint(label, variant.multiply_adds, variant.parameters, top_1, _SERIES[name.split("_")[0]])


def published_points() -> list[NetworkPoint]:
    """Return the networks of the paper's tables 2 and 3, and those of the family with published accuracy and cost."""
    found = (family_point(name, variant) for name, variant in FAMILY.items())
    return [*_OTHERS, *(point for point in found if point is not None)]
