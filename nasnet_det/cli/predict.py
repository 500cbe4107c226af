"""Run a detector on images, folders or globs: pictures with boxes, and all detections as COCO results.

    nasnet-det predict my_run/ street.jpg photos/ 'more/*.png'
    nasnet-det predict my_run/model.safetensors photos/ --annotations my_data/val.json
    nasnet-det predict detector.onnx photos/
    nasnet-det predict --config-file configs/fpn_mobile.yaml --weights model.pth photos/
    nasnet-det predict --config-file A.yaml --weights a.pth --compare-config-file B.yaml --compare-weights b.pth \\
        --output output/compared photos/

The detector is a run folder, a checkpoint that holds its config, a package (nasnet-det package; it runs where
detectron2 is not installed), or a config and a checkpoint. The output folder gets a picture of each image, results.json
in COCO's form, and images.json, which tells the image and category of each id. With --annotations the ids are those of
that file, so that nasnet-det evaluate can score the results. With a second detector each picture shows both side by
side, as figure 9 of the paper; results_compared.json are its results, with images_compared.json if its classes differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import command, needs
from nasnet_det.cli.shared.models import RUNTIMES, is_whole, load_detector
from nasnet_det.cli.shared.options import add_output, add_settings, new_parser, settings_as_pairs
from nasnet_det.safe_io.files import protecting


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "input", nargs="+", metavar="PATH", help="the detector, unless --config-file names it; images, folders, globs"
    )
    parser.add_argument("--config-file", metavar="FILE", help="the detector's config")
    parser.add_argument("--weights", default="", metavar="FILE", help="its checkpoint (default: the detector's own)")
    parser.add_argument("--compare-config-file", metavar="FILE", help="a second detector")
    own = "its checkpoint, with the config that it holds, or else the first's (default: the detector's own)"
    parser.add_argument("--compare-weights", default="", metavar="FILE", help=own)
    parser.add_argument("--titles", nargs=2, metavar="TITLE", help="headings of the two")
    add_output(parser, "the folder of pictures and results (default: output/predictions)", Path("output/predictions"))
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="take ids and names from COCO annotations")
    parser.add_argument("--runtime", choices=RUNTIMES, help="of a package (default: its own)")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score shown (the results keep all)")
    add_settings(parser, "changes of the config: MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.1")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="the same in detectron2's form")
    args = parser.parse_args(argv)
    if not 0 <= args.threshold <= 1:
        parser.error(f"--threshold is a score from 0 to 1, not {args.threshold}")
    args.opts = [*settings_as_pairs(args.set), *args.opts]
    if args.config_file is None:
        args.config_file, *args.input = args.input
        if not args.input:
            parser.error("give a detector and images: nasnet-det predict DETECTOR IMAGE ...")
    return args


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if at least one image was predicted on, 2 for a mistake in the input."""
    args = parse(argv)
    with protecting(filter(None, [args.config_file, args.weights, args.annotations, args.compare_weights])):
        return predict(args)


def predict(args: argparse.Namespace) -> int:
    """Predict on every image and print where the results are."""
    with needs():
        from nasnet_det.detection.data.image_paths import find_images
        from nasnet_det.detection.engine.prediction import RESULTS, predict_images
        from nasnet_det.safe_io.values import named

    paths = find_images(args.input)
    detectors = [load_detector(args.config_file, args.weights, args.opts, args.runtime)]
    titles = args.titles or [Path(args.weights or args.config_file).stem]
    if args.compare_weights or args.compare_config_file:
        config, weights = args.compare_config_file, args.compare_weights
        if not config:
            config, weights = (weights, "") if is_whole(weights) else (args.config_file, weights)
        detectors.append(load_detector(config, weights, args.opts, args.runtime))
        titles = args.titles or [*titles, Path(weights or config).stem]
    found = predict_images(detectors, paths, args.output, args.annotations, args.threshold, titles)
    if found.skipped:
        count = f"{len(found.skipped)} of {len(paths)} images that cannot be used"
        print(f"skipped {count}: {named(found.skipped, 20)}", file=sys.stderr)
    for results, name in zip(found.results, RESULTS, strict=False):
        print(f"{len(results)} detections on {found.used} images: {args.output / name}")
    print(f"pictures: {args.output}")
    return 0
