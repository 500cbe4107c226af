"""Print the table of models: sizes counted here beside the figures that the papers print.

    nasnet-det model-table [--write README.md] [MODEL ...]

Parameters and multiply-adds (fvcore; convolutions and linear layers, one image at the model's input size) are counted
on the networks as built here. Accuracies are the papers' own, except those of networks trained here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import new_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = new_parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="registered names (default: all)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table between the marks in this file")
    options = parser.parse_args(argv)

    from nasnet_det.models.family import FAMILY
    from nasnet_det.models.table import markdown_table, replace_between
    from nasnet_det.safe_io.files import write_text

    if unknown := [name for name in options.models if name not in FAMILY]:
        parser.error(f"unknown models: {', '.join(unknown)}; known: {', '.join(FAMILY)}")
    before = options.write and options.write.read_text(encoding="utf-8")
    text = markdown_table(options.models or list(FAMILY))
    if options.write is None:
        print(text, end="")
    else:
        write_text(options.write, replace_between(before, text))
    return 0
