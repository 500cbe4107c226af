"""Score a detector or a file of COCO results, report the errors, or pack results for COCO's server.

    nasnet-det evaluate my_run/ my_data/ --report output/report
    nasnet-det evaluate detector.onnx my_data/ --runtime openvino
    nasnet-det evaluate --annotations instances_val2017.json --results coco_instances_results.json --json scores.json
    nasnet-det evaluate --annotations val.json --results results.json --report output/report --images my_data/val
    nasnet-det evaluate --annotations image_info_test-dev2017.json --results results.json --submission NASNet-A

The first runs the detector (a run folder, a checkpoint that holds its config, a package, for which detectron2 need not
be installed, or a config with --weights) on the validation images of a folder in COCO's, YOLO's or Pascal VOC's form,
and keeps its results in the output folder. Of a folder without a split a run is scored on the images that it was not
trained on, or on all if it was trained on other data.
--report writes a folder with an HTML page: AP by category, precision-recall curves, confusions, the kinds of errors and
their cost in AP (TIDE), and, with --images, the worst pictures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.models import RUNTIMES, load_detector
from nasnet_det.cli.shared.options import add_output, new_parser, seed, share
from nasnet_det.safe_io.files import check_writable, expect_folder, protecting, short_name

if TYPE_CHECKING:
    from nasnet_det.detection.data.look import CocoData
    from nasnet_det.detection.engine.prediction import Detector
    from nasnet_det.detection.evaluation.evaluation import IouType, Scores

Record = dict[str, Any]
#: A regular expression that is found at the beginning of a file of --json.
_OWN_SCORES = rb'\A\{"(bbox|segm)": \{"AP": '


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "detector", nargs="?", metavar="DETECTOR", help="a run folder, a checkpoint, a package or a config"
    )
    parser.add_argument("data", nargs="?", type=Path, metavar="DATA", help="the folder of data for the detector")
    parser.add_argument("--weights", default="", metavar="FILE", help="the checkpoint of a config")
    parser.add_argument("--runtime", choices=RUNTIMES, help="of a package (default: its own)")
    parser.add_argument(
        "--val-share",
        type=share,
        help="of data without a split, as given to finetune (default: the run's; 0.2 without a run)",
    )
    parser.add_argument("--seed", type=seed, help="of that split, as given to finetune (default: the run's, or 0)")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="COCO annotations")
    parser.add_argument("--results", type=Path, metavar="FILE", help="COCO results")
    parser.add_argument(
        "--iou-types", nargs="+", choices=("bbox", "segm"), help="default: bbox, and segm of a detector of masks"
    )
    parser.add_argument("--backend", choices=("faster-coco-eval", "pycocotools"), help="default: the faster installed")
    parser.add_argument("--per-category", action="store_true", help="also print the AP of each category")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers, fractions of 1, as JSON")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write a report with an HTML page")
    parser.add_argument("--images", type=Path, metavar="DIR", help="of the annotations, for the report's pictures")
    parser.add_argument("--submission", metavar="ALGORITHM", help="write JSON and zip for COCO's server, do not score")
    parser.add_argument("--test-set", default="test-dev2017", help="of the submission (default: test-dev2017)")
    add_output(parser, "folder of a detector's results (default: output/evaluate-DATA), or of a submission (here)")
    args = parser.parse_args(argv)
    if args.detector is not None and (args.data is None or args.annotations or args.results):
        parser.error(
            "give a folder of data after the detector; --annotations and --results are for use without a detector"
        )
    if args.detector is None and not (args.annotations and args.results):
        parser.error("give a detector and a folder of data, or --annotations and --results")
    if args.images and not args.report:
        parser.error("--images is for --report")
    args.output = args.output or (
        Path() if args.data is None else Path("output", short_name(f"evaluate-{args.data.resolve().stem}"))
    )
    return args


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 for an error in its input."""
    args = parse(argv)
    with protecting(filter(None, [args.annotations, args.results, args.weights])):
        check_outputs(args)
        return submit(args) if args.submission else score(args)


def score(args: argparse.Namespace) -> int:
    """Print the twelve numbers of each IoU type, and write them and a report where asked."""
    from nasnet_det.detection.data.coco_format import check_results, read_results
    from nasnet_det.detection.evaluation.evaluation import evaluate, table
    from nasnet_det.safe_io.files import write_json

    start = time.perf_counter()
    data, names = open_data(args)
    annotations = data.content
    if "annotations" not in annotations:
        raise ValueError(
            f"{data.origin} has no annotations to score against, as those of a test set: "
            "use --submission ALGORITHM to make what COCO's server takes"
        )
    detector = load(args) if args.detector is not None else None
    args.iou_types = args.iou_types or (["bbox", "segm"] if detector and detector.has_masks else ["bbox"])
    if detector:
        detect(args, detector, data, names)
    results = read_results(args.results, annotations, segmentation="bbox" not in args.iou_types)
    if len(args.iou_types) > 1:
        check_results(results, annotations, f"results file {args.results}", segmentation=True)
    if "bbox" in args.iou_types and not detector:
        print_notes(args, data, results)
    scores = {iou_type: evaluate(annotations, results, iou_type, args.backend) for iou_type in args.iou_types}
    print(table(scores))
    backend = next(iter(scores.values())).backend
    seconds = time.perf_counter() - start
    print(
        f"{len(results)} detections of {len(annotations['images'])} images, in percent, by {backend}, {seconds:.1f} s"
    )
    if args.per_category:
        print_categories(scores)
    if args.json:
        content: dict[str, Any] = {iou_type: found.metrics for iou_type, found in scores.items()}
        content["per_category"] = {iou_type: found.per_category for iou_type, found in scores.items()}
        write_json(args.json, content | {"backend": backend})
        print(f"written: {args.json}")
    if args.report:
        report(args, data, results, scores)
    return 0


def check_outputs(args: argparse.Namespace) -> None:
    """Check the paths of all outputs before anything is run."""
    from nasnet_det.detection.evaluation.report import check_folder
    from nasnet_det.detection.evaluation.submission import OWN_RESULTS, RESULTS, check_submission

    for folder in (args.report, args.report / "bbox", args.report / "segm") if args.report else ():
        check_folder(folder)
    if args.json:
        check_writable(args.json, _OWN_SCORES)
    if args.detector is not None:
        check_writable(args.output / RESULTS, OWN_RESULTS)
    if args.submission:
        check_submission(args.output, args.submission, args.test_set)
    for folder in filter(None, [args.detector and args.output, args.report, args.json and args.json.parent]):
        expect_folder(folder)


def open_data(args: argparse.Namespace) -> tuple[CocoData, list[str]]:
    """Read the annotations, or the validation images of the folder for a detector; also return the class names."""
    if args.detector is not None:
        from nasnet_det.detection.engine.scoring import open_to_score

        return open_to_score(args.detector, args.data, args.val_share, args.seed)
    from nasnet_det.detection.data.coco_format import read_annotations, read_complete
    from nasnet_det.detection.data.look import CocoData

    if args.images:
        annotations, _ = read_complete(args.annotations, lambda _: args.images, sound=True)
    else:
        annotations = read_annotations(args.annotations)
    origin = f"annotation file {args.annotations}"
    data = CocoData(args.annotations.stem, annotations, args.images or args.annotations.parent, origin)
    return data, data.names


def print_notes(args: argparse.Namespace, data: CocoData, results: Sequence[Record]) -> None:
    """Print a note if nearly all boxes make sense in another format only, and if detections are repeated."""
    from nasnet_det.detection.data.boxes import format_question

    different = {(entry["image_id"], entry["category_id"], *entry["bbox"], entry["score"]) for entry in results}
    if repeated := len(results) - len(different):
        count = f"{repeated} of {len(results)} detections repeat others, which count as wrong"
        print(f"note: results file {args.results}: {count}: were images predicted twice?", file=sys.stderr)
    asked = [(f"results file {args.results}", results)]
    if not args.images:  # else the look at them asks
        asked.append((data.origin, data.content["annotations"]))
    for origin, entries in asked:
        if question := format_question(entries, data.content["images"]):
            print(f"note: {origin}: {question}", file=sys.stderr)


def load(args: argparse.Namespace) -> Detector:
    """Load the detector.

    Raises:
        ValueError: if masks are to be scored and it predicts none.
    """
    from nasnet_det.detection.engine.quiet import quiet

    quiet()
    detector = load_detector(args.detector, args.weights, runtime=args.runtime)
    if "segm" in (args.iou_types or ()) and not detector.has_masks:
        raise ValueError(f"--iou-types segm: {args.detector} predicts boxes only")
    return detector


def detect(args: argparse.Namespace, detector: Detector, data: CocoData, names: Sequence[str]) -> None:
    """Run the detector on the data, and name its results file in ``args.results``."""
    from nasnet_det.detection.engine.scoring import detect_on_data

    print(f"scored: {len(data.content['images'])} images of {data.origin}", flush=True)
    args.results = detect_on_data(detector, data, names, args.output, args.iou_types or ())
    print(f"results: {args.results}")


def print_categories(scores: Mapping[IouType, Scores]) -> None:
    """Print the AP of each category."""
    for iou_type, found in scores.items():
        print(f"\nAP by category, {iou_type}:")
        for name, value in found.per_category.items():
            print(f"  {name:24}" + (f"{100 * value:7.2f}" if value >= 0 else "      -"))


def report(
    args: argparse.Namespace, data: CocoData, results: Sequence[Record], scores: Mapping[IouType, Scores]
) -> None:
    """Write the report of each IoU type; one folder, or one below it for each."""
    from nasnet_det.detection.data.inspection import look_at
    from nasnet_det.detection.evaluation.report import write_report

    records: list[Record] = []
    if args.images or args.detector:
        found = look_at(data, training=False)
        records = found.records
        for trouble in found.troubles if args.images else ():  # else they were told before
            print(f"note: {trouble}", file=sys.stderr)
    for iou_type, numbers in scores.items():
        folder = args.report if len(scores) == 1 else args.report / iou_type
        title = f"{args.detector or args.results.name} on {args.data or args.annotations.name}"
        print(f"written: {write_report(folder, data.content, results, numbers, iou_type, records, title)}")


def submit(args: argparse.Namespace) -> int:
    """Write the server's two files."""
    from nasnet_det.detection.data.coco_format import read_results
    from nasnet_det.detection.evaluation.submission import write_submission

    data, names = open_data(args)
    if args.detector is not None:
        detect(args, load(args), data, names)
    annotations = data.content
    results = read_results(args.results, annotations)
    path, archive = write_submission(results, args.output, args.submission, args.test_set)
    images = len({result["image_id"] for result in results})
    print(f"written: {path}\nwritten: {archive}")
    print(f"detections on {images} of {len(annotations['images'])} images; upload the zip at COCO's evaluation server")
    return 0
