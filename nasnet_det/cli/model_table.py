"""Print the table of models: what was counted here beside what the papers print.

    nasnet-det table [--write README.md] [MODEL ...]

Parameters and multiply-adds (fvcore; convolutions and linear layers, one image at the model's input size) are counted
on the networks as they are built here. Accuracies are the papers' own; none was measured again here.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import nn

from nasnet_det.cli.main import command, needs
from nasnet_det.models.family import FAMILY, Variant
from nasnet_det.safe_io.files import write_text

BEGIN, END = "<!-- model table: make table -->", "<!-- end of model table -->"
COUNTED = ("conv", "linear")


def count_multiply_adds(model: nn.Module, img_size: int) -> float:
    """Multiply-adds of one image, in millions: fvcore's count of convolutions and linear layers."""
    with needs():
        from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    x = torch.zeros(1, 3, img_size, img_size)
    counts = FlopCountAnalysis(model.eval(), x).unsupported_ops_warnings(False).by_operator()
    return sum(count for operator, count in counts.items() if operator in COUNTED) / 1e6


def row(name: str, variant: Variant) -> list[str]:
    """One line of the table."""
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


def table(names: list[str]) -> str:
    """The whole table as Markdown, notes below."""
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
    """``text`` with what stands between the table's marks replaced.

    Raises:
        ValueError: if a mark is missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"expected the marks {BEGIN!r} and {END!r}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{new}{END}{rest.split(END, 1)[1]}"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="registered names; all by default")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the marks in this file")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.models if name not in FAMILY]
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}; known: {', '.join(FAMILY)}")
    result = table(arguments.models or list(FAMILY))
    if arguments.write is None:
        print(result, end="")
        return 0
    write_text(arguments.write, replace_between(arguments.write.read_text(encoding="utf-8"), result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
