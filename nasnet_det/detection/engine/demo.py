"""The demo: a detector learns a handful of images by heart, in minutes, and shows what it found.

It is the shortest proof that all parts work together on one machine: backbone, pyramid, training, evaluation, pictures.
Its AP says nothing about images that it has not seen.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import HookBase, hooks
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils.events import EventStorage, EventWriter
from tqdm import tqdm

from nasnet_det.detection.data.coco_format import CocoFormatError, read_annotations, write_json
from nasnet_det.detection.engine.trainer import Trainer

logger = logging.getLogger(__name__)

DATASET = "nasnet_demo"
#: Images are chosen whose objects are all at least this share of the shorter side wide and high: the first share that
#: gives enough of them. Smaller objects are a few pixels at the demo's size.
_LEAST_SIDES = (1 / 4, 1 / 6, 1 / 12)
_MOST_OBJECTS = 6
_BN_MOMENTUM = 0.1
#: When, as a share of all steps, batch norms stop following the batches: three images of a kind of their own differ too
#: much from the mean of all, and the detector must work with the statistics that inference uses.
_BN_FIXED_FROM = 0.4
#: How many steps are tried on each number of threads; the first of them also prepares for it.
_TRIAL_STEPS = 3


@dataclass(frozen=True)
class CocoFolder:
    """Images and their annotations in COCO's form: one annotation file and the folder that its names stand in."""

    annotations: Path
    images: Path


def sample_folder() -> CocoFolder:
    """The nine photographs that come with this package; where each is from stands in its annotations."""
    folder = Path(str(resources.files("nasnet_det.detection").joinpath("assets/samples")))
    return CocoFolder(folder / "annotations.json", folder)


def find_coco_folder(root: Path) -> CocoFolder:
    """Annotations and images below ``root``: ``annotations/instances_NAME.json`` with ``NAME/``, as COCO has them
    (a training set before another), or ``annotations.json`` with the images beside it or in ``images/``.

    Raises:
        CocoFormatError: if there is neither.
    """
    official = sorted((root / "annotations").glob("instances_*.json"), key=lambda path: "train" not in path.stem)
    for path in official:
        images = root / path.stem.removeprefix("instances_")
        if images.is_dir():
            return CocoFolder(path, images)
    if (root / "annotations.json").is_file():
        return CocoFolder(root / "annotations.json", root / "images" if (root / "images").is_dir() else root)
    raise CocoFormatError(
        f"{root} is no COCO folder: it has neither annotations/instances_NAME.json with a folder NAME of images, nor "
        "annotations.json"
    )


def choose_images(annotations: dict[str, Any], number: int) -> dict[str, Any]:
    """The first ``number`` images with a few objects, all of them large and none a crowd, and the categories they show.

    Raises:
        CocoFormatError: if no image is like that.
    """
    objects: dict[int, list[dict[str, Any]]] = {}
    for entry in annotations.get("annotations", ()):
        objects.setdefault(entry["image_id"], []).append(entry)
    ordered = sorted(annotations["images"], key=lambda image: image["id"])
    for least in _LEAST_SIDES:
        images = [image for image in ordered if _is_easy(image, objects.get(image["id"], []), least)][:number]
        if len(images) == number:
            break
    if not images:
        raise CocoFormatError(
            f"no image shows 1 to {_MOST_OBJECTS} objects, none a crowd, that are at least 1/12 of its shorter side "
            "wide and high"
        )
    chosen = [entry for image in images for entry in objects[image["id"]]]
    shown = {entry["category_id"] for entry in chosen}
    categories = [category for category in annotations["categories"] if category["id"] in shown]
    return {"images": images, "annotations": chosen, "categories": categories}


def _is_easy(image: dict[str, Any], objects: list[dict[str, Any]], least: float) -> bool:
    side = least * min(image["width"], image["height"])
    return 0 < len(objects) <= _MOST_OBJECTS and all(
        not entry["iscrowd"] and min(entry["bbox"][2:]) >= side for entry in objects
    )


def prepare(folder: CocoFolder, number: int | None, output: Path) -> list[str]:
    """Write the chosen images' annotations to ``output``, register them as :data:`DATASET`, and name their classes.

    Args:
        number: how many images to choose; None for all as they are.

    Raises:
        CocoFormatError: if the annotations cannot be used, or ``output`` holds a run on others.
    """
    annotations = read_annotations(folder.annotations)
    chosen = annotations if number is None else choose_images(annotations, number)
    chosen = {key: chosen[key] for key in ("images", "annotations", "categories")}
    path = output / "annotations.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != chosen:
        raise CocoFormatError(f"{output} holds a run on other images: give another --output, or --restart")
    write_json(path, chosen)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if DATASET in catalog:
            catalog.remove(DATASET)
    register_coco_instances(DATASET, {}, str(path), str(folder.images))
    return [category["name"] for category in sorted(chosen["categories"], key=lambda category: category["id"])]


class DemoTrainer(Trainer):
    """The trainer of ``tools/train_net.py`` with AdamW and a progress bar, that ends as soon as all is learnt.

    Args:
        cfg: the config; ``TEST.EVAL_PERIOD`` says how often to evaluate.
        enough: the numbers, in percent by name, at which to end.
    """

    def __init__(self, cfg: CfgNode, enough: Mapping[str, float]) -> None:
        self.enough = enough
        #: The last evaluation: COCO's numbers in percent.
        self.scores: dict[str, float] = {}
        super().__init__(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """The detector, its batch norms' running statistics following in a hundred steps, not in ten thousand; its
        maps lie channels last, which takes a quarter off the time of a step on a CPU."""
        model = super().build_model(cfg).to(memory_format=torch.channels_last)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = _BN_MOMENTUM
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """AdamW: from random weights it needs a tenth of the steps that detectron2's SGD needs."""
        parameters = get_default_optimizer_params(model, base_lr=cfg.SOLVER.BASE_LR, weight_decay_norm=0.0)
        adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return adamw(parameters, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)

    def build_writers(self) -> list[EventWriter]:
        """None: the progress bar is all that is written."""
        return []

    def build_hooks(self) -> list[HookBase | None]:
        """The schedule, one checkpoint to go on from, and the progress bar."""
        kept = [hook for hook in super().build_hooks() if isinstance(hook, hooks.LRScheduler)]
        checkpoints = hooks.PeriodicCheckpointer(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=1)
        fixed = FixStatistics(round(_BN_FIXED_FROM * self.cfg.SOLVER.MAX_ITER))
        return [*kept, ChooseThreads(), fixed, checkpoints, Watch(self.cfg.TEST.EVAL_PERIOD)]

    def train(self) -> dict[str, float]:
        """Train until all is learnt or the schedule ends, and leave ``model_final.pth``; the last evaluation's numbers.

        A run that is interrupted (Ctrl-C) leaves a checkpoint too, from which the next one goes on.
        """
        with EventStorage(self.start_iter) as self.storage:
            self.before_train()
            try:
                for step in range(self.start_iter, self.max_iter):
                    self.iter = step
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if all(self.scores.get(name, 0.0) >= least for name, least in self.enough.items()):
                        break
            except KeyboardInterrupt:
                self.checkpointer.save("model_interrupted", iteration=self.iter - 1)
                raise
            finally:
                self.after_train()
        self.checkpointer.save("model_final", iteration=self.iter)
        return self.scores


class FixStatistics(HookBase):
    """From a step on, train with batch norms' running statistics, as inference does.

    Args:
        first: that step.
    """

    def __init__(self, first: int) -> None:
        self.first = first

    def before_step(self) -> None:
        """Put the batch norms into evaluation, which an evaluation in between undoes."""
        if self.trainer.iter >= self.first:
            for module in self.trainer.model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()


class ChooseThreads(HookBase):
    """Try a few steps on all threads and a few on one, and stay with the faster: on a machine that is busy with other
    things, threads that wait for each other can be ten times slower than one alone."""

    def before_train(self) -> None:
        """Nothing is measured yet."""
        threads = torch.get_num_threads()
        self.trials = [threads] * _TRIAL_STEPS + [1] * _TRIAL_STEPS if threads > 1 else []
        self.fastest: dict[int, float] = {}

    def before_step(self) -> None:
        """Set the threads of this step."""
        step = self.trainer.iter - self.trainer.start_iter
        if step < len(self.trials):
            torch.set_num_threads(self.trials[step])
        elif self.fastest:
            torch.set_num_threads(min(self.fastest, key=lambda threads: self.fastest[threads]))
            self.fastest = {}
        self.start = time.perf_counter()

    def after_step(self) -> None:
        """Keep the least time of each kind."""
        step = self.trainer.iter - self.trainer.start_iter
        if step < len(self.trials):
            seconds = time.perf_counter() - self.start
            threads = self.trials[step]
            self.fastest[threads] = min(seconds, self.fastest.get(threads, seconds))


class Watch(HookBase):
    """A progress bar with the loss, and an evaluation every so often and at the end.

    Args:
        period: steps between evaluations.
    """

    def __init__(self, period: int) -> None:
        self.period = period

    def before_train(self) -> None:
        """Start the bar where the run starts."""
        trainer = self.trainer
        self.bar = tqdm(total=trainer.max_iter, initial=trainer.start_iter, unit="step", desc="training")

    def after_step(self) -> None:
        """Move the bar; evaluate if it is time."""
        trainer, done = self.trainer, self.trainer.iter + 1
        self.bar.update()
        loss = trainer.storage.history("total_loss").latest()
        if done % self.period == 0 or done == trainer.max_iter:
            trainer.scores = trainer.test(trainer.cfg, trainer.model)["bbox"]
            self.bar.write(
                f"step {done:4}: loss {loss:.3f}, AP {trainer.scores['AP']:.1f}, AP50 {trainer.scores['AP50']:.1f}"
            )
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def after_train(self) -> None:
        """End the bar."""
        self.bar.close()
