"""detectron2's evaluator with this package's backend: COCO's numbers, or for a test set what the server takes."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from nasnet_det.detection.data.coco_format import (
    Record,
    check_results,
    named,
    read_annotations,
    write_json,
    write_submission,
)
from nasnet_det.detection.evaluation.evaluation import Backend, IouType, Scores, evaluate, table

logger = logging.getLogger(__name__)


class CocoEvaluator(DatasetEvaluator):
    """Evaluate detections on a registered data set in COCO's format, on any number of processes.

    Args:
        dataset_name: a registered data set with ``json_file`` in its metadata.
        output_dir: where ``coco_instances_results.json`` and, for a test set, the files for the server go; None for
            nowhere.
        category_ids: the category id of each class that the model predicts; by default the data set's, in order. A
            class whose id the data set does not have counts for nothing.
        iou_types: ``bbox``, and ``segm`` for a model that predicts masks.
        algorithm: the name in the files for the server.
        distributed: gather what all processes found.
        backend: see :func:`nasnet_det.detection.evaluation.evaluation.evaluate`.

    Raises:
        ValueError: if the data set has no annotation file.
        CocoFormatError: if that file breaks the format.
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
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        if not metadata.get("json_file"):
            raise ValueError(f"data set {dataset_name} has no COCO annotation file (json_file) in its metadata")
        self.dataset_name, self.output_dir = dataset_name, None if output_dir is None else Path(output_dir)
        self.iou_types, self.algorithm, self.distributed, self.backend = iou_types, algorithm, distributed, backend
        self.annotations = read_annotations(metadata.json_file)
        known = sorted(entry["id"] for entry in self.annotations["categories"])
        self.category_ids = list(known if category_ids is None else category_ids)
        self._known = set(known)
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._results: list[Record] = []
        self._unreadable: list[str] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in a batch: ``inputs`` with ``image_id``, ``outputs`` with ``instances`` in the image's own pixels."""
        for record, output in zip(inputs, outputs, strict=True):
            if record.get("unreadable"):
                self._unreadable.append(record["file_name"])
                continue
            instances = output["instances"].to(torch.device("cpu"))
            for result in instances_to_coco_json(instances, record["image_id"]):
                result["category_id"] = self.category_ids[result["category_id"]]
                if result["category_id"] in self._known:
                    self._results.append(result)

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Score what was taken in.

        Returns:
            for each IoU type the twelve numbers and ``AP-<category>``, in percent, NaN where there was nothing to
            measure; nothing for a test set, and on every process but the main one.
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
        if unreadable:
            logger.warning(
                f"{self.dataset_name}: {len(unreadable)} images could not be read and count as without detections: "
                f"{named(sorted(unreadable), limit=20)}"
            )
        return self._score(results)

    def _score(self, results: list[Record]) -> OrderedDict[str, dict[str, float]]:
        if self.output_dir is not None:
            write_json(self.output_dir / "coco_instances_results.json", results)
        if "annotations" not in self.annotations:
            self._submit(results)
            return OrderedDict()
        scores: dict[str, Scores] = {}
        for iou_type in self.iou_types:
            scores[iou_type] = evaluate(self.annotations, results, iou_type, self.backend)
        logger.info(f"{self.dataset_name}, {len(results)} detections, in percent:\n{table(scores)}")
        return OrderedDict((iou_type, found.percent()) for iou_type, found in scores.items())

    def _submit(self, results: list[Record]) -> None:
        if self.output_dir is None:
            logger.warning(f"{self.dataset_name} is scored by COCO's server; give an output_dir for its files")
            return
        path, archive = write_submission(results, self.output_dir, self.algorithm)
        logger.info(f"{self.dataset_name} is scored by COCO's server; written for it: {path}, {archive}")
