"""The table of models: sizes counted on the networks as built here, beside the figures that the papers print."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence

import timm
import torch
from torch import nn

from nasnet_det.models.family import FAMILY, Variant

BEGIN, END = "<!-- model table: make table -->", "<!-- end of model table -->"
COUNTED = ("conv", "linear")


def count_multiply_adds(model: nn.Module, img_size: int) -> float:
    """Return the multiply-adds of one image in millions: fvcore's count of convolutions and linear layers."""
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    x = torch.zeros(1, 3, img_size, img_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore traces by torch.jit, which PyTorch calls deprecated
        counts = FlopCountAnalysis(model.eval(), x).unsupported_ops_warnings(False).by_operator()
    return sum(count for operator, count in counts.items() if operator in COUNTED) / 1e6


def row(name: str, variant: Variant) -> list[str]:
    """Return the cells of a model's row."""
    model = timm.create_model(name)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    multiply_adds = count_multiply_adds(model, variant.img_size)
    return [
        f"`{name}`",
        variant.notation,
        str(variant.img_size),
        f"{parameters:.2f}",
        _number(variant.parameters),
        f"{multiply_adds:,.0f}",
        _number(variant.multiply_adds),
        variant.accuracy or "none printed",
        variant.source,
    ]


def markdown_table(names: Sequence[str]) -> str:
    """Return the table of the named models as Markdown, with notes below it."""
    heads = [
        "model",
        "size",
        "pixels",
        "M parameters",
        "paper",
        "M multiply-adds",
        "paper",
        "published, in %",
        "source",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in names:
        lines.append("| " + " | ".join(row(name, FAMILY[name])) + " |")
        print(f"counted {name}", file=sys.stderr)
    notes: dict[str, list[str]] = {}
    for name in names:
        if FAMILY[name].note:
            notes.setdefault(FAMILY[name].note, []).append(f"`{name}`")
    lines += ["", *(f"- {', '.join(models)}: {note}." for note, models in notes.items())]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,g}"


def replace_between(text: str, new: str) -> str:
    """Return ``text`` with the lines between the table's marks replaced.

    Raises:
        ValueError: if a mark is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"expected the marks {BEGIN!r} and {END!r}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{new}{END}{rest.split(END, 1)[1]}"
