"""Score a file of COCO results, or make of it what COCO's server takes.

nasnet-det evaluate --annotations instances_val2017.json --results coco_instances_results.json --json scores.json
nasnet-det evaluate --annotations image_info_test-dev2017.json --results results.json --submission NASNet-A
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasnet_det.cli.errors import command
from nasnet_det.detection.data.coco_format import (
    check_results,
    read_annotations,
    read_results,
    write_json,
    write_submission,
)
from nasnet_det.detection.evaluation.evaluation import evaluate, table


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO annotations")
    parser.add_argument("--results", type=Path, required=True, metavar="FILE", help="COCO results")
    parser.add_argument("--iou-types", nargs="+", choices=("bbox", "segm"), default=["bbox"], help="what to compare")
    parser.add_argument("--backend", choices=("faster-coco-eval", "pycocotools"), help="default: the faster installed")
    parser.add_argument("--per-category", action="store_true", help="also print the AP of each category")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers, fractions of 1, as JSON")
    parser.add_argument("--submission", metavar="ALGORITHM", help="write JSON and zip for COCO's server, do not score")
    parser.add_argument("--test-set", default="test-dev2017", help="of the submission (default: test-dev2017)")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="where the submission goes")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if it did its work, 2 if its input was at fault."""
    args = parse(argv)
    return submit(args) if args.submission else score(args)


def score(args: argparse.Namespace) -> int:
    """Print the twelve numbers of each IoU type and write them where asked."""
    start = time.perf_counter()
    annotations = read_annotations(args.annotations)
    if "annotations" not in annotations:
        raise ValueError(
            f"{args.annotations} has no annotations to score against, as those of a test set: "
            "use --submission ALGORITHM to make what COCO's server takes"
        )
    results = read_results(args.results, annotations, segmentation="bbox" not in args.iou_types)
    if len(args.iou_types) > 1:
        check_results(results, annotations, f"results file {args.results}", segmentation=True)
    scores = {iou_type: evaluate(annotations, results, iou_type, args.backend) for iou_type in args.iou_types}

    print(table(scores))
    backend = next(iter(scores.values())).backend
    print(
        f"{len(results)} detections of {len(annotations['images'])} images, "
        f"in percent, by {backend}, {time.perf_counter() - start:.1f} s"
    )
    for iou_type, found in scores.items() if args.per_category else ():
        print(f"\nAP by category, {iou_type}:")
        for name, value in found.per_category.items():
            print(f"  {name:24}" + (f"{100 * value:7.2f}" if value >= 0 else "      -"))
    if args.json:
        content: dict[str, Any] = {iou_type: found.metrics for iou_type, found in scores.items()}
        content["per_category"] = {iou_type: found.per_category for iou_type, found in scores.items()}
        content["backend"] = backend
        write_json(args.json, content)
        print(f"written: {args.json}")
    return 0


def submit(args: argparse.Namespace) -> int:
    """Write the server's two files."""
    annotations = read_annotations(args.annotations)
    results = read_results(args.results, annotations)
    path, archive = write_submission(results, args.output, args.submission, args.test_set)
    images = len({result["image_id"] for result in results})
    print(f"written: {path}\nwritten: {archive}")
    print(f"detections on {images} of {len(annotations['images'])} images; upload the zip at COCO's evaluation server")
    return 0


if __name__ == "__main__":
    sys.exit(main())
