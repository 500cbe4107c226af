"""Instance masks learnt on a CPU: Mask R-CNN on a feature pyramid overfits a few pictures of made shapes.

    python benchmarks/masks.py
    python benchmarks/masks.py --cascade --steps 300 --output shapes_run

Writes pictures of circles, squares and triangles with polygons in COCO's form, trains a thin NASNet-A from random
weights on them, scores its boxes and masks, and prints COCO's numbers and the time. Exits with 0 if the masks' AP50
reaches 90.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from PIL import Image, ImageDraw

from nasnet_det.detection.config import read_config
from nasnet_det.detection.data.folders import read_training
from nasnet_det.detection.data.look import CocoData
from nasnet_det.detection.engine.demo import DATASET, DemoTrainer, prepare

SHAPES = {"circle": 32, "square": 4, "triangle": 3}
SIDE = 128
LEARNT = 90.0


def make_shapes(folder: Path, number: int, seed: int = 0) -> CocoData:
    """Write pictures of two shapes each, ``SIDE`` pixels wide and high, with their polygons."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image_id in range(1, number + 1):
        pixels = random.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
        for half in range(2):
            kind = int(random.integers(len(SHAPES)))
            polygon = _polygon(kind, half, random)
            colour = tuple(random.integers(120, 256, 3).tolist())
            ImageDraw.Draw(picture).polygon([tuple(point) for point in polygon], fill=colour)
            annotations.append(_annotation(len(annotations) + 1, image_id, kind, polygon))
        name = f"{image_id}.png"
        picture.save(folder / name)
        images.append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES, start=1)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(data), encoding="utf-8")
    return read_training(folder)


def _polygon(kind: int, half: int, random: np.random.Generator) -> np.ndarray:
    """Return the corners ``(N, 2)`` of a regular polygon in the left or the right half of a picture."""
    corners = list(SHAPES.values())[kind]
    radius, turn = random.uniform(20, 30), random.uniform(0, 2 * math.pi)
    centre = np.array([SIDE * (0.25 + 0.5 * half), random.uniform(35, SIDE - 35)])
    angles = turn + np.arange(corners) * 2 * math.pi / corners
    return centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _annotation(number: int, image_id: int, kind: int, polygon: np.ndarray) -> dict[str, Any]:
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    x, y = polygon.T
    area = abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
    return {
        "id": number,
        "image_id": image_id,
        "category_id": kind + 1,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "segmentation": [polygon.flatten().tolist()],
        "area": area,
        "iscrowd": 0,
    }


def config(output: Path, steps: int, cascade: bool = False) -> CfgNode:
    """Return the demo's config with masks, a thin network and small heads."""
    opts = ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NUM_CONV", 2, "MODEL.ROI_MASK_HEAD.CONV_DIM", 64]
    opts += ["MODEL.NASNET.NUM_CELLS", 1, "MODEL.NASNET.NUM_FILTERS", 16, "MODEL.ROI_HEADS.NUM_CLASSES", len(SHAPES)]
    opts += ["MODEL.ROI_BOX_HEAD.FC_DIM", 128, "INPUT.MIN_SIZE_TRAIN", [SIDE], "INPUT.MIN_SIZE_TEST", SIDE]
    opts += ["SOLVER.MAX_ITER", steps, "TEST.EVAL_PERIOD", steps, "SOLVER.CHECKPOINT_PERIOD", steps]
    opts += ["DATASETS.TRAIN", (DATASET,), "DATASETS.TEST", (DATASET,), "OUTPUT_DIR", str(output)]
    opts += ["MODEL.DEVICE", "cpu"]
    if cascade:
        opts += ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
    return read_config("demo", opts)


def learn(output: Path, images: int, steps: int, cascade: bool = False) -> dict[str, dict[str, float]]:
    """Train on made shapes and return COCO's numbers in percent, of ``bbox`` and ``segm``.

    The pictures are in ``output/shapes``, the run in ``output/run``, which must be new.
    """
    run = output / "run"
    prepare(make_shapes(output / "shapes", images), None, run)
    cfg = config(run, steps, cascade)
    seed_all_rng(cfg.SEED)
    trainer = DemoTrainer(cfg, {"AP50": math.inf})
    trainer.train()
    return dict(DemoTrainer.test(cfg, trainer.model))


def _lines(scores: dict[str, dict[str, float]]) -> Iterator[str]:
    for iou_type, found in scores.items():
        yield f"{iou_type:5} " + "  ".join(f"{name} {found[name]:.1f}" for name in ("AP", "AP50", "AP75"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6, help="pictures to make and learn (default: 6)")
    parser.add_argument("--steps", type=int, default=240, help="training steps of three pictures (default: 240)")
    parser.add_argument("--cascade", action="store_true", help="Cascade Mask R-CNN instead of Mask R-CNN")
    parser.add_argument("--output", type=Path, help="a folder to keep (default: a temporary one)")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        scores = learn(options.output or Path(scratch), options.images, options.steps, options.cascade)
    print("\n".join(_lines(scores)))
    print(f"{time.perf_counter() - start:.0f} s for {options.steps} steps")
    return 0 if scores["segm"]["AP50"] >= LEARNT else 1


if __name__ == "__main__":
    sys.exit(main())
