#!/usr/bin/env python
"""See it work: NASNet-A mobile learns to detect the objects of nine photographs, in minutes on two cores.

    nasnet-det demo
    nasnet-det demo --data datasets/coco_mini

Without --data the photographs are those that come with this package. The detector starts from random weights, learns
until it has plainly learnt them, is judged by COCO's metrics, and its detections are drawn. Stop it at any time with
Ctrl-C: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.errors import command, needs

with needs():
    import torch
    from detectron2.config import CfgNode
    from detectron2.data import DatasetCatalog
    from detectron2.structures import BoxMode
    from detectron2.utils.env import seed_all_rng

    from nasnet_det.detection.data.coco_format import write_json
    from nasnet_det.detection.engine.demo import (
        DATASET,
        CocoFolder,
        DemoTrainer,
        find_coco_folder,
        prepare,
        sample_folder,
    )
    from nasnet_det.detection.engine.predictor import Predictor, load_config
    from nasnet_det.draw.detections import Detection, detections_of, draw, grid, side_by_side
    from nasnet_det.safe_io.files import write_text
    from nasnet_det.safe_io.images import read_image

CONFIG = "demo"
#: The AP50, in percent, that counts as plainly learnt; and what ends the training early: boxes that look right, too.
LEARNT = 90.0
ENOUGH = {"AP50": 95.0, "AP": 80.0}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="ROOT", help="a folder in COCO's form instead of the photographs")
    parser.add_argument("--images", type=int, default=8, help="how many of its images to learn (default: 8)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: output/demo, or output/demo-ROOT")
    parser.add_argument("--restart", action="store_true", help="begin anew what the output folder holds")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes of configs/demo.yaml")
    args = parser.parse_args(argv)
    if args.images < 1:
        parser.error("--images is at least 1")
    return args


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if all was learnt, 1 if not, 2 if the input was at fault, 130 if it was stopped."""
    args = parse(argv)
    output = args.output or Path("output", "demo" if args.data is None else f"demo-{args.data.resolve().name}")
    quiet()
    try:
        return run(args, output)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"\nstopped; the same command goes on from the checkpoint in {output}") from None


def run(args: argparse.Namespace, output: Path) -> int:
    """Prepare the data, train or take up what was trained, judge, draw."""
    start = time.perf_counter()
    if args.restart:
        forget(output)
    folder = sample_folder() if args.data is None else find_coco_folder(args.data)
    names = prepare(folder, None if args.data is None else args.images, output)
    cfg = demo_config(output, len(names), args.opts)
    print(f"images: {folder.images} ({len(DatasetCatalog.get(DATASET))}); objects: {', '.join(names)}")
    scores = learn(cfg, output)
    scores = {name: value for name, value in scores.items() if math.isfinite(value)}
    write_json(output / "scores.json", scores)
    overview = draw_all(cfg, folder, output)
    print("\n" + "  ".join(f"{name} {value:.1f}" for name, value in scores.items() if "-" not in name))
    print(f"pictures: {overview} and {output / 'pictures'}")
    print(f"time: {time.perf_counter() - start:.0f} s on {torch.get_num_threads()} threads")
    learnt = scores["AP50"] >= LEARNT
    print(f"AP50 is {scores['AP50']:.1f}: " + ("all is learnt" if learnt else f"not learnt, which takes {LEARNT:.0f}"))
    return 0 if learnt else 1


def demo_config(output: Path, num_classes: int, opts: Sequence[str]) -> CfgNode:
    """The demo's config for a number of classes, kept in ``output/config.yaml`` for nasnet-det predict."""
    own = ["MODEL.ROI_HEADS.NUM_CLASSES", num_classes, "OUTPUT_DIR", str(output)]
    own += ["DATASETS.TRAIN", (DATASET,), "DATASETS.TEST", (DATASET,)]
    cfg = load_config(CONFIG, [*own, *opts])
    write_text(output / "config.yaml", cfg.dump())
    return cfg


def learn(cfg: CfgNode, output: Path) -> dict[str, float]:
    """COCO's numbers, in percent, of the trained detector; it is trained first, or further, if it is not there."""
    seed_all_rng(cfg.SEED)
    trainer = DemoTrainer(cfg, ENOUGH)
    trainer.resume_or_load(resume=True)
    if (output / "model_final.pth").is_file():
        print(f"{output} holds a finished run; --restart begins anew")
        return DemoTrainer.test(cfg, trainer.model)["bbox"]
    if trainer.start_iter:
        print(f"going on from step {trainer.start_iter}")
    return trainer.train()


def draw_all(cfg: CfgNode, folder: CocoFolder, output: Path) -> Path:
    """Draw each image twice, with its annotations and with what was found, and all of them on one sheet."""
    cfg.MODEL.WEIGHTS = str(output / "model_final.pth")
    predictor, pictures = Predictor(cfg), []
    names = [category["name"] for category in predictor.categories]
    (output / "pictures").mkdir(exist_ok=True)
    for record in DatasetCatalog.get(DATASET):
        path = Path(record["file_name"])
        image = read_image(path)
        truth = [
            Detection(
                tuple(BoxMode.convert(entry["bbox"], entry["bbox_mode"], BoxMode.XYXY_ABS)),
                entry["category_id"],
                names[entry["category_id"]],
            )
            for entry in record["annotations"]
        ]
        found = draw(image, detections_of(predictor(image), names, threshold=0.5))
        pictures.append(side_by_side([draw(image, truth), found], ["annotated", "detected"]))
        pictures[-1].save(output / "pictures" / f"{path.stem}.jpg", quality=92)
    overview = output / "overview.jpg"
    grid(pictures, columns=3 if len(pictures) > 4 else 1, size=(760, 420)).save(overview, quality=92)
    return overview


def forget(output: Path) -> None:
    """Remove what an earlier demo left in ``output``, and nothing else."""
    for name in ("annotations.json", "scores.json", "config.yaml", "last_checkpoint", "overview.jpg"):
        (output / name).unlink(missing_ok=True)
    for checkpoint in output.glob("model_*.pth"):
        checkpoint.unlink()


def quiet() -> None:
    """Keep the libraries' notices out of the demo's few lines."""
    warnings.filterwarnings("ignore")
    for name in ("fvcore", "torch.fx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    chatty = logging.getLogger("detectron2")
    chatty.setLevel(logging.INFO)  # or its trainer would set up logging of its own
    chatty.propagate = False
    chatty.addHandler(logging.NullHandler())


if __name__ == "__main__":
    sys.exit(main())
