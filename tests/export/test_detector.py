"""Exported detectors: images of any size and number, and the detections of the detector's own code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment

pytest.importorskip("detectron2")

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from pycocotools.mask import iou

from nasnet_det.detection.engine.predictor import load_config
from nasnet_det.export import PackageError, available, load_package, read_info, save_package
from nasnet_det.export.detector import detector_program, exportable_detector, sample_pictures
from nasnet_det.export.fixed_detections import found_again
from nasnet_det.export.operators import suppress
from nasnet_det.export.quantization import quantize_onnx
from nasnet_det.export.runner import PackagedDetector
from tests.helpers import EVERY_STEP, ONE_BLOCK

CONFIGS = Path(__file__).parents[2] / "configs"
SIZE = (96, 128)
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.NASNET.NUM_CELLS", 1, "MODEL.NASNET.NUM_FILTERS", 4]
SMALL += ["MODEL.NASNET.PRETRAINED", "", "MODEL.ROI_HEADS.NUM_CLASSES", 5, "MODEL.NASNET.NORM", "FrozenBN"]
SMALL += ["TEST.DETECTIONS_PER_IMAGE", 40, "MODEL.NASNET.GENOTYPE", EVERY_STEP.to_json()]
# Fewer labels than the network has, in another order; more proposals than go through at once.
PAPER = ["MODEL.NASNET.NETWORK", "nasnet_a_mobile", "MODEL.NASNET.LABEL_IDS", [4, 1, 2], "MODEL.RPN.CONV_DIMS", [8]]
PAPER += ["MODEL.RPN.POST_NMS_TOPK_TEST", 10, "MODEL.NASNET.CHUNK_SIZE", 4, "MODEL.NASNET.IMAGE_SIZE", list(SIZE)]
PYRAMID = ["MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.RPN.PRE_NMS_TOPK_TEST", 30]
PYRAMID += ["MODEL.RPN.POST_NMS_TOPK_TEST", 20, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.1]
CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
CASCADE += ["MODEL.ROI_BOX_CASCADE_HEAD.IOUS", [0.5, 0.6]]
CASCADE += ["MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0]]]
MASKS = ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8]
# Two levels and few steps, which are exported in less time.
TWO_LEVELS = ["MODEL.NASNET.OUT_FEATURES", ["c4", "c5"], "MODEL.FPN.IN_FEATURES", ["c4", "c5"]]
TWO_LEVELS += ["MODEL.RPN.IN_FEATURES", ["p4", "p5"], "MODEL.ROI_HEADS.IN_FEATURES", ["p4", "p5"]]
TWO_LEVELS += ["MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32]], "MODEL.NASNET.GENOTYPE", ONE_BLOCK.to_json()]

#: Of weights that find boxes of several classes.
SEED = {"paper": 0, "pyramid": 9}
SHARPER = {"paper": 3.0, "pyramid": 300.0}
SIZES = ((96, 128), (64, 64), (101, 75), (50, 160), (200, 131))


def detector(kind: str, options: Sequence[Any] = ()) -> tuple[Any, Any]:
    """Return a small detector whose random weights find boxes of many positions, sizes and scores."""
    file, opts = ("nasnet_frcnn.yaml", PAPER) if kind == "paper" else ("fpn_mobile.yaml", PYRAMID)
    cfg = load_config(CONFIGS / file, [*SMALL, *opts, *options])
    torch.manual_seed(SEED[kind])
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("objectness.weight", "objectness_logits.weight")):
                parameter.mul_(100)
            elif name.endswith(("class_layer.weight", "cls_score.weight", "mask_head.predictor.weight")):
                parameter.mul_(SHARPER[kind])
    settle(model)
    return model, cfg


def settle(model: torch.nn.Module) -> None:
    """Give the frozen norms the statistics of random images: maps have one scale, and rounding is not amplified."""

    def measure(norm: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3), unbiased=False).clamp(min=0.01))

    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.inference_mode():
        model([{"image": random_images(SIZE)[0], "height": SIZE[0], "width": SIZE[1]}])
    for hook in hooks:
        hook.remove()


def random_images(size: tuple[int, int]) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(size[0])) * 255


RUNTIMES = [name for name in ("onnxruntime", "openvino") if name in available(detector=True)]


def same_detections(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    """Return whether detections pair off; near-equal scores may come in another order."""
    same = found[2][:, None] == expected[2]
    same &= (found[1][:, None] - expected[1]).abs() < 1e-4
    same &= ((found[0][:, None] - expected[0]).abs() < 1e-2).all(dim=2)
    for masks, others in zip(found[3:], expected[3:], strict=True):
        same &= ((masks[:, None] - others).abs() < 1e-3).all(dim=3).all(dim=2)
    rows, columns = linear_sum_assignment(same.numpy(), maximize=True)
    return bool(same[rows, columns].all())


@torch.inference_mode()
def compare(model: Any, run: Callable[[torch.Tensor], Any], size: tuple[int, int]) -> list[int]:
    """Compare a function with the detector's own code on two images; return their numbers of detections."""
    images = random_images(size)
    results = model.inference(inputs(images), do_postprocess=False)
    outputs = run(images)
    for number, instances in enumerate(results):
        boxes, scores, classes, count, *masks = (output[number] for output in outputs)
        found = (boxes, scores, classes, *masks)
        expected = [instances.pred_boxes.tensor, instances.scores, instances.pred_classes]
        expected += [instances.pred_masks[:, 0]] if instances.has("pred_masks") else []
        assert boxes.shape == (40, 4) and not any(field[count:].any() for field in found)
        assert count == len(instances)
        assert same_detections([field[:count] for field in found], expected)
    return list(map(int, outputs[3]))


def inputs(images: torch.Tensor) -> list[dict[str, Any]]:
    return [{"image": image, "height": image.shape[1], "width": image.shape[2]} for image in images]


@torch.inference_mode()
def leave_one_image_without_detections(model: Any) -> None:
    """Raise the score threshold of a cascade's last stage above all scores of one image of :data:`SIZES`."""
    predictor = model.roi_heads.box_predictor[-1]
    found = [one for size in SIZES for one in model.inference(inputs(random_images(size)), do_postprocess=False)]
    lowest, next_lowest, *_ = sorted(float(instances.scores.max()) for instances in found)
    predictor.test_score_thresh = (lowest + next_lowest) / 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("paper", []),
        ("paper", ["MODEL.NASNET.IMAGE_SIZE", [0, 0]]),
        ("pyramid", []),
        ("pyramid", MASKS),
        ("pyramid", [*CASCADE, *MASKS, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True]),
    ],
)
def test_detections_are_those_of_the_detectors_own_code(kind: str, options: list[Any]) -> None:
    model, _ = detector(kind, options)
    assert sum(sum(compare(model, exportable_detector(model), size)) for size in ((96, 128), (101, 75))) > 4


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The paper's detector and its package."""
    if not RUNTIMES:
        pytest.skip("takes a runtime of ONNX files")
    model, cfg = detector("paper")
    program = detector_program(model, cfg, categories=named_classes(3))
    return model, save_package(program, tmp_path_factory.mktemp("detector") / "paper", RUNTIMES[0]).path


def check_everywhere(model: Any, path: Path) -> list[int]:
    """Compare a package with its detector at five sizes in every runtime; return the numbers of detections."""
    counts: list[int] = []
    for runtime in RUNTIMES:
        package = load_package(path, runtime)
        counts = [count for size in SIZES for count in compare(model, package, size)]
        assert sum(counts) > 10
    return counts


def test_one_file_takes_any_images_in_every_runtime(packaged: tuple[Any, Path]) -> None:
    check_everywhere(*packaged)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_image_that_is_not_finite_has_no_detections(packaged: tuple[Any, Path], runtime: str) -> None:
    images = random_images(SIZE)
    images[1, 0, 2, 3] = torch.nan
    assert [bool(count) for count in load_package(packaged[1], runtime)(images)[3]] == [True, False]


@pytest.mark.slow
@pytest.mark.skipif("inductor" not in available(detector=True), reason="compiling needs a C++ compiler")
@pytest.mark.parametrize(
    ("kind", "options"),
    [("paper", []), ("paper", ["MODEL.NASNET.IMAGE_SIZE", [0, 0]]), ("pyramid", [*TWO_LEVELS, *CASCADE, *MASKS])],
)
def test_a_compiled_detector_takes_any_images(kind: str, options: list[Any], tmp_path: Path) -> None:
    model, cfg = detector(kind, options)
    package = load_package(save_package(detector_program(model, cfg, SIZE), tmp_path / "detector", "inductor").path)
    assert sum(count for size in SIZES for count in compare(model, package, size)) > 10
    assert package(random_images(SIZE)[:1])[0].shape == (1, 40, 4)


@pytest.fixture(scope="module")
def with_masks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small Cascade Mask R-CNN and its package."""
    if not RUNTIMES:
        pytest.skip("takes a runtime of ONNX files")
    model, cfg = detector("pyramid", [*CASCADE, *MASKS, *TWO_LEVELS, "INPUT.MIN_SIZE_TEST", 80])
    leave_one_image_without_detections(model)
    program = detector_program(model, cfg, categories=named_classes(5))
    return model, save_package(program, tmp_path_factory.mktemp("masks") / "masks", RUNTIMES[0]).path


def test_a_quantized_detector_is_near_its_own_code(with_masks: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = with_masks
    quantized = Path(shutil.copy(path, tmp_path / "int8.onnx"))
    images = sample_pictures(4, (96, 128))
    quantize_onnx(quantized, images.split(1))
    assert read_info(quantized).description == read_info(path).description
    with torch.inference_mode():
        expected = exportable_detector(model)(images)
        again, total = found_again(load_package(quantized)(images), expected, score=0.3)
    assert total > 5 and again > total / 3  # of random weights: their scores are nearly equal


@pytest.mark.skipif(not RUNTIMES, reason="takes a runtime of ONNX files")
def test_the_papers_detector_is_quantized_if_all_proposals_go_through_at_once(tmp_path: Path) -> None:
    model, cfg = detector("paper", ["MODEL.NASNET.CHUNK_SIZE", 10, "MODEL.NASNET.GENOTYPE", ONE_BLOCK.to_json()])
    program = detector_program(model, cfg, SIZE)
    assert sum(sum(compare(model, program.model, size)) for size in SIZES[:3]) > 4
    images = sample_pictures(4, SIZE)
    package = load_package(save_package(program, tmp_path / "int8", RUNTIMES[-1], "int8", images.split(1)).path)
    with torch.inference_mode():
        (_, found, *_), (_, expected, *_) = package(images), program.model(images)
    assert expected[:, 0].min() > 0.2 and (found - expected)[:, :4].abs().mean() < 0.05


def named_classes(number: int) -> list[dict[str, Any]]:
    return [{"id": 7 + i, "name": f"thing {i}"} for i in range(number)]


def test_masks_are_packaged_for_any_number_of_detections(with_masks: tuple[Any, Path]) -> None:
    counts = check_everywhere(*with_masks)
    assert min(counts) == 0 and len(set(counts)) > 2


@pytest.mark.slow
@pytest.mark.skipif(not RUNTIMES, reason="takes a runtime of ONNX files")
@pytest.mark.parametrize(
    ("kind", "options"), [("paper", ["MODEL.NASNET.IMAGE_SIZE", [0, 0]]), ("pyramid", []), ("pyramid", MASKS)]
)
def test_other_detectors_take_any_images(kind: str, options: list[Any], tmp_path: Path) -> None:
    model, cfg = detector(kind, options)
    check_everywhere(model, save_package(detector_program(model, cfg), tmp_path / kind, RUNTIMES[0]).path)


@pytest.mark.parametrize(
    ("fixture", "missing", "keys"), [("packaged", ["pycocotools"], set()), ("with_masks", [], {"segmentation"})]
)
def test_a_package_predicts_where_detectron2_is_not_installed(
    fixture: str, missing: list[str], keys: set[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    _, package = request.getfixturevalue(fixture)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noisy_picture().save(pictures / "noise.png")
    size, categories = {"width": 90, "height": 70}, [{"id": 5, "name": "thing 1"}, {"id": 3, "name": "thing 0"}]
    entry = {"id": 1, "image_id": 4, "category_id": 5, "bbox": [1, 2, 30, 40], "segmentation": [[1, 2, 31, 2, 31, 42]]}
    val = {"images": [{"id": 4, "file_name": "noise.png", **size}], "categories": categories, "annotations": [entry]}
    (pictures / "val.json").write_text(json.dumps(val))
    (pictures / "train.json").write_text(json.dumps(val))
    program = (
        f"import sys; sys.modules.update(dict.fromkeys(('detectron2', 'fvcore', 'iopath', *{missing})))\n"
        "from nasnet_det.cli.main import main\n"
        "sys.exit(sum(main([verb, *sys.argv[1:]]) for verb in ('predict', 'evaluate')))"
    )
    command = [sys.executable, "-c", program, str(package), str(pictures), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "noise.jpg").is_file()
    predicted = json.loads((tmp_path / "results.json").read_text())
    evaluated = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert all(set(found) == {"image_id", "category_id", "bbox", "score", *keys} for found in predicted)
    # The data have other ids, and not every class.
    ids = {7: 3, 8: 5}
    known = [
        {**found, "image_id": 4, "category_id": ids[found["category_id"]]}
        for found in predicted
        if found["category_id"] in ids
    ]
    assert len(predicted) > len(known) > 0
    assert evaluated == known and "1 images" in done.stdout and ("segm " in done.stdout) == bool(keys)


def noisy_picture() -> Image.Image:
    noise = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Image.fromarray(noise.numpy())


@torch.inference_mode()
def test_packaged_masks_are_those_of_the_detectors_own_code(with_masks: tuple[Any, Path]) -> None:
    model, path = with_masks
    detect = PackagedDetector(path)
    picture = noisy_picture()
    resized = torch.as_tensor(np.array(detect.input.resize(picture))).permute(2, 0, 1).float()
    expected = model([{"image": resized, "height": picture.height, "width": picture.width}])[0]["instances"]
    found = detect(picture)
    assert found.pred_masks is not None and found.pred_masks.shape == (len(expected), 70, 90)
    assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-4 and 0 < found.pred_masks.float().mean() < 1
    for one, other in zip(found.to_coco(3), instances_to_coco_json(expected, 3), strict=True):
        assert set(one) == set(other) and one["segmentation"]["size"] == other["segmentation"]["size"]
        same = one["segmentation"] == other["segmentation"]  # perhaps empty, as some of random weights are
        assert same or iou([one["segmentation"]], [other["segmentation"]], [0]) > 0.99


def test_packaged_detections_are_in_the_pixels_of_the_picture(packaged: tuple[Any, Path]) -> None:
    detect = PackagedDetector(packaged[1])
    found = detect(Image.new("RGB", (300, 40), "red"))
    boxes = found.pred_boxes.tensor
    assert len(found) == len(boxes) > 0 and [one["id"] for one in detect.categories] == [7, 8, 9]
    assert (boxes >= 0).all() and (boxes <= torch.tensor([300, 40, 300, 40])).all() and boxes[:, 2].max() > 40


def test_suppression_of_several_sets_is_that_of_each() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]]]).repeat(2, 1, 1)
    scores = torch.tensor([[0.5, 0.9, 0.7], [0.9, 0.9, 0.1]])
    assert suppress(boxes, scores, 0.5, 3).tolist() == [[1, 2, -1], [0, 2, -1]]
    assert suppress(boxes, scores, 0.5, 1).tolist() == [[1], [0]]


def test_examples_are_photographs_in_the_order_of_the_channels() -> None:
    pictures = sample_pictures(11, (24, 32))
    assert pictures.shape == (11, 3, 24, 32) and pictures.min() >= 0 and 200 < pictures.max() <= 255
    assert not torch.equal(pictures[0], pictures[1]) and torch.equal(pictures[0], pictures[9])
    assert torch.equal(sample_pictures(2, (24, 32), "BGR"), pictures[:2].flip(1))


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    model, cfg = detector("pyramid")
    program = detector_program(model, cfg)
    with pytest.raises(PackageError, match="inductor"):
        save_package(program, tmp_path / "detector", "inductor", "bfloat16")
    with pytest.raises(ValueError, match=r"TEST\.DETECTIONS_PER_IMAGE"):
        exportable_detector(detector("pyramid", ["TEST.DETECTIONS_PER_IMAGE", -1])[0])
    images = sample_pictures(1, (96, 128))
    with pytest.raises(PackageError, match="int8"):
        save_package(detector_program(*detector("paper")), tmp_path / "paper", precision="int8", calibration=[images])
    model.roi_heads = torch.nn.Identity()
    with pytest.raises(ValueError, match=type(model).__name__):
        exportable_detector(model)
