"""Exported detectors: of fixed shape, and the same detections as the detector's own code gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.modeling import build_model

from nasnet_det.detection.engine.predictor import load_config
from nasnet_det.export import description, save_program
from nasnet_det.export.detector import detector_program, fixed_detector
from nasnet_det.export.operators import suppress

CONFIGS = Path(__file__).parents[2] / "configs"
SIZE = (96, 128)
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.NASNET.NUM_CELLS", 1, "MODEL.NASNET.NUM_FILTERS", 4]
SMALL += ["MODEL.NASNET.PRETRAINED", "", "MODEL.ROI_HEADS.NUM_CLASSES", 5, "MODEL.NASNET.NORM", "LN"]
SMALL += ["TEST.DETECTIONS_PER_IMAGE", 40]
# Fewer labels than the network has, in another order; more proposals than go through at once.
PAPER = ["MODEL.NASNET.NETWORK", "nasnet_a_mobile", "MODEL.NASNET.LABEL_IDS", [4, 1, 2], "MODEL.RPN.CONV_DIMS", [8]]
PAPER += ["MODEL.RPN.POST_NMS_TOPK_TEST", 10, "MODEL.NASNET.CHUNK_SIZE", 4, "MODEL.NASNET.IMAGE_SIZE", list(SIZE)]
PYRAMID = ["MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.RPN.PRE_NMS_TOPK_TEST", 30]
PYRAMID += ["MODEL.RPN.POST_NMS_TOPK_TEST", 20, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.1]

SHARPER = {"paper": 3.0, "pyramid": 300.0}


def detector(kind: str) -> tuple[Any, Any]:
    """A small detector whose random weights find boxes of many places, sizes and scores."""
    file, opts = ("nasnet_frcnn.yaml", PAPER) if kind == "paper" else ("fpn_mobile.yaml", PYRAMID)
    cfg = load_config(CONFIGS / file, [*SMALL, *opts])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("objectness.weight", "objectness_logits.weight")):
                parameter.mul_(100)
            elif name.endswith(("class_layer.weight", "cls_score.weight")):
                parameter.mul_(SHARPER[kind])
    return model, cfg


@pytest.mark.parametrize("kind", ["paper", "pyramid"])
def test_detections_are_those_of_the_detectors_own_code(kind: str) -> None:
    model, _ = detector(kind)
    fixed = fixed_detector(model, SIZE)
    found = []
    for seed in range(4):
        image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed)) * 255
        with torch.no_grad():
            (result,) = model([{"image": image, "height": SIZE[0], "width": SIZE[1]}])
            boxes, scores, classes, count = fixed(image)
        instances, number = result["instances"], int(count)
        found.append(number)
        assert number == len(instances) and boxes.shape == (40, 4)
        torch.testing.assert_close(boxes[:number], instances.pred_boxes.tensor)
        torch.testing.assert_close(scores[:number], instances.scores)
        assert torch.equal(classes[:number], instances.pred_classes)
        assert not boxes[number:].any() and not scores[number:].any() and not classes[number:].any()
    assert max(found) > 2 and min(found) < 40, "the test sees detections and empty places"


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("paper", ".onnx"),
        pytest.param("pyramid", ".onnx", marks=pytest.mark.slow),
        pytest.param("paper", ".pt2", marks=pytest.mark.slow),
        pytest.param("pyramid", ".pt2", marks=pytest.mark.slow),
    ],
)
def test_an_exported_detector_gives_the_same(kind: str, ending: str, tmp_path: Path) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    model, cfg = detector(kind)
    errors = save_program(detector_program(model, cfg, SIZE), tmp_path / f"detector{ending}")
    assert max(errors.values()) < 1e-3
    said = description(tmp_path / f"detector{ending}")
    assert said["image_size"] == list(SIZE) and said["channels"] == "RGB"
    assert said["outputs"] == ["boxes", "scores", "classes", "num_detections"]


def test_suppression_of_several_sets_is_that_of_each() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]]]).repeat(2, 1, 1)
    scores = torch.tensor([[0.5, 0.9, 0.7], [0.9, 0.9, 0.1]])
    assert suppress(boxes, scores, 0.5, 3).tolist() == [[1, 2, -1], [0, 2, -1]]
    assert suppress(boxes, scores, 0.5, 1).tolist() == [[1], [0]]


def test_what_cannot_be_exported_is_named() -> None:
    model, cfg = detector("pyramid")
    with pytest.raises(ValueError, match="multiples of 32"):
        fixed_detector(model, (96, 100))
    with pytest.raises(ValueError, match="one must be given"):
        detector_program(model, cfg)
    model.roi_heads = torch.nn.Identity()
    with pytest.raises(ValueError, match="cannot be exported"):
        fixed_detector(model, SIZE)
