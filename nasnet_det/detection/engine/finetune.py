"""Fine-tuning on a folder of data: one call from the folder to a detector in one self-contained run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils.env import seed_all_rng

import nasnet_det
from nasnet_det.detection.config import ConfigError, find_config, read_config
from nasnet_det.detection.convert.checkpoint_files import write_safetensors
from nasnet_det.detection.data.catalog import register
from nasnet_det.detection.data.folders import open_dataset
from nasnet_det.detection.data.look import CocoData, DatasetError, Look
from nasnet_det.detection.data.registered import look_at_config
from nasnet_det.detection.engine.artefact import CONFIG, WEIGHTS, finish_folder
from nasnet_det.detection.engine.hooks import (
    AverageWeights,
    FixStatistics,
    KeepLast,
    Progress,
    Validate,
    validation_loss,
)
from nasnet_det.detection.engine.loggers import check_loggers, open_loggers
from nasnet_det.detection.engine.plan import CONFIGURED, PUBLISHED, DataFacts, Plan, make_plan
from nasnet_det.detection.engine.predictor import load_config, weights_in
from nasnet_det.detection.engine.run_folder import RUN, data_digest, image_digest, mark_run, read_run, split_of
from nasnet_det.detection.engine.trainer import ShortTrainer
from nasnet_det.detection.modeling.backbone import is_published
from nasnet_det.safe_io.files import exists, write_text
from nasnet_det.safe_io.locks import working_in
from nasnet_det.safe_io.values import format_names
from nasnet_det.weights import WeightsError
from nasnet_det.weights.published import resolve

#: The name of the checkpoint that a run is resumed from.
LAST = "last"


class FinetuneError(ValueError):
    """A fine-tuning that does not suit its output folder or its data; names both and what to do."""


@dataclass(frozen=True)
class Options:
    """Settings of a fine-tuning.

    Args:
        data: the folder, in COCO's, YOLO's or Pascal VOC's form.
        output: the run folder.
        model: a config's name or file.
        weights: ``auto`` (published ImageNet weights where they can be had, else random ones), ``published``, ``none``,
            or a detector's checkpoint or run folder.
        image_size, batch_size, epochs, patience: None to scale them to the data and the device.
        settings: keys of detectron2's config, which have the last word.
        val_share: share of the images for validation where the data has no split; 0 to validate on the training images.
        loggers: names of :data:`nasnet_det.detection.engine.loggers.LOGGERS`.
        seed: of the split, the weights, the order of images and their augmentation.
        device: ``cpu`` or ``cuda``; empty for a GPU if there is one.
    """

    data: Path
    output: Path
    model: str = "fpn_mobile"
    weights: str = "auto"
    image_size: int | None = None
    batch_size: int | None = None
    epochs: int | None = None
    patience: int | None = None
    settings: Mapping[str, Any] | None = None
    val_share: float = 0.2
    loggers: Sequence[str] = ("tensorboard",)
    seed: int = 0
    device: str = ""


#: The options that a run keeps when it is resumed.
_KEPT = tuple(field.name for field in fields(Options) if field.name not in ("data", "output", "loggers"))


class FinetuneTrainer(ShortTrainer):
    """The trainer with AdamW, averaged weights, validation, early stopping and one checkpoint to resume from.

    Args:
        cfg: the config.
        plan: of the run.
        look: the data sets looked at.
        loggers: names of loggers.
        resume: see the trainer's.
    """

    #: Those of the last evaluation are not of the best weights.
    keeps_results = False

    def __init__(self, cfg: CfgNode, plan: Plan, look: Look, loggers: Sequence[str] = (), resume: bool = False) -> None:
        self.plan, self.look, self.logger_names = plan, look, loggers
        #: COCO's numbers, in percent, of the best weights so far.
        self.scores: dict[str, float] = {}
        super().__init__(cfg, resume)

    def checkpoint_name(self) -> str:
        """Return the name of the only checkpoint."""
        return LAST

    def build_hooks(self) -> list[HookBase | None]:
        """Return the hooks of this trainer; the loggers are opened when the training starts."""
        cfg, model = self.cfg, self.checkpointer.model
        average = AverageWeights(model, self.plan.average_decay)
        self.validate = Validate(
            cfg.TEST.EVAL_PERIOD,
            self.plan.patience,
            average,
            self._evaluate,
            lambda: validation_loss(
                model, cfg, [record for name in cfg.DATASETS.TEST for record in self.look.test[name]]
            ),
            self._keep_best,
            Path(cfg.OUTPUT_DIR),
        )
        fixed = FixStatistics(cfg.SOLVER.MAX_ITER) if not self.plan.weights else None
        last = KeepLast(cfg.TEST.EVAL_PERIOD)
        return [hooks.LRScheduler(), fixed, average, self.validate, last, Progress()]

    def train(self) -> dict[str, float]:
        """Train until nothing becomes better or the schedule ends; return the scores of the best weights."""
        self.finished = self.validate.is_over()
        folder = Path(self.cfg.OUTPUT_DIR)
        self.validate.loggers = open_loggers(self.logger_names, folder, asdict(self.plan), self.start_iter)
        super().train()
        return self.scores

    def _evaluate(self) -> dict[str, float]:
        """Return the scores of boxes and, as ``segm_AP`` and so on, those of masks."""
        found = self.test(self.cfg, self.checkpointer.model)
        masks = {f"segm_{name}": value for name, value in found.get("segm", {}).items() if "-" not in name}
        return {**found["bbox"], **masks}

    def _keep_best(self, scores: Mapping[str, float]) -> None:
        """Write the model's present weights as the run's result."""
        self.scores = dict(scores)
        extras = self.checkpointer.extras
        state = self.checkpointer.model.state_dict()
        write_safetensors(Path(self.cfg.OUTPUT_DIR) / WEIGHTS, state, extras["config"], extras["categories"])

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, the best scores included."""
        return {**super().state_dict(), "scores": self.scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.scores = dict(state_dict["scores"])


def finetune(options: Options, resume: bool = False, log: Callable[[str], None] = print) -> dict[str, float]:
    """Train a detector on a folder of data; leave one folder that predicts, evaluates, exports and can be moved.

    Args:
        options: what is asked.
        resume: continue the run in ``options.output``, with its own plan.
        log: gets the plan and other lines for a person.

    Returns:
        COCO's numbers, in percent, of the best weights on the validation images.

    Raises:
        FinetuneError: if the output folder holds a run and ``resume`` is False, or none, or one of other data; or
            without the GPU that is asked for.
        RunFolderError: if it holds something else.
        FolderInUseError: if another process works in it.
        DatasetError, ConfigError, WeightsError, LoggerError: for what cannot be used, before training starts.
    """
    check_loggers(options.loggers)
    run = _run_to_resume(options.output, resume)
    if run is not None:
        options = _as_begun(options, run)
    train, val, classes = open_dataset(options.data, val_share=options.val_share, seed=options.seed)
    val = val if options.val_share else train
    for data in (train, val):
        if not data.content["images"]:
            raise DatasetError(f"{data.origin} lists no image of data set {data.name}")
        if "annotations" not in data.content:
            raise DatasetError(f"{data.origin} has no 'annotations': a list of images only is not enough to train with")
    digest, names = data_digest(options.data, train, val), (register(train), register(val))
    plan = _plan(options, train) if run is None else _plan_of_run(run, digest, options)
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise FinetuneError(
            f"{options.output} is for a GPU, and PyTorch sees none here: give --device cpu and a new run"
        )
    cfg = _config(options, plan, *names, len(classes), run is not None)
    FinetuneTrainer.check(cfg)
    look = look_at_config(cfg)
    if run is None:  # weights last, because they may take minutes to download
        plan = _plan(options, train, _weights(options, log))
        cfg = _config(options, plan, *names, len(classes), False)
    log(_describe(options.data, train, val, classes))
    log(f"plan:\n{plan.table()}")
    for key, value in (options.settings or {}).items():
        log(f"  --set           {key}={value}")

    with working_in(options.output):
        seed_all_rng(cfg.SEED)
        trainer = FinetuneTrainer(cfg, plan, look, options.loggers, resume)
        trainer.resume_or_load(resume=resume)
        if run is None:  # what fails before this leaves no run
            described = {"version": nasnet_det.__version__, "data": str(options.data), "digest": digest}
            described["images"] = image_digest(options.data, train, val)
            mark_run(options.output, "finetune", {**described, "options": _kept(options), "plan": asdict(plan)})
            write_text(options.output / CONFIG, cfg.dump())
        if resume and trainer.start_iter:
            log(f"continuing after step {trainer.start_iter} of {cfg.SOLVER.MAX_ITER}")
        scores = trainer.train()
        finish_folder(
            options.output, trainer.checkpointer.extras["categories"], scores, plan.table(), look.test[names[1]]
        )
        return scores


def _describe(root: Path, train: CocoData, val: CocoData, classes: Sequence[str]) -> str:
    numbers = [len(data.content["images"]) for data in (train, val)]
    same = " (the same: scores are of pictures that were learnt)" if val is train else ""
    return f"{root}: {numbers[0]} images to train on, {numbers[1]} to validate on{same}; {len(classes)} classes: " + (
        format_names(classes)
    )


def _kept(options: Options) -> dict[str, Any]:
    """Return the options that a run keeps, in the types of JSON; None for those that are not given."""
    found: dict[str, Any] = json.loads(json.dumps({name: getattr(options, name) or None for name in _KEPT}))
    return found


def _run_to_resume(output: Path, resume: bool) -> dict[str, Any] | None:
    """Return what is recorded of the run to be resumed, if one is.

    Raises:
        FinetuneError: if there is none, or one that has learnt something would be written over.
    """
    run = read_run(output, "finetune")
    if resume:
        if run is None:
            raise FinetuneError(f"{output} holds no run to resume: leave out --resume")
        return run
    # A run that an error ended at the start has neither.
    if run is not None and ((output / WEIGHTS).exists() or (output / "last_checkpoint").exists()):
        raise FinetuneError(f"{output} holds a run: add --resume to continue it, or give another --output")
    return None


def _as_begun(options: Options, run: Mapping[str, Any]) -> Options:
    """Return the options with the division of the data that a run to be resumed has.

    Raises:
        FinetuneError: for an option that is given again with another value.
    """
    given, default = _kept(options), _kept(Options(options.data, options.output))
    kept = run.get("options", given)
    if changed := [name for name in _KEPT if given[name] not in (default[name], kept.get(name, given[name]))]:
        raise FinetuneError(
            f"{options.output} was begun with another value of {format_names(changed)}: leave it out to continue, or "
            "start a new run in another --output, with --weights from this one"
        )
    return replace(options, **split_of(run))


def _plan_of_run(run: Mapping[str, Any], digest: str, options: Options) -> Plan:
    """Return the plan of a run to be resumed, whose data must be the same."""
    if run.get("digest") != digest:
        raise FinetuneError(
            f"{options.output} is a run on other images, boxes or classes than {options.data} has now: start a new run "
            "in another --output, with --weights from this one"
        )
    try:
        return Plan(**run["plan"])
    except (LookupError, TypeError) as error:
        raise FinetuneError(f"{options.output / RUN} has no plan that can be followed ({error})") from None


def _plan(options: Options, train: CocoData, weights: str = "") -> Plan:
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    given = {name: getattr(options, name) for name in ("image_size", "batch_size", "epochs", "patience")}
    return make_plan(DataFacts.of(train.content), options.model, weights, device, **given)


def _weights(options: Options, log: Callable[[str], None]) -> str:
    """Return the initial weights in a plan's terms, after a look at whether they can be had."""
    if options.weights == "none":
        return ""
    if options.weights not in ("auto", PUBLISHED):
        path = Path(options.weights)
        if (path / "config.yaml").is_file():
            return str(weights_in(path))
        if not exists(path):
            raise FinetuneError(
                f"--weights {options.weights}: no such file; give auto, published, none, a checkpoint or a run folder"
            )
        return options.weights
    nasnet = read_config(options.model, _pairs(options.settings or {})).MODEL.NASNET
    if nasnet.PRETRAINED not in ("", PUBLISHED):
        return CONFIGURED
    try:
        if not is_published(nasnet):
            raise WeightsError("none are published for this network")
        resolve(nasnet.NETWORK)
    except WeightsError as error:
        if options.weights == PUBLISHED:
            raise
        reason = str(error).partition(";")[0]
        log(f"note: training starts from random weights, as published ones are not available ({reason})")
        return ""
    return PUBLISHED


def _config(options: Options, plan: Plan, train: str, val: str, classes: int, resumed: bool) -> CfgNode:
    """Return the saved config of a run to be resumed, or else the plan over the model's, ``--set`` last."""
    own = {"DATASETS.TRAIN": (train,), "DATASETS.TEST": (val,), "OUTPUT_DIR": str(options.output)}
    if decided := [key for key in options.settings or () if key in own]:
        raise ConfigError(f"{format_names(decided)} follows from the folders given: leave it out of --set")
    if resumed:
        return read_config(options.output / CONFIG, _pairs(own))
    counts = {"MODEL.ROI_HEADS.NUM_CLASSES": classes, "MODEL.RETINANET.NUM_CLASSES": classes}
    workers = {"DATALOADER.NUM_WORKERS": 0 if plan.device == "cpu" else 4}
    planned, model = plan.settings(), find_config(plan.model)
    if plan.halves_anchors:
        sizes = read_config(model).MODEL.ANCHOR_GENERATOR.SIZES
        planned["MODEL.ANCHOR_GENERATOR.SIZES"] = [[side / 2 for side in of_level] for of_level in sizes]
    others = {"SEED": options.seed, "MODEL.NASNET.LABEL_IDS": [], **workers}
    cfg = load_config(model, _pairs({**planned, **counts, **others, **(options.settings or {}), **own}))
    if cfg.MODEL.NASNET.IMAGE_SIZE[0]:  # the paper's detector resizes inside the model
        cfg.MODEL.NASNET.IMAGE_SIZE = [plan.image_size, plan.image_size]
    return cfg


def _pairs(values: Mapping[str, Any]) -> list[Any]:
    return [part for pair in values.items() for part in pair]
