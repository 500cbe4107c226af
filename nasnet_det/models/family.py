"""The family as data: a line of numbers for every registered model, with what its paper prints of it.

The notation ``N @ P`` is the NASNet paper's: N normal cells per stage, P channels in the last map, F = P / 24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nasnet_det.models.plan import Stem


@dataclass(frozen=True)
class Variant:
    """One model: its network's numbers, its input size, and what its paper says of it.

    Args:
        genotype: a published name.
        num_cells: N, or the normal cells of each stage.
        num_filters: F of the first stage.
        img_size: the square input in pixels.
        notation: how its paper names the size.
        stem, stem_channels, skip_reduction_layer_input: see :class:`NASNet`.
        drop_path_keep: ScheduledDropPath's final keep probability in its recipe.
        parameters, multiply_adds: what the paper prints, in millions; None where it prints none.
        accuracy: what is printed of its accuracy, with the data set; not measured here.
        source: where these figures stand.
        note: why a figure differs from what is built here.
    """

    genotype: str
    num_cells: int | tuple[int, ...]
    num_filters: int
    img_size: int
    notation: str
    stem: Stem = "imagenet"
    stem_channels: int = 96
    skip_reduction_layer_input: bool = True
    drop_path_keep: float = 1.0
    parameters: float | None = None
    multiply_adds: float | None = None
    accuracy: str = ""
    source: str = ""
    note: str = ""

    @property
    def num_classes(self) -> int:
        """1000 ImageNet or 10 CIFAR classes."""
        return 1000 if self.stem == "imagenet" else 10

    def network_arguments(self) -> dict[str, Any]:
        """The keyword arguments of :class:`NASNet`."""
        cifar = self.stem == "cifar"
        return {
            "genotype": self.genotype,
            "num_cells": self.num_cells,
            "num_filters": self.num_filters,
            "stem": self.stem,
            "stem_channels": self.stem_channels,
            "skip_reduction_layer_input": self.skip_reduction_layer_input,
            "bn_eps": 1e-5 if cifar else 1e-3,
            "bn_momentum": 0.1 if cifar else 0.0003,
            "img_size": self.img_size,
        }


_ZOPH = "arXiv:1707.07012"
_REAL = "arXiv:1802.01548"
_LIU = "arXiv:1712.00559"
_DARTS = "arXiv:1806.09055"
_PC = "arXiv:1907.05737"


def _cifar(genotype: str, num_cells: int, num_filters: int, notation: str, **published: Any) -> Variant:
    """A CIFAR network: a 3x3 convolution to 3 F channels as its stem (TF-slim ``cifar_config``)."""
    return Variant(
        genotype,
        num_cells,
        num_filters,
        32,
        notation,
        stem="cifar",
        stem_channels=3 * num_filters,
        skip_reduction_layer_input=False,
        **published,
    )


def _mobile(genotype: str, num_cells: int | tuple[int, ...], num_filters: int, notation: str, **other: Any) -> Variant:
    """A network for 224 pixels with TF-slim's ``mobile_imagenet_config``."""
    return Variant(
        genotype,
        num_cells,
        num_filters,
        224,
        notation,
        stem_channels=32,
        skip_reduction_layer_input=False,
        **other,
    )


_NO_CLASSIFIER = (
    "the paper's parameters are near this network's without its classifier; its multiply-adds are 8 to 13 % fewer, "
    "which neither a narrower stem nor another wiring of the reductions explains"
)
_OWN_STEM = "published with another stem; here it stands in NASNet's"

#: Every registered member of the family.
FAMILY: dict[str, Variant] = {
    "nasnet_a_mobile": _mobile(
        "nasnet_a",
        4,
        44,
        "4 @ 1056",
        parameters=5.3,
        multiply_adds=564,
        accuracy="ImageNet 74.0 / 91.6",
        source=f"{_ZOPH} table 3",
    ),
    "nasnet_a_large": Variant(
        "nasnet_a",
        6,
        168,
        331,
        "6 @ 4032",
        drop_path_keep=0.7,
        parameters=88.9,
        multiply_adds=23800,
        accuracy="ImageNet 82.7 / 96.2",
        source=f"{_ZOPH} table 2",
    ),
    "nasnet_a_5_at_1536": Variant(
        "nasnet_a",
        5,
        64,
        299,
        "5 @ 1536",
        parameters=10.9,
        multiply_adds=2350,
        accuracy="ImageNet 78.6 / 94.2",
        source=f"{_ZOPH} table 2, there 5 @ 1538",
        note="1538 is no multiple of 24; " + _NO_CLASSIFIER,
    ),
    "nasnet_a_7_at_1920": Variant(
        "nasnet_a",
        7,
        80,
        299,
        "7 @ 1920",
        parameters=22.6,
        multiply_adds=4930,
        accuracy="ImageNet 80.8 / 95.3",
        source=f"{_ZOPH} table 2",
        note=_NO_CLASSIFIER,
    ),
    "nasnet_a_cifar_6_at_768": _cifar(
        "nasnet_a",
        6,
        32,
        "6 @ 768",
        drop_path_keep=0.6,
        parameters=3.3,
        accuracy="CIFAR-10 96.59; 97.35 with cutout",
        source=f"{_ZOPH} table 1",
    ),
    "nasnet_a_cifar_7_at_2304": _cifar(
        "nasnet_a",
        7,
        96,
        "7 @ 2304",
        drop_path_keep=0.6,
        parameters=27.6,
        accuracy="CIFAR-10 97.03; 97.60 with cutout",
        source=f"{_ZOPH} table 1",
        note="the paper's 27.6 M is near what N = 6 gives at this width (28.2 M); N = 7 is built, as it says",
    ),
    "amoebanet_a": Variant(
        "amoebanet_a",
        6,
        190,
        331,
        "N=6, F=190",
        parameters=86.7,
        multiply_adds=23100,
        accuracy="ImageNet 82.8 / 96.1",
        source=_REAL,
    ),
    "amoebanet_b": Variant(
        "amoebanet_b",
        6,
        190,
        331,
        "N=6, F=190",
        parameters=84.0,
        multiply_adds=22300,
        accuracy="ImageNet 82.3 / 96.1",
        source=_REAL,
        note="the paper's 84.0 M is what F = 196 gives; F = 190 is built, as it says",
    ),
    "amoebanet_c": Variant(
        "amoebanet_c",
        6,
        228,
        331,
        "N=6, F=228",
        parameters=155.3,
        multiply_adds=41100,
        accuracy="ImageNet 83.1 / 96.3",
        source=_REAL,
    ),
    "amoebanet_d": Variant(
        "amoebanet_d",
        6,
        256,
        224,
        "N=6, F=256",
        source="tensorflow/tpu models/official/amoeba_net",
    ),
    "amoebanet_a_mobile": _mobile(
        "amoebanet_a",
        4,
        50,
        "N=4, F=50",
        parameters=5.1,
        multiply_adds=555,
        accuracy="ImageNet 74.5 / 92.0",
        source=_REAL,
    ),
    "amoebanet_b_mobile": _mobile(
        "amoebanet_b",
        3,
        62,
        "N=3, F=62",
        parameters=5.3,
        multiply_adds=555,
        accuracy="ImageNet 74.0 / 91.5",
        source=_REAL,
    ),
    "amoebanet_c_mobile": _mobile(
        "amoebanet_c",
        4,
        50,
        "N=4, F=50",
        parameters=6.4,
        multiply_adds=570,
        accuracy="ImageNet 75.7 / 92.4",
        source=_REAL,
        note="the parameters agree; the paper's fewer multiply-adds are not explained",
    ),
    "pnasnet_5_large": Variant(
        "pnasnet_5",
        (4, 3, 3),
        216,
        331,
        "N=4, F=216",
        parameters=86.1,
        multiply_adds=25000,
        accuracy="ImageNet 82.9 / 96.2",
        source=_LIU,
    ),
    "pnasnet_5_mobile": _mobile(
        "pnasnet_5",
        (3, 2, 2),
        54,
        "N=3, F=54",
        parameters=5.1,
        multiply_adds=588,
        accuracy="ImageNet 74.2 / 91.9",
        source=_LIU,
    ),
    "darts_v1_cifar": _cifar(
        "darts_v1",
        6,
        36,
        "20 cells, 36 channels",
        parameters=3.3,
        accuracy="CIFAR-10 97.00 with cutout",
        source=_DARTS,
        note=_OWN_STEM,
    ),
    "darts_v2_cifar": _cifar(
        "darts_v2",
        6,
        36,
        "20 cells, 36 channels",
        parameters=3.3,
        accuracy="CIFAR-10 97.24 with cutout",
        source=_DARTS,
        note=_OWN_STEM,
    ),
    "darts_v2_mobile": _mobile(
        "darts_v2",
        4,
        48,
        "14 cells, 48 channels",
        parameters=4.7,
        multiply_adds=574,
        accuracy="ImageNet 73.3 / 91.3",
        source=_DARTS,
        note=_OWN_STEM,
    ),
    "pc_darts_cifar": _cifar(
        "pc_darts_cifar",
        6,
        36,
        "20 cells, 36 channels",
        parameters=3.6,
        accuracy="CIFAR-10 97.43 with cutout",
        source=_PC,
        note=_OWN_STEM,
    ),
    "pc_darts_mobile": _mobile(
        "pc_darts_imagenet",
        4,
        48,
        "14 cells, 48 channels",
        parameters=5.3,
        multiply_adds=597,
        accuracy="ImageNet 75.8 / 92.7",
        source=_PC,
        note=_OWN_STEM,
    ),
    "enas_cifar": _cifar(
        "enas",
        5,
        36,
        "N=5, F=36",
        parameters=4.6,
        accuracy="CIFAR-10 97.11 with cutout",
        source="arXiv:1802.03268",
        note="built in NASNet's engine from the published arc; ENAS's own code counts 4.6 M",
    ),
}
