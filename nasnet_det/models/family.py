"""The family of published networks as data: a row of ``family.csv`` for every registered model.

The notation ``N @ P`` is the NASNet paper's: N normal cells per stage, P channels in the last map, F = P / 24.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources
from typing import Any

from nasnet_det.models.plan import Stem
from nasnet_det.models.presets import PRESETS


@dataclass(frozen=True)
class Variant:
    """One model: the arguments of its network, its input size, and the figures that its paper prints.

    Args:
        genotype: a published name.
        num_cells: N, or the normal cells of each stage.
        num_filters: F of the first stage.
        img_size: side of the square input in pixels.
        stem, stem_channels, skip_reduction_layer_input: see :class:`NASNet`.
        drop_path_keep: ScheduledDropPath's final keep probability in the model's recipe.
        notation: the paper's name of the size.
        parameters, multiply_adds: as printed in the paper, in millions; None where it prints none.
        accuracy: as printed, with the data set; measured only for networks trained here.
        source: the document with these figures.
        note: why a figure differs from the network as built here.
    """

    genotype: str
    num_cells: int | tuple[int, ...]
    num_filters: int
    img_size: int
    stem: Stem
    stem_channels: int
    skip_reduction_layer_input: bool
    drop_path_keep: float
    notation: str
    parameters: float | None
    multiply_adds: float | None
    accuracy: str
    source: str
    note: str

    @property
    def num_classes(self) -> int:
        """1000 ImageNet or 10 CIFAR classes."""
        return PRESETS[self.stem].num_classes

    def network_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of :class:`NASNet`."""
        return {
            "genotype": self.genotype,
            "num_cells": self.num_cells,
            "num_filters": self.num_filters,
            "stem": self.stem,
            "stem_channels": self.stem_channels,
            "skip_reduction_layer_input": self.skip_reduction_layer_input,
            **PRESETS[self.stem].norm_arguments(),
            "img_size": self.img_size,
        }


def _variant(row: dict[str, str]) -> Variant:
    cells = tuple(map(int, row["num_cells"].split()))
    return Variant(
        genotype=row["genotype"],
        num_cells=cells if len(cells) > 1 else cells[0],
        num_filters=int(row["num_filters"]),
        img_size=int(row["img_size"]),
        stem="cifar" if row["stem"] == "cifar" else "imagenet",
        stem_channels=int(row["stem_channels"]),
        skip_reduction_layer_input=row["skip_reduction_layer_input"] == "1",
        drop_path_keep=float(row["drop_path_keep"]),
        notation=row["notation"],
        parameters=float(row["parameters"]) if row["parameters"] else None,
        multiply_adds=float(row["multiply_adds"]) if row["multiply_adds"] else None,
        accuracy=row["accuracy"],
        source=row["source"],
        note=row["note"],
    )


def _read() -> dict[str, Variant]:
    text = resources.files("nasnet_det.models").joinpath("family.csv").read_text(encoding="utf-8")
    return {row["model"]: _variant(row) for row in csv.DictReader(text.splitlines())}


#: Every registered member of the family by name.
FAMILY: dict[str, Variant] = _read()
