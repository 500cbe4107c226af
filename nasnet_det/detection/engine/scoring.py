"""A detector on a folder of data: its results on the validation images, to be scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nasnet_det.detection.data.folders import open_dataset
from nasnet_det.detection.data.look import CocoData
from nasnet_det.detection.data.registered import look_at_config, register
from nasnet_det.detection.engine.predictor import Predictor, load_config
from nasnet_det.detection.engine.trainer import DetectorTrainer
from nasnet_det.detection.evaluation.evaluator import CocoEvaluator


def detect_on_folder(detector: str, root: Path, output: Path, weights: str = "") -> tuple[CocoData, Path]:
    """Run a detector on the validation images of a folder.

    Args:
        detector: a run folder, a checkpoint that holds its config, or a config.
        root: a folder in COCO's, YOLO's or Pascal VOC's form; where it has no split, the images are those that
            ``nasnet-det finetune`` keeps for validation.
        output: the folder of the results.
        weights: the checkpoint of a config.

    Returns:
        the validation data, and the file of COCO results.

    Raises:
        DatasetError: for data that cannot be used, or of other classes than the detector's.
    """
    cfg = load_config(detector, weights=weights)
    predictor = Predictor(cfg)
    _, val, names = open_dataset(root)
    classes = [str(category["name"]) for category in predictor.categories] or names
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (register(val),)
    cfg.DATALOADER.NUM_WORKERS = 0 if cfg.MODEL.DEVICE == "cpu" else cfg.DATALOADER.NUM_WORKERS
    look_at_config(cfg, classes, training=False)
    iou_types: Any = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    evaluator = CocoEvaluator(cfg.DATASETS.TEST[0], output, iou_types=iou_types, classes=classes)
    cfg.MODEL.NASNET.FUSED = False  # the predictor's model is in fused form already where that was asked
    DetectorTrainer.test(cfg, predictor.model, [evaluator])
    return val, output / "coco_instances_results.json"
