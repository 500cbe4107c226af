"""Every config of the set builds, trains a step and detects, made small; each says what it is expected to reach."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.evaluation import inference_context
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from nasnet_det.detection import add_nasnet_config, setup_environment
from nasnet_det.detection.config import ConfigError, read_config
from nasnet_det.detection.convert.identity import CheckpointError
from nasnet_det.detection.engine.predictor import load_config
from nasnet_det.detection.engine.trainer import DetectorTrainer
from nasnet_det.detection.modeling.fused import for_inference
from nasnet_det.detection.modeling.rcnn import build_detector
from nasnet_det.genotypes.published import PUBLISHED, as_genotype
from nasnet_det.safe_io.files import OverwriteError, check_writable, protecting
from tests.detection.conftest import CONFIGS
from tests.helpers import DARTS_V2

NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml") if not path.name.startswith("base"))
#: The three rows of the paper's Table 4: size, minival and test-dev AP.
TABLE_4 = {
    "nasnet_frcnn_mobile_600.yaml": (600, "29.6", None),
    "nasnet_frcnn_large_800.yaml": (800, "41.3", "40.7"),
    "nasnet_frcnn.yaml": (1200, "43.2", "43.1"),
}


@pytest.fixture
def found_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell that a search has found, where you are."""
    monkeypatch.chdir(tmp_path)
    PUBLISHED["darts_v2"].save(tmp_path / "found_cell.json")


def record(training: bool) -> dict[str, Any]:
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    truth = Instances((96, 128), gt_boxes=Boxes(torch.tensor([[8.0, 8, 90, 70], [50, 20, 120, 90]])))
    truth.gt_classes = torch.tensor([0, 1])
    truth.gt_masks = PolygonMasks([[np.array([8.0, 8, 90, 8, 90, 70])], [np.array([50.0, 20, 120, 20, 120, 90])]])
    return {"image": image, "height": 50, "width": 60, **({"instances": truth} if training else {})}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_trains_and_detects(name: str, small_config: Any, found_cell: None) -> None:
    torch.manual_seed(0)
    model = build_model(small_config(name))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with EventStorage():
        losses = model([record(training=True), record(training=True)])
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    optimizer.step()
    with torch.no_grad():
        (found,) = model.eval()([record(training=False)])
    assert found["instances"].image_size == (50, 60)
    fields = {"pred_boxes", "scores", "pred_classes"} | ({"pred_masks"} if "mask" in name else set())
    assert fields <= set(found["instances"].get_fields())


@pytest.mark.parametrize("name", [*NAMES, "nasnet_frcnn.py"])
def test_a_config_says_what_to_expect(name: str) -> None:
    head = " ".join((CONFIGS / name).read_text().split("_BASE_")[0].replace("#", " ").split())
    assert "Not trained" in head or name == "demo.yaml"
    if name in TABLE_4:
        size, minival, test_dev = TABLE_4[name]
        cfg = read_config(CONFIGS / name)
        assert list(cfg.MODEL.NASNET.IMAGE_SIZE) == [size, size]
        assert f"{minival} AP on minival" in head and "table 4" in head
        assert test_dev is None or f"{test_dev} on test-dev" in head


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_short(name: str) -> None:
    lines = (CONFIGS / name).read_text().splitlines()
    assert any(line.startswith("_BASE_") for line in lines)
    assert len(lines) < 70


def test_the_lazy_twin_is_the_same_model() -> None:
    """At full size on the meta device: names, shapes, layers, and every setting."""
    cfg = read_config(CONFIGS / "nasnet_frcnn.yaml", ["MODEL.NASNET.PRETRAINED", "", "MODEL.DEVICE", "meta"])
    lazy = LazyConfig.load(str(CONFIGS / "nasnet_frcnn.py")).model
    lazy.network.pretrained = ""
    with torch.device("meta"):
        models = [build_model(cfg), instantiate(lazy)]
    states = [{name: value.shape for name, value in model.state_dict().items()} for model in models]
    assert states[0] == states[1]
    assert str(models[0]) == str(models[1])
    assert numbers(models[0]) == numbers(models[1])
    assert sum(value.numel() for value in models[0].parameters()) == 105_155_937


def numbers(value: Any, depth: int = 0) -> Any:
    """The plain values of an object and its parts."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if torch.is_tensor(value):
        return tuple(value.shape)
    if depth > 12:
        return None
    if hasattr(value, "items"):
        return {str(key): numbers(item, depth + 1) for key, item in value.items()}
    if hasattr(value, "__iter__"):
        return [numbers(item, depth + 1) for item in value]
    own = {key: item for key, item in getattr(value, "__dict__", {}).items() if not key.endswith("_hooks")}
    return {key: numbers(item, depth + 1) for key, item in own.items()}


def test_pixel_values_of_the_twin_are_equal() -> None:
    lazy = LazyConfig.load(str(CONFIGS / "nasnet_frcnn.py"))
    cfg = read_config(CONFIGS / "nasnet_frcnn.yaml")
    assert list(lazy.model.pixel_mean) == list(cfg.MODEL.PIXEL_MEAN)
    assert list(lazy.model.pixel_std) == list(cfg.MODEL.PIXEL_STD)
    assert (lazy.model.input_format, lazy.train.max_iter) == (cfg.INPUT.FORMAT, cfg.SOLVER.MAX_ITER)
    assert (lazy.optimizer.lr, lazy.optimizer.weight_decay) == (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY)
    assert lazy.optimizer.max_norm == cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
    assert list(lazy.lr_multiplier.scheduler.milestones)[:2] == list(cfg.SOLVER.STEPS)


def test_the_twin_s_loaders_and_evaluator_follow_the_named_data_sets() -> None:
    lazy = LazyConfig.load(str(CONFIGS / "nasnet_frcnn.py"))
    words = ["dataloader.train.dataset.names=[mine, more]", "dataloader.test.dataset.name=judged"]
    words += ["model.roi_heads.num_classes=2", "model.roi_heads.label_ids=[]"]
    data = LazyConfig.apply_overrides(lazy, words).dataloader
    assert (data.train.dataset.test, data.evaluator.dataset_name) == ("judged", "judged")
    assert (data.train.dataset.num_classes, list(data.train.dataset.label_ids)) == (2, [])  # the model's
    assert list(data.evaluator.classes.names) == ["mine", "more"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("proposal_generator.head.in_channels=168", "in_channels"),
        ("proposal_generator.head.num_anchors=9", "num_anchors"),
        ("proposal_generator.thresholds=[0.7, 0.3]", "thresholds"),
        ("proposal_generator.max_proposals=[500, 0]", "max_proposals"),
        ("proposal_generator.anchor_generator.sizes=[[64, 128, 256, 0]]", "sizes"),
        ("roi_heads.score_threshold=1", "score_threshold"),
        ("proposal_generator.nms_threshold=-1", "nms_threshold"),
        ("proposal_generator.loss_weights=[1, nan]", "loss_weights"),
        ("proposal_generator.positive_fraction=2", "positive_fraction"),
        ("roi_heads.total=0", "total"),
        ("roi_heads.loss_weights=[-1, 2]", "loss_weights"),
        ("pixel_std=[0, 1, 1]", "pixel_std"),
        ("input_format=L", "input_format"),
        ("image_size=[128]", "image_size"),
        ("image_size=[128.5, 128]", "image_size"),
    ],
)
def test_what_the_twin_s_parts_cannot_do_is_told_when_they_are_built(change: str, named: str) -> None:
    small = ["network.network=nasnet_a_mobile", "network.num_cells=1", "network.num_filters=8", "network.norm=BN"]
    small += ["network.pretrained=''", "proposal_generator.head.in_channels=160"]
    lazy = LazyConfig.load(str(CONFIGS / "nasnet_frcnn.py")).model
    instantiate(LazyConfig.apply_overrides(lazy, small))
    with pytest.raises(ConfigError, match=named):
        instantiate(LazyConfig.apply_overrides(lazy, [*small, change]))


def test_a_key_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.NASNET\.NUM_FILTERS\b"):
        read_config(CONFIGS / "fpn_mobile.yaml", ["MODEL.NASNET.NUM_FILTER", 8])
    (tmp_path / "mine.yaml").write_text("VERSION: 2\nMODEL:\n  NASNET:\n    GENOTIPE: x.json\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: .*MODEL\.NASNET\.GENOTIPE.*MODEL\.NASNET\.GENOTYPE"):
        read_config(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"MODEL\.NASNET .*NETWORK, GENOTYPE"):
        read_config(CONFIGS / "fpn_mobile.yaml", ["MODEL.NASNET.QQQ", 1])


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NUM_FILTERS"):
        read_config(CONFIGS / "fpn_mobile.yaml", ["MODEL.NASNET.NUM_FILTERS", "many"])
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        read_config(tmp_path / "nowhere.yaml")
    (tmp_path / "packaged.onnx").touch()
    with pytest.raises(ConfigError, match=r"packaged\.onnx"):
        load_config(tmp_path / "packaged")
    for read in (read_config, load_config):
        with pytest.raises(ConfigError, match=r"nasnet_frcnn\.py.*LazyConfig"):
            read(CONFIGS / "nasnet_frcnn.py")
    for name in ("photo.png", "model.ckpt", "model.bin"):  # in place of a checkpoint
        (tmp_path / name).write_bytes(b"\x89PNG")
        with pytest.raises(CheckpointError, match=name):
            load_config(tmp_path / name)
    for content in (b"MODEL: [1\n", b"hello", b"", b"- 1\n", b"\x89HDF\r\n\x1a\n\x00"):
        (tmp_path / "broken.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken\.yaml"):
            read_config(tmp_path / "broken.yaml")


def test_a_key_that_would_be_dropped_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("SOLVER: {BASE_LR: 0.1}\nSEED: 3\nSOLVER: {MAX_ITER: 5}\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: own.yaml\nSEED: 4\n")
    with pytest.raises(ConfigError, match=r"own\.yaml.*'SOLVER'"):
        read_config(tmp_path / "mine.yaml")


def test_every_file_of_a_config_is_protected(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("SEED: 3\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: config.yaml\n")
    with protecting():
        read_config(tmp_path / "mine.yaml")
        for name in ("mine.yaml", "config.yaml"):
            with pytest.raises(OverwriteError, match=name):
                check_writable(tmp_path / name)


@pytest.mark.parametrize("key", ["DATASETS.TEST", "MODEL.WEIGHTS", "SOLVER.STEPS"])
def test_a_key_without_a_value_is_named(key: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    (tmp_path / "mine.yaml").write_text(f"{section}:\n  {name}:\n")
    with pytest.raises(ConfigError, match=f"mine.yaml.*{re.escape(key)}"):
        read_config(tmp_path / "mine.yaml")


def test_a_config_runs_no_code(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "evil.yaml").write_text(f"VERSION: !!python/object/apply:pathlib.Path.touch [{json.dumps(str(ran))}]\n")
    with pytest.raises(ConfigError, match=r"evil\.yaml.*python/object.*values themselves"):
        read_config(tmp_path / "evil.yaml")
    assert not ran.exists()


def test_the_environment_hook_gives_every_config_the_keys() -> None:
    from detectron2.config.defaults import _C

    had = "NASNET" in _C.MODEL
    try:
        setup_environment()
        cfg = get_cfg()
        cfg.merge_from_file(str(CONFIGS / "nasnet_frcnn.yaml"))
        assert cfg.MODEL.NASNET.NETWORK == "nasnet_a_large"
        add_nasnet_config(cfg)  # harmless twice
    finally:
        if not had:
            del _C.MODEL["NASNET"]


def test_a_config_runs_no_code_and_ends(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    laughs = "\n".join(["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, 40))])
    code = f"X: !!python/object/apply:os.mkdir ['{tmp_path}/ran']"
    for text in (code, "_BASE_: config.yaml", laughs, "- 1", ""):
        file.write_text(text)
        for read in (read_config, load_config):
            with pytest.raises(ConfigError, match=r"config\.yaml"):
                read(file)
    assert not (tmp_path / "ran").exists()


def test_numbers_that_make_no_detector_are_an_error_of_the_config(small_config: Any) -> None:
    with pytest.raises(ConfigError):
        build_detector(small_config("fpn_mobile.yaml", MODEL__FPN__OUT_CHANNELS=-1))


@pytest.mark.parametrize(
    ("changes", "layer"),
    [
        ({"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[]]}, "rpn_head"),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [[]]}, "rpn_head"),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 0}, "box_predictor"),
        ({"MODEL__ROI_BOX_HEAD__FC_DIM": 0}, "box_head"),
    ],
)
def test_a_layer_without_weights_is_an_error_of_the_config(
    changes: dict[str, Any], layer: str, small_config: Any
) -> None:
    with pytest.raises(ConfigError, match=layer):
        build_detector(small_config("fpn_mobile.yaml", **changes))


def _mapping(indent: int = 6) -> str:
    import yaml

    text = yaml.safe_dump(PUBLISHED["darts_v2"].to_dict(), default_flow_style=None)
    return "\n" + "".join(f"{' ' * indent}{line}\n" for line in text.splitlines())


@pytest.mark.parametrize("form", ["mapping", "darts", "json", "option", "file"])
def test_a_genotype_in_a_config_is_kept_by_value(form: str, tmp_path: Path) -> None:
    darts, json_text = tmp_path / "darts.yaml", json.dumps(PUBLISHED["darts_v2"].to_dict())
    PUBLISHED["darts_v2"].save(tmp_path / "cell.json")
    value = {
        "mapping": _mapping(),
        "darts": f" |\n      {' '.join(DARTS_V2.split())}\n",
        "json": f" '{json_text}'\n",
        "file": " cell.json\n",
        "option": " ''\n",
    }[form]
    darts.write_text(f"VERSION: 2\nMODEL:\n  NASNET:\n    GENOTYPE:{value}")
    cfg = read_config(darts, ["MODEL.NASNET.GENOTYPE", json_text] if form == "option" else [])
    # Moved alone, the dumped config describes the same cells.
    (tmp_path / "cell.json").unlink()
    (tmp_path / "moved.yaml").write_text(cfg.dump())
    for found in (cfg, read_config(tmp_path / "moved.yaml")):
        assert as_genotype(found.MODEL.NASNET.GENOTYPE).cells == PUBLISHED["darts_v2"].cells


@pytest.mark.parametrize("fused", [False, True])
def test_test_time_augmentation(fused: bool, small_config: Any) -> None:
    options = {"TEST__AUG__ENABLED": True, "TEST__AUG__MIN_SIZES": [64, 96], "MODEL__NASNET__FUSED": fused}
    cfg = small_config("mask_fpn_mobile.yaml", **options)
    torch.manual_seed(0)
    model = build_detector(cfg).eval()
    seen: list[tuple[int, ...]] = []
    augmented = for_inference(model, cfg)
    augmented.model.backbone.register_forward_hook(lambda module, inputs, outputs: seen.append(tuple(inputs[0].shape)))
    with torch.no_grad(), inference_context(augmented):
        (found,) = augmented([record(training=False)])
    assert not augmented.model.training  # as before
    # Two sizes and their mirror images, once for boxes and once for masks, three at a time.
    assert sum(shape[0] for shape in seen) == 8
    assert found["instances"].image_size == (50, 60)
    assert found["instances"].pred_masks.shape[1:] == (50, 60)


def test_masks_are_scored_where_the_model_has_them(small_config: Any, tiny_coco: str) -> None:
    for name, types in (("mask_fpn_mobile.yaml", ("bbox", "segm")), ("fpn_mobile.yaml", ("bbox",))):
        cfg = small_config(name, DATASETS__TRAIN=(tiny_coco,), DATASETS__TEST=(tiny_coco,))
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
        assert DetectorTrainer.build_evaluator(cfg, tiny_coco).iou_types == types


@pytest.mark.slow
@pytest.mark.parametrize("cascade", [False, True])
def test_masks_are_learnt(cascade: bool, tmp_path: Path) -> None:
    benchmark = runpy.run_path(str(CONFIGS.parent / "benchmarks" / "masks.py"))
    scores = benchmark["learn"](tmp_path, images=6, steps=240, cascade=cascade)
    assert scores["segm"]["AP50"] >= benchmark["LEARNT"]
