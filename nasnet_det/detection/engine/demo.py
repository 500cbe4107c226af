"""The demo: a detector learns a handful of images by heart, in minutes, and shows what it found.

It shows that all parts work together on one machine: backbone, pyramid, training, evaluation, pictures. Its AP says
nothing about other images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase, hooks
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from nasnet_det.detection.config import find_config
from nasnet_det.detection.data.catalog import register
from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.folders import read_folder
from nasnet_det.detection.data.look import CocoData, read_record
from nasnet_det.detection.engine.hooks import ChooseThreads, FixStatistics, Periodic, Progress
from nasnet_det.detection.engine.prediction import picture_names
from nasnet_det.detection.engine.predictor import Predictor, load_config
from nasnet_det.detection.engine.run_folder import mark_run, read_run
from nasnet_det.detection.engine.trainer import ShortTrainer
from nasnet_det.draw.detections import Detection, detections_of, draw, grid, side_by_side
from nasnet_det.draw.fonts import readable_names
from nasnet_det.safe_io.files import replacing, write_json, write_text
from nasnet_det.safe_io.images import ImageError

DATASET, CONFIG = "nasnet_demo", "demo"
#: The scores, in percent, that end the training early: boxes that look right, too.
ENOUGH = {"AP50": 95.0, "AP": 80.0}
#: Images are chosen whose objects are all at least this share of the shorter side wide and high: the first share that
#: gives enough of them. Smaller objects are a few pixels at the demo's size.
_LEAST_SIDES = (1 / 4, 1 / 6, 1 / 12)
_MOST_OBJECTS = 6


def sample_data() -> CocoData:
    """Return the nine photographs that come with this package; their annotations name the source of each."""
    return read_folder(Path(str(resources.files("nasnet_det.detection").joinpath("assets/samples"))))["all"]


def choose_images(annotations: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the first ``number`` images with a few objects, all large and none a crowd, and the categories they show.

    Raises:
        CocoFormatError: if no image qualifies.
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


def prepare(data: CocoData, number: int | None, output: Path) -> CocoData:
    """Choose images, write their annotations to ``output`` and register them as :data:`DATASET`.

    Args:
        number: how many images to choose; None for all.

    Returns:
        the chosen part of the data.

    Raises:
        CocoFormatError: if no image can be chosen, or ``output`` holds a run on others.
        RunFolderError: if ``output`` holds something else.
    """
    run = read_run(output, "demo")
    chosen = data.content if number is None else choose_images(data.content, number)
    chosen = {key: chosen[key] for key in ("images", "annotations", "categories")}
    if run is None:
        mark_run(output, "demo", {"data": data.origin})
    path = output / "annotations.json"
    if path.is_file() and path.read_text(encoding="utf-8") != json.dumps(chosen):
        raise CocoFormatError(f"{output} holds a run on other images: give another --output, or --restart")
    write_json(path, chosen)
    part = replace(data, name=DATASET, content=chosen)
    register(part)
    return part


class DemoTrainer(ShortTrainer):
    """The trainer of ``nasnet-det train-net`` with AdamW and a progress bar, that ends when all is learnt.

    Args:
        cfg: the config; ``TEST.EVAL_PERIOD`` gives the steps between evaluations.
        enough: the scores, in percent by name, at which to end.
    """

    def __init__(self, cfg: CfgNode, enough: Mapping[str, float]) -> None:
        self.enough = enough
        #: The last evaluation: COCO's numbers in percent.
        self.scores: dict[str, float] = {}
        super().__init__(cfg)

    def build_hooks(self) -> list[HookBase | None]:
        """Return the schedule, one checkpoint to resume from, evaluation and the progress bar."""
        checkpoints = hooks.PeriodicCheckpointer(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=1)
        fixed = FixStatistics(self.cfg.SOLVER.MAX_ITER)
        judge = Judge(self.cfg.TEST.EVAL_PERIOD)
        return [hooks.LRScheduler(), ChooseThreads(), fixed, checkpoints, judge, Progress()]

    def train(self) -> dict[str, float]:
        """Train until all is learnt or the schedule ends, and leave ``model_final.pth``; return the last scores."""
        super().train()
        self.checkpointer.save("model_final", iteration=self.iter - 1)
        return self.scores


class Judge(Periodic):
    """An evaluation every so often and at the end, which ends the training when all is learnt."""

    def after_step(self) -> None:
        """Evaluate if it is time."""
        trainer = self.trainer
        if self.is_due():
            trainer.scores = trainer.test(trainer.cfg, trainer.model)["bbox"]
            loss = trainer.storage.history("total_loss").latest()
            found = ", ".join(f"{name} {trainer.scores[name]:.1f}" for name in ("AP", "AP50"))
            tqdm.write(f"step {trainer.iter + 1:4}: loss {loss:.3f}, {found}")
            trainer.finished = all(trainer.scores[name] >= least for name, least in trainer.enough.items())


def learn(data: CocoData, output: Path, opts: Sequence[Any] = ()) -> tuple[dict[str, float], Path]:
    """Train the demo's detector, or continue, unless it is trained already; judge it and draw its detections.

    Args:
        data: the images, from :func:`prepare`.
        output: the run folder.
        opts: changes of ``configs/demo.yaml``, ``KEY VALUE`` in turn.

    Returns:
        COCO's numbers in percent, those that could be measured, and the sheet of all pictures.
    """
    names = [category["name"] for category in data.categories]
    own = ["MODEL.ROI_HEADS.NUM_CLASSES", len(names), "OUTPUT_DIR", str(output)]
    own += ["DATASETS.TRAIN", (DATASET,), "DATASETS.TEST", (DATASET,)]
    cfg = load_config(find_config(CONFIG), [*own, *opts])
    write_text(output / "config.yaml", cfg.dump())
    print(f"{data.origin}: {len(data.content['images'])} images; objects: {', '.join(names)}")
    found = _scores(cfg, output)
    scores = {name: value for name, value in found.items() if math.isfinite(value)}
    write_json(output / "scores.json", scores)
    return scores, _draw_all(cfg, output, names)


def _scores(cfg: CfgNode, output: Path) -> dict[str, float]:
    seed_all_rng(cfg.SEED)
    trainer = DemoTrainer(cfg, ENOUGH)
    trainer.resume_or_load(resume=True)
    if (output / "model_final.pth").is_file():
        print(f"{output} holds a finished run; --restart starts again")
        return DemoTrainer.test(cfg, trainer.model)["bbox"]
    if trainer.start_iter:
        print(f"continuing from step {trainer.start_iter}")
    return trainer.train()


def _draw_all(cfg: CfgNode, output: Path, names: Sequence[str]) -> Path:
    """Draw each image twice, with its annotations and with its detections, and all of them on one sheet."""
    cfg.MODEL.WEIGHTS = str(output / "model_final.pth")
    predictor, labels, pictures = Predictor(cfg), readable_names(names), []
    records = DatasetCatalog.get(DATASET)
    for record, name in zip(records, picture_names([Path(record["file_name"]) for record in records]), strict=True):
        try:
            image = read_record(record)
            found = predictor(image)
        except ImageError:  # which the evaluation named
            continue
        truth = []
        for entry in record["annotations"]:
            box = BoxMode.convert(entry["bbox"], entry["bbox_mode"], BoxMode.XYXY_ABS)
            truth.append(Detection(tuple(box), entry["category_id"], labels[entry["category_id"]]))
        both = [draw(image, truth), draw(image, detections_of(found, names, threshold=0.5))]
        pictures.append(side_by_side(both, ["annotated", "detected"]))
        with replacing(output / "pictures" / name) as part:
            pictures[-1].save(part, format="JPEG", quality=92)
    overview = output / "overview.jpg"
    with replacing(overview) as part:
        grid(pictures, columns=3 if len(pictures) > 4 else 1, size=(760, 420)).save(part, format="JPEG", quality=92)
    return overview
