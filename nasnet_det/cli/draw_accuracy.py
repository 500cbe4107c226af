"""Draw published ImageNet accuracy against multiply-adds and parameters, as the paper's figure 5.

    nasnet-det draw-accuracy --output accuracy.svg

Every figure is as printed in the paper named; none was measured again here. Models of this project are drawn if their
papers print both accuracy and cost. Costs are on a logarithmic axis (linear in the paper), which separates the small
networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import add_output, new_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = new_parser(__doc__)
    add_output(parser, "SVG or PNG file to write (default: accuracy.svg)", Path("accuracy.svg"))
    options = parser.parse_args(argv)

    from nasnet_det.draw import draw_accuracy
    from nasnet_det.draw.figures import check_format
    from nasnet_det.draw.published_accuracy import published_points

    check_format(options.output)
    draw_accuracy(published_points(), options.output)
    print(options.output)
    return 0
