"""Looks at registered data sets, by name or by a config: made once, and kept for the loaders and the evaluators."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from nasnet_det.detection.data.catalog import categories, read_registered
from nasnet_det.detection.data.columns import CocoFormatError, Record
from nasnet_det.detection.data.inspection import look_at
from nasnet_det.detection.data.look import DatasetError, Fatal, Look, SetLook, Trouble, format_counts, join
from nasnet_det.detection.lazy import check_training
from nasnet_det.safe_io.values import collection_paused, format_value

logger = logging.getLogger(__name__)

#: What ``INPUT.MASK_FORMAT`` may be; empty where there are no masks.
_MASK_FORMATS = ("", "polygon", "bitmask")
#: Looks at single data sets by name and use, each with the state that it is valid for.
_looks: dict[tuple[str, bool], tuple[Any, SetLook]] = {}


def look_at_config(
    cfg: CfgNode, classes: Sequence[str] | None = None, training: bool = True, test: Sequence[str] | None = None
) -> Look:
    """Look at the data sets of a config, before anything long begins: see :func:`look_at_names`.

    Args:
        cfg: names them in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        classes: the class names of the model, if they are known.
        training: False to look at the test sets only.
        test: names of test sets, instead of the config's.
    """
    key, number = model_classes(cfg)
    train, test = cfg.DATASETS.TRAIN if training else (), cfg.DATASETS.TEST if test is None else test
    if not (train if training else test):
        raise DatasetError(f"DATASETS.{'TRAIN' if training else 'TEST'} names no data set")
    if not classes and not training:
        classes = learned_classes(cfg)
    return look_at_names(
        train,
        test,
        number,
        classes,
        cfg.INPUT.MASK_FORMAT if cfg.MODEL.MASK_ON else "",
        keep_empty=not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        key=key,
    )


def look_at_names(
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    masks: str = "",
    keep_empty: bool = False,
    key: str = "MODEL.ROI_HEADS.NUM_CLASSES",
) -> Look:
    """Look at registered data sets, together, and log the report; the loaders of a run do not look again.

    Args:
        train, test: their names; a training set that is named several times is trained on as often.
        num_classes, classes, key: of the model: see :func:`nasnet_det.detection.data.look.join`.
        masks, keep_empty: see :func:`nasnet_det.detection.data.inspection.look_at`.

    Raises:
        DatasetError: with every fatal trouble.
    """
    if masks not in _MASK_FORMATS:
        raise DatasetError(f"masks is {masks!r}; expected one of {', '.join(map(repr, _MASK_FORMATS))}")
    before = {found for _, found in _looks.values()}
    broken: dict[str, Trouble] = {}
    looks: dict[bool, list[SetLook]] = {True: [], False: []}
    for training, names in ((True, train), (False, test)):
        for name in names if training else dict.fromkeys(names):
            try:
                looks[training].append(_look(name, training, masks, keep_empty, num_classes))
            except DatasetError as error:
                broken[str(error)] = Trouble("", str(error), done=Fatal())
    look = join(looks[True], looks[False], num_classes, classes, key)
    look.troubles[:0] = broken.values()
    look.refuse_fatal()
    if not before.issuperset(look.sets):
        logger.info(f"data sets:\n{format_counts(look.sets)}")
        for trouble in look.troubles:
            logger.warning(str(trouble))
    return look


def training_records(
    names: str | Sequence[str],
    test: str = "",
    num_classes: int | None = None,
    label_ids: Sequence[int] = (),
    train: Any = None,
    **more: Any,
) -> list[Record]:
    """Return the records to train on, for LazyConfig; a test set is looked at with them: see :func:`look_at_names`.

    Args:
        names, test: of data sets.
        num_classes, label_ids: those of the model's heads.
        train: the section of the config, which is then checked: see :func:`nasnet_det.detection.lazy.check_training`.
        more: the other arguments of :func:`look_at_names`.

    Raises:
        DatasetError: for names that are none, and as :func:`look_at_names` does.
    """
    sets = [names] if isinstance(names, str) else list(names or ())
    if not sets:
        raise DatasetError("dataloader.train.dataset.names names no data set")
    judged = [] if test == "" else [_one(test)]
    records = look_at_names(sets, judged, len(label_ids) or num_classes, **more).train
    if train is not None:
        check_training(train)
    return records


def test_records(name: str, **more: Any) -> list[Record]:
    """Return the records of a test set, for LazyConfig: see :func:`look_at_names`."""
    return look_at_names(test=[_one(name)], **more).test[name]


def _one(name: Any) -> str:
    if not isinstance(name, str):
        raise DatasetError(f"dataloader.test.dataset.name is {format_value(name)}: expected the name of one data set")
    return name


def model_classes(cfg: CfgNode) -> tuple[str, int]:
    """Return the config key and the number of the data set's classes that the model tells apart."""
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        return "MODEL.RETINANET.NUM_CLASSES", cfg.MODEL.RETINANET.NUM_CLASSES
    if labels := cfg.MODEL.NASNET.LABEL_IDS:
        return "MODEL.NASNET.LABEL_IDS to [], and MODEL.ROI_HEADS.NUM_CLASSES", len(labels)
    return "MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES


def num_classes(cfg: CfgNode) -> int:
    """Return the number of the data set's classes that the model of a config tells apart."""
    return model_classes(cfg)[1]


def learned_classes(cfg: CfgNode) -> list[str] | None:
    """Return the class names of the first of ``DATASETS.TRAIN``, in the order of the model's outputs.

    None where they are unknown, as the training data need not be there to evaluate, or not as many as the model's.
    """
    names = class_names(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None
    return names if names and len(names) == num_classes(cfg) else None


def class_names(names: str | Sequence[str]) -> list[str] | None:
    """Return the class names of a model that was trained on data sets, for LazyConfig; None if they are unknown."""
    with contextlib.suppress(CocoFormatError):
        return [category["name"] for category in categories(names if isinstance(names, str) else names[0])] or None
    return None


def earlier_look(name: str) -> SetLook | None:
    """Return the look that was taken at a registered data set as a test set; None if none was, or it has changed."""
    (stamp, *_), found = _looks.get((name, False), ((None,), None))
    return found if found and stamp == _stamp(name) else None


def _look(name: str, training: bool, masks: str, keep_empty: bool, num_classes: int | None) -> SetLook:
    """Look at one data set, or return the earlier look at it."""
    valid = (_stamp(name), masks, keep_empty, num_classes)
    known = _looks.get((name, training))
    if known and known[0] == valid:
        return known[1]
    with collection_paused():
        found = look_at(read_registered(name, num_classes), training, masks, keep_empty)
    if training:  # the annotations of a large set take gigabytes that only its records need
        found.data = replace(found.data, content={"categories": found.data.content["categories"]})
    _looks[name, training] = valid, found
    return found


def _stamp(name: str) -> Any:
    """Return a value that changes when a data set is registered again or its file is written."""
    if name not in DatasetCatalog:
        return None
    path = Path(MetadataCatalog.get(name).get("json_file") or "")
    stat = path.stat() if path.is_file() else None
    return DatasetCatalog[name], stat and (stat.st_mtime_ns, stat.st_size)
