"""Thousands of training steps and predictions in one process: does memory stay flat?

    python benchmarks/soak.py [--steps 2000] [--only classifier_training ...] [--json OUT]

Every road runs at toy size: training of a classifier by the project's engine and of the paper's detector by the
trainer of tools/train_net.py; predictions by a classifier, by the same fused, and by a detector. After a warm-up of a
quarter of the steps, the resident memory and the number of live tensors are looked at twenty times. A road fails if its
last five looks have, in the median, more than --megabytes above its first five, or more tensors than --tensors.

What an allocator keeps or gives back makes resident memory wander by some megabytes; a leak of one 64 x 64 map of 16
channels a step (256 KiB) would add 390 MB in 1,500 steps.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from save_results import keep
from torch import Tensor

import nasnet_det
from nasnet_det.fusion import optimize_for_inference
from nasnet_det.genotypes.genotype import Block, CellGenotype, Genotype
from nasnet_det.training.engine import Trainer
from nasnet_det.training.execution import Execution
from nasnet_det.training.recipe import load_recipe
from nasnet_det.training.seeds import seed_step

SIDE, CLASSES = 64, 4
#: Cells of two blocks, with every kind of operation and of combiner that keeps something of its own.
_NORMAL = CellGenotype(
    (Block(0, 1, "sep_conv_3x3", "identity"), Block(2, 1, "avg_pool_3x3", "conv_1x1", "concat")), (3,)
)
_REDUCTION = CellGenotype((Block(0, 1, "sep_conv_5x5", "max_pool_3x3"),), (2,))
GENOTYPE = Genotype(_NORMAL, _REDUCTION)
LOOKS = 20
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "nasnet_frcnn_mobile_600.yaml"
#: What makes the paper's detector a toy.
TOY: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.NASNET.NUM_CELLS": 1,
    "MODEL.NASNET.NUM_FILTERS": 4,
    "MODEL.NASNET.PRETRAINED": "",
    "MODEL.NASNET.NORM": "BN",
    "MODEL.NASNET.LABEL_IDS": [],
    "MODEL.NASNET.IMAGE_SIZE": [SIDE, SIDE],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32]],
    "MODEL.ROI_HEADS.NUM_CLASSES": 2,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 16,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 8,
    "DATASETS.TEST": (),
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.STEPS": [],
    "SEED": 3,
}


@dataclass(frozen=True)
class Look:
    """Memory after a number of steps: resident megabytes and live tensors."""

    step: int
    megabytes: float
    tensors: int


@dataclass(frozen=True)
class Road:
    """The result of one road: growth from the first five looks after the warm-up to the last five, medians both."""

    name: str
    steps: int
    seconds: float
    megabytes_grown: float
    tensors_grown: float
    looks: tuple[Look, ...]

    @classmethod
    def of(cls, name: str, steps: int, seconds: float, looks: Sequence[Look]) -> Road:
        """The growth that the looks show."""

        def growth(key: Callable[[Look], float]) -> float:
            return statistics.median(map(key, looks[-5:])) - statistics.median(map(key, looks[:5]))

        grown = growth(lambda look: look.megabytes), growth(lambda look: look.tensors)
        return cls(name, steps, seconds, *grown, tuple(looks))


def resident() -> float:
    """The process's resident memory in megabytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def live_tensors() -> int:
    """Return how many tensors Python holds after a collection of cycles; frozen ones (``gc.freeze``) do not count."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some modules warn where they are looked at
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def soak(name: str, step: Callable[[int], Any], steps: int, log: Callable[[str], None] = print) -> Road:
    """Take steps and look at memory from a quarter of them on."""
    marks = {round(steps * (0.25 + 0.75 * look / (LOOKS - 1))) for look in range(LOOKS)}
    looks, began = [], time.monotonic()
    gc.freeze()  # objects from before, of which imports leave a million, are not looked at again and again
    for number in range(1, steps + 1):
        step(number)
        if number in marks:
            looks.append(Look(number, round(resident(), 2), live_tensors()))
            if len(looks) % 5 == 1:
                log(f"{name}: step {number} of {steps}, {looks[-1].megabytes:.1f} MB, {looks[-1].tensors} tensors")
    gc.unfreeze()
    return Road.of(name, steps, round(time.monotonic() - began, 1), looks)


def classifier(**more: Any) -> Any:
    """A network of two stages of one cell."""
    torch.manual_seed(0)
    shape = {"num_cells": (1, 1), "num_filters": 4, "stem": "cifar", "stem_channels": 12}
    return timm.create_model("nasnet", genotype=GENOTYPE, num_classes=CLASSES, **shape, **more)


def classifier_training(folder: Path, steps: int, stack: ExitStack) -> Callable[[int], Any]:
    """Steps of the training engine, with drop path, clipping and a moving average."""
    recipe = load_recipe("cifar_quick").with_settings(
        [f"epochs={steps}", "batch_size=2", "aux_weight=0", "drop_path_rate=0.2", "learning_rate=0.01"]
    )
    trainer = Trainer(classifier(drop_path_rate=0.2), recipe, 1, CLASSES, Execution(torch.device("cpu")))

    def step(number: int) -> float:
        seed_step(0, number)
        return float(trainer.step(torch.randn(2, 3, SIDE, SIDE), torch.randint(CLASSES, (2,))))

    return step


def classifier_predictions(folder: Path, steps: int, stack: ExitStack) -> Callable[[int], Any]:
    """Predictions of a classifier on images of changing size."""
    model = classifier().eval()
    return lambda number: _predict(model, 48 + 16 * (number % 2))


def fused_predictions(folder: Path, steps: int, stack: ExitStack) -> Callable[[int], Any]:
    """The same of the fused network."""
    model = optimize_for_inference(classifier().eval())
    return lambda number: _predict(model, 48 + 16 * (number % 2))


@torch.inference_mode()
def _predict(model: Any, side: int) -> list[float]:
    return model(torch.randn(1, 3, side, side)).softmax(1)[0].tolist()


def detector_training(folder: Path, steps: int, stack: ExitStack) -> Callable[[int], Any]:
    """Steps of detectron2's loop by this project's trainer, hooks, writers and checkpoints with them."""
    from detectron2.utils.events import EventStorage

    from nasnet_det.detection.engine.trainer import DetectorTrainer

    name = stack.enter_context(_registered(folder))
    cfg = _toy_config(
        folder, SOLVER__MAX_ITER=steps, DATASETS__TRAIN=(name,), SOLVER__CHECKPOINT_PERIOD=max(steps // 4, 1)
    )
    trainer = DetectorTrainer(cfg)
    trainer.start_iter, trainer.max_iter = 0, steps
    trainer.storage = stack.enter_context(EventStorage(0))
    trainer.before_train()

    def step(number: int) -> None:
        trainer.iter = number - 1
        trainer.before_step()
        trainer.run_step()
        trainer.after_step()

    return step


def detector_predictions(folder: Path, steps: int, stack: ExitStack) -> Callable[[int], Any]:
    """Predictions from pictures to detections."""
    from detectron2.modeling import build_model

    from nasnet_det.detection.engine.checkpointer import Checkpointer
    from nasnet_det.detection.engine.predictor import Predictor

    cfg = _toy_config(folder)
    torch.manual_seed(0)
    Checkpointer(build_model(cfg), str(folder)).save("toy")
    cfg.MODEL.WEIGHTS = str(folder / "toy.pth")
    predictor, pixels = Predictor(cfg), np.random.default_rng(0)

    def step(number: int) -> list[float]:
        size = (SIDE, 48 + 16 * (number % 3), 3)
        image = Image.fromarray(pixels.integers(0, 256, size, dtype=np.uint8))
        return predictor(image).scores.tolist()

    return step


def _toy_config(folder: Path, **more: Any) -> Any:
    from nasnet_det.detection.config import read_config

    GENOTYPE.save(folder / "cell.json")
    positions = {"MODEL.NASNET.GENOTYPE": str(folder / "cell.json"), "OUTPUT_DIR": str(folder)}
    values = {**TOY, **positions, **{key.replace("__", "."): value for key, value in more.items()}}
    return read_config(CONFIG, [part for pair in values.items() for part in pair])


class _registered:
    """A data set of noise in COCO's form, registered for the time of the block."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"soak_{folder.name}"

    def __enter__(self) -> str:
        from detectron2.data.datasets import register_coco_instances

        random = np.random.default_rng(0)
        images, annotations = [], []
        for number in range(1, 9):
            pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.folder / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
            box = [4.0 * number, 5.0, 24.0, 30.0]
            entry = {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": box, "area": 720}
            annotations.append({**entry, "iscrowd": 0})
        categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (self.folder / "annotations.json").write_text(json.dumps(content))
        register_coco_instances(self.name, {}, str(self.folder / "annotations.json"), str(self.folder))
        return self.name

    def __exit__(self, *error: object) -> None:
        from detectron2.data import DatasetCatalog, MetadataCatalog

        DatasetCatalog.remove(self.name)
        MetadataCatalog.remove(self.name)


ROADS: dict[str, Callable[[Path, int, ExitStack], Callable[[int], Any]]] = {
    "classifier_training": classifier_training,
    "classifier_predictions": classifier_predictions,
    "fused_predictions": fused_predictions,
    "detector_training": detector_training,
    "detector_predictions": detector_predictions,
}


def run(names: Sequence[str], steps: int, log: Callable[[str], None] = print) -> Iterator[Road]:
    """Take every road, one after the other."""
    for name in names:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nasnet_det-soak-")))
            yield soak(name, ROADS[name](folder, steps, stack), steps, log)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="of each road (2000)")
    parser.add_argument("--only", nargs="+", choices=ROADS, default=list(ROADS), metavar="ROAD", help=", ".join(ROADS))
    parser.add_argument("--megabytes", type=float, default=24.0, help="growth allowed (24)")
    parser.add_argument("--tensors", type=float, default=8, help="more live tensors allowed (8)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to keep the numbers; other roads' stay")
    return parser.parse_args(argv)


def _others(path: Path | None, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what a file of numbers has on the roads that are not taken now."""
    if path is None or not path.is_file():
        return []
    return [road for road in json.loads(path.read_text())["roads"] if road["name"] not in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if memory stayed flat on every road, 1 if not."""
    options = parse(argv)
    torch.set_num_threads(1)
    roads, failed = [], 0
    kept = _others(options.json, options.only)
    described = {
        "nasnet_det": nasnet_det.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "allowed": {"megabytes": options.megabytes, "tensors": options.tensors},
    }
    for road in run(options.only, options.steps, lambda line: print(line, flush=True)):
        flat = road.megabytes_grown <= options.megabytes and road.tensors_grown <= options.tensors
        failed += not flat
        roads.append(road)
        print(
            f"{road.name}: {road.megabytes_grown:+.1f} MB, {road.tensors_grown:+.0f} tensors after the warm-up, "
            f"{road.steps} steps in {road.seconds:.0f} s: {'flat' if flat else 'NOT FLAT'}",
            flush=True,
        )
        if options.json:  # after every road, since all of them take long
            keep(options.json, {**described, "roads": [*kept, *map(asdict, roads)]})
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
