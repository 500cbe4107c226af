"""See it work: NASNet-A mobile learns to detect the objects of nine photographs, in minutes on two cores.

    nasnet-det demo
    nasnet-det demo --data datasets/coco_mini

Without --data the photographs are those that come with this package. The detector starts from random weights, learns
until it has plainly learnt them, is evaluated by COCO's metrics, and its detections are drawn. Stop it at any time with
Ctrl-C; the same command continues.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import command, needs
from nasnet_det.cli.shared.options import add_output, add_settings, new_parser, settings_as_pairs, whole
from nasnet_det.safe_io.files import protecting, remove, short_name
from nasnet_det.safe_io.locks import working_in

#: The AP50, in percent, that counts as plainly learnt.
LEARNT = 90.0
#: What a demo writes beside its checkpoints of a step, its pictures and the mark of its folder.
_FILES = ("annotations.json", "scores.json", "config.yaml", "last_checkpoint", "model_final.pth", "overview.jpg")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", help="a folder in COCO's, YOLO's or Pascal VOC's form instead"
    )
    parser.add_argument("--images", type=whole(1), default=8, help="how many of its images to learn (default: 8)")
    add_output(parser, "the run folder (default: output/demo, or output/demo-ROOT)")
    parser.add_argument("--restart", action="store_true", help="remove the run in the output folder and start again")
    add_settings(parser, "keys of configs/demo.yaml: SOLVER.MAX_ITER=100")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="the same in detectron2's form")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return 0 if all was learnt, 1 if not, 2 for a mistake in the input, 130 if it was stopped."""
    args = parse(argv)
    output = args.output or Path(
        "output", "demo" if args.data is None else short_name(f"demo-{args.data.resolve().name}")
    )
    with needs():
        from nasnet_det.detection.engine.quiet import quiet
    quiet()
    try:
        with protecting(), working_in(output):
            return run(args, output)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"\nstopped; the same command continues from the checkpoint in {output}") from None


def run(args: argparse.Namespace, output: Path) -> int:
    """Prepare the data, train or continue, judge, draw."""
    from nasnet_det.detection.data.folders import read_training
    from nasnet_det.detection.engine.demo import learn, prepare, sample_data

    start = time.perf_counter()
    data = sample_data() if args.data is None else read_training(args.data)
    if args.restart:
        forget(output)
    chosen = prepare(data, None if args.data is None else args.images, output)
    scores, overview = learn(chosen, output, [*settings_as_pairs(args.set), *args.opts])
    print("\n" + "  ".join(f"{name} {value:.1f}" for name, value in scores.items() if "-" not in name))
    print(f"pictures: {overview} and {output / 'pictures'}")
    print(f"time: {time.perf_counter() - start:.0f} s")
    learnt = scores["AP50"] >= LEARNT
    print(f"AP50 is {scores['AP50']:.1f}: " + ("all is learnt" if learnt else f"not learnt, which takes {LEARNT:.0f}"))
    return 0 if learnt else 1


def forget(output: Path) -> None:
    """Remove the files of an earlier demo from ``output``, and nothing else.

    Raises:
        RunFolderError: if ``output`` holds something else.
    """
    from nasnet_det.detection.engine.run_folder import read_run

    if read_run(output, "demo") is None:
        return
    for path in [output / name for name in _FILES] + sorted(output.glob(f"model_{'[0-9]' * 7}.pth")):
        remove(path)
