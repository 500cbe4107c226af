"""Check a folder of annotated images before training: counts, problems, drawn samples.

    nasnet-det check-data my_data
    nasnet-det check-data my_data --output check.html --samples 40
    DETECTRON2_ENV_MODULE=my_data.py nasnet-det check-data my_train

The folder is in COCO's, YOLO's or Pascal VOC's form; nothing in it is changed. A data set that is registered with
detectron2 is given by its name. The same check is made when training begins.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasnet_det.cli.shared.errors import command, needs
from nasnet_det.cli.shared.options import add_output, new_parser, seed, whole
from nasnet_det.safe_io.files import check_writable, exists, expect_folder, short_name, write_text

if TYPE_CHECKING:
    from nasnet_det.detection.data.look import CocoData


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "root", type=Path, metavar="ROOT", help="the folder, its annotation file or data.yaml, or a registered name"
    )
    parser.add_argument(
        "--samples", type=whole(0), default=12, metavar="N", help="images drawn of each set (default: 12)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the choice of samples (default: 0)")
    parser.add_argument("--masks", action="store_true", help="check masks, too, as training with MODEL.MASK_ON does")
    parser.add_argument("--decode", action="store_true", help="decode every image, to find those that are cut off")
    add_output(parser, "the page (default: output/check-data-ROOT.html)")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if the data can be used, 2 if not."""
    args = parse(argv)
    with needs():
        from nasnet_det.detection.data.inspection import look_at
        from nasnet_det.detection.data.look import join
        from nasnet_det.detection.data.sample_page import sample_page
        from nasnet_det.draw.page import OWN
    output = args.output or Path("output", short_name(f"check-data-{args.root.resolve().stem}", ".html"))
    check_writable(output, OWN)
    expect_folder(output.parent)
    sets = read_sets(args.root)
    masks = "bitmask" if args.masks else ""
    looks = {key: look_at(data, key != "val", masks, decode=args.decode) for key, data in sets.items()}
    judged = looks.pop("val", None)
    found = join(list(looks.values()), [judged] if judged else [])
    print(found.report())
    write_text(output, sample_page(f"Check of {args.root}", found, args.samples, args.seed))
    print(f"written: {output}")
    found.refuse_fatal()
    tested = sum(map(len, found.test.values()))
    print(f"ready: {len(found.classes)} classes, {len(found.train)} images to train on, {tested} to test on")
    return 0


def read_sets(root: Path) -> dict[str, CocoData]:
    """Return the data sets of a folder, or the one that is registered with detectron2 by this name."""
    from nasnet_det.detection.data.folders import read_folder

    if not exists(root) and importlib.util.find_spec("detectron2"):
        from detectron2.data import DatasetCatalog

        from nasnet_det.detection.data.catalog import read_registered
        from nasnet_det.detection.data.datasets import register_coco_splits

        register_coco_splits()
        if str(root) in DatasetCatalog:
            return {"all": read_registered(str(root))}
    return read_folder(root)
