"""A detectron2 evaluator that computes COCO's metrics, or writes a submission for a test set."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from nasnet_det.detection.data.coco_format import check_results, read_annotations
from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.look import DatasetError, match_categories, warn_of_unusable
from nasnet_det.detection.data.registered import earlier_look, look_at_names
from nasnet_det.detection.evaluation.evaluation import Backend, IouType, Scores, evaluate, table
from nasnet_det.detection.evaluation.report import write_report
from nasnet_det.detection.evaluation.submission import OWN_RESULTS, RESULTS, write_submission
from nasnet_det.safe_io.copies import find_copies
from nasnet_det.safe_io.files import check_writable, expect_folder, write_json

logger = logging.getLogger(__name__)


class CocoEvaluator(DatasetEvaluator):
    """An evaluator of detections on a registered data set, on any number of processes.

    Args:
        dataset_name: a data set in detectron2's catalog, or one with a ``json_file`` in its metadata.
        output_dir: the folder of ``coco_instances_results.json`` and, for a test set, of the files for the server; None
            to write nothing.
        category_ids: the category id of each class that the model predicts; by default by ``classes``. Detections of a
            class whose id the data set does not have are not counted.
        iou_types: ``bbox``, and ``segm`` for a model that predicts masks.
        algorithm: the name in the files for the server.
        distributed: gather what all processes found.
        backend: see :func:`nasnet_det.detection.evaluation.evaluation.evaluate`.
        report: also write :mod:`a report <nasnet_det.detection.evaluation.report>` to ``output_dir/report``, or to
            ``report-segm`` for masks.
        classes: the model's class names in the order of its outputs, matched to the data set's categories by name; by
            default those of the training sets that it was looked at with, else the data set's own by ascending id.

    Raises:
        ValueError: for other ``iou_types``, and later on for ``segm`` of a model that predicts boxes only.
        OSError: if nothing can be written to ``output_dir``.
        OverwriteError: if a file of another kind is there.
        DatasetError: if the data set is not registered, its annotations are broken, or its classes are not the model's.
        CocoFormatError: if the file of a data set known by its metadata only breaks the format.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        category_ids: Sequence[int] | None = None,
        iou_types: Sequence[IouType] = ("bbox",),
        algorithm: str = "NASNet",
        distributed: bool = True,
        backend: Backend | None = None,
        classes: Sequence[str] | None = None,
        report: bool = False,
    ) -> None:
        if not {*iou_types} <= {*get_args(IouType)}:
            raise ValueError(f"iou_types is {iou_types!r}: expected a list of {' and '.join(get_args(IouType))}")
        if output_dir is not None:
            expect_folder(output_dir)
            check_writable(Path(output_dir, RESULTS), OWN_RESULTS)
        self.report = report
        self.dataset_name, self.output_dir = dataset_name, None if output_dir is None else Path(output_dir)
        self.iou_types, self.algorithm, self.distributed, self.backend = iou_types, algorithm, distributed, backend
        file: Any = None if dataset_name in DatasetCatalog else MetadataCatalog.get(dataset_name).get("json_file")
        look = None if file else earlier_look(dataset_name) or look_at_names(test=[dataset_name]).sets[0]
        self.annotations = look.data.content if look else read_annotations(file)
        self.records = look.records if look else []
        self._files = {record["image_id"]: record["file_name"] for record in self.records}
        categories = self.annotations["categories"]
        self._known = {category["id"] for category in categories}
        known = category_ids or (look.category_ids if look else ())
        self.category_ids: list[int | None] = list(known or [category["id"] for category in categories])
        if classes and category_ids is None:
            used = {entry["category_id"] for entry in self.annotations.get("annotations", [])}
            self.category_ids = match_categories(classes, categories, f"data set {dataset_name}", used)
        self.reset()

    def reset(self) -> None:
        """Clear the detections."""
        self._results: list[Record] = []
        self._unreadable: list[str] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add a batch: ``inputs`` with ``image_id``, ``outputs`` with ``instances`` in pixels of the original image."""
        for record, output in zip(inputs, outputs, strict=True):
            self._check_image(record)
            if record.get("unreadable"):
                self._unreadable.append(record["file_name"])
                continue
            instances = output["instances"].to(torch.device("cpu"))
            if "segm" in self.iou_types and not instances.has("pred_masks"):
                raise ValueError("iou_types has segm, but the model predicts boxes only: leave segm out")
            for result in instances_to_coco_json(instances, record["image_id"]):
                if result["category_id"] >= len(self.category_ids):
                    raise DatasetError(
                        f"the model predicts class number {result['category_id']}, but {self.dataset_name} has "
                        f"{len(self.category_ids)} classes: give the evaluator the model's class names"
                    )
                result["category_id"] = self.category_ids[result["category_id"]]
                if result["category_id"] in self._known:
                    self._results.append(result)

    def _check_image(self, record: Record) -> None:
        """Refuse an image that is not that of its id here: ids of two data sets are often the same."""
        name, given, own = self.dataset_name, record.get("file_name"), self._files.get(record["image_id"], "")
        if self._files and given not in (None, own) and not (own and find_copies([Path(given)], [Path(own)])):
            raise DatasetError(
                f"image {record['image_id']} of the loader is {given}, that of {name} is {own or 'not there'}: "
                "give loader and evaluator the same data set, with whole numbers that are all different as image_id"
            )

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Score the detections.

        Returns:
            for each IoU type the twelve metrics and ``AP-<category>``, in percent, NaN where undefined; empty for a
            test set, and on all processes except the main one.

        Raises:
            DatasetError: if no image could be read.
        """
        results, unreadable = self._results, self._unreadable
        if self.distributed and comm.get_world_size() > 1:
            comm.synchronize()
            gathered = comm.gather((results, unreadable), dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            results = [result for part in gathered for result in part[0]]
            unreadable = [name for part in gathered for name in part[1]]
        results = sorted(results, key=lambda result: result["image_id"])  # the same order on any number of processes
        check_results(results, self.annotations, f"detections on {self.dataset_name}")
        warn_of_unusable(self.dataset_name, unreadable, len(self.annotations["images"]))
        return self._score(results)

    def _score(self, results: list[Record]) -> OrderedDict[str, dict[str, float]]:
        if self.output_dir is not None:
            write_json(self.output_dir / RESULTS, results)
        if "annotations" not in self.annotations:
            self._submit(results)
            return OrderedDict()
        scores: dict[IouType, Scores] = {}
        for iou_type in self.iou_types:
            scores[iou_type] = evaluate(self.annotations, results, iou_type, self.backend)
        logger.info(f"{self.dataset_name}, {len(results)} detections, in percent:\n{table(scores)}")
        if self.report and self.output_dir is not None:
            for iou_type, found in scores.items():
                folder = self.output_dir / ("report" if iou_type == "bbox" else f"report-{iou_type}")
                page = write_report(folder, self.annotations, results, found, iou_type, self.records, self.dataset_name)
                logger.info(f"report: {page}")
        return OrderedDict((iou_type, found.percent()) for iou_type, found in scores.items())

    def _submit(self, results: list[Record]) -> None:
        if self.output_dir is None:
            logger.warning(f"{self.dataset_name} is scored by COCO's server; give an output_dir for its files")
            return
        path, archive = write_submission(results, self.output_dir, self.algorithm)
        logger.info(f"{self.dataset_name} is scored by COCO's server; written for it: {path}, {archive}")
