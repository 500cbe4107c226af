"""Train a detector on a folder of pictures and boxes: COCO, YOLO (data.yaml) or Pascal VOC.

    nasnet-det finetune my_data/
    nasnet-det finetune my_data/ --model fpn_large --image-size 640 --set SOLVER.BASE_LR=0.0005
    nasnet-det finetune my_data/ --output output/hens --loggers tensorboard wandb
    nasnet-det finetune my_data/ --output output/hens --resume

Image size, batch and schedule are scaled to the data and to this machine, and printed before training starts. The best
weights on the validation images are kept; training ends when they do not become better. Ctrl-C stops after the current
step, --resume continues. The output folder alone is enough for nasnet-det predict, evaluate and export.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import command, needs
from nasnet_det.cli.shared.options import add_image_size, add_output, add_settings, new_parser, seed, share, whole
from nasnet_det.safe_io.files import protecting


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder")
    add_output(parser, "the run folder (default: output/NAME of the data)")
    parser.add_argument("--model", default="fpn_mobile", help="a config's name or file (default: fpn_mobile)")
    parser.add_argument(
        "--weights",
        default="auto",
        metavar="WHICH",
        help="auto (published ImageNet weights, or random ones where they cannot be fetched; the default), published, "
        "none, or a detector's checkpoint or run folder",
    )
    add_image_size(parser, "the shorter side (default: by the data and the device)")
    parser.add_argument("--batch-size", type=whole(1), metavar="N", help="images of a step")
    parser.add_argument("--epochs", type=whole(1), metavar="N", help="at most (default: by the data)")
    parser.add_argument("--patience", type=whole(1), metavar="N", help="evaluations without a better AP (default: 5)")
    parser.add_argument(
        "--val-share",
        type=share,
        default=0.2,
        metavar="SHARE",
        help="of images for validation, if the data has no split; 0 validates on the training images (default: 0.2)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of weights, order and augmentation (default: 0)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="", help="default: a GPU if there is one")
    parser.add_argument(
        "--loggers", nargs="*", default=["tensorboard"], metavar="NAME", help="tensorboard, wandb, mlflow"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    add_settings(parser, "keys of detectron2's config, which have the last word: SOLVER.BASE_LR=0.001")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when training has ended, 2 for a mistake in the input, 130 if it was stopped."""
    args = parse(argv)
    with needs():
        from nasnet_det.detection.engine.finetune import Options, finetune
        from nasnet_det.detection.engine.quiet import quiet
    from nasnet_det.safe_io.settings import parse_assignments

    quiet()
    output = args.output or Path("output", args.data.resolve().name)
    options = Options(
        data=args.data,
        output=output,
        model=args.model,
        weights=args.weights,
        image_size=min(args.image_size) if args.image_size else None,
        batch_size=args.batch_size,
        epochs=args.epochs,
        patience=args.patience,
        settings=parse_assignments(args.set),
        val_share=args.val_share,
        loggers=args.loggers,
        seed=args.seed,
        device=args.device,
    )
    try:
        with protecting():
            scores = finetune(options, args.resume)
    except KeyboardInterrupt as error:
        again = shlex.join(["nasnet-det", "finetune", str(args.data), "--output", str(output)])
        raise KeyboardInterrupt(f"{error}: {again} --resume" if error.args else f"stopped: {again}") from None
    print("  ".join(f"{name} {value:.1f}" for name, value in scores.items() if "-" not in name))
    print(f"{output}: the detector; try nasnet-det predict {shlex.quote(str(output))} PICTURES")
    return 0
