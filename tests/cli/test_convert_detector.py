"""``convert-detector``: from a TF checkpoint to detections of a detectron2 model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from nasnet_det.cli.convert_detector import main
from nasnet_det.detection.config import read_config
from nasnet_det.detection.engine.trainer import Checkpointer


@torch.no_grad()
def test_the_converted_model_detects_what_tensorflow_does(golden: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    folder = golden / "tfod_faster_rcnn_nas_400"
    assert main([str(folder), str(tmp_path)]) == 0
    cfg = read_config(tmp_path / "config.yaml", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    pixels = np.asarray(Image.open(folder / "image.png").convert("RGB"))
    height, width = pixels.shape[:2]
    found = model([{"image": torch.from_numpy(pixels.transpose(2, 0, 1).copy())}])[0]["instances"]
    # In COCO's own ids: the data set's class of each, and of TF's only those whose id exists.
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    outputs = np.load(folder / "outputs.npz")
    labels = outputs["det.detection_classes"][0].astype(int) + 1
    kept = [i for i, label in enumerate(labels) if label in ids]
    assert found.pred_classes.tolist() == [ids[labels[i]] for i in kept]
    np.testing.assert_allclose(found.scores, outputs["det.detection_scores"][0][kept], atol=1e-5)
    boxes = outputs["det.detection_boxes"][0][kept][:, [1, 0, 3, 2]] * [width, height, width, height]
    np.testing.assert_allclose(found.pred_boxes.tensor, boxes, atol=1e-4 * width)


def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
