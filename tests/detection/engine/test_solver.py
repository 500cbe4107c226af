"""The paper's detector recipe against the released ``faster_rcnn_nas_coco.config``, line by line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.config import LazyConfig
from detectron2.data.detection_utils import build_augmentation
from detectron2.data.transforms import RandomFlip, ResizeShortestEdge
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from detectron2.utils.events import EventStorage

from nasnet_det.detection.config import ConfigError, read_config
from nasnet_det.detection.convert.pipeline_config import follow
from nasnet_det.detection.convert.protobuf_text import parse
from nasnet_det.detection.convert.tf_detector import changes
from nasnet_det.detection.engine.solver import build_optimizer, clipped_sgd, optimizer_params
from nasnet_det.detection.modeling.backbone import advance_drop_path
from nasnet_det.models.drop_path import ScheduledDropPath
from tests.detection.conftest import CONFIGS

#: The values of TF Object Detection API ``samples/configs/faster_rcnn_nas_coco.config`` as its checkpoint of
#: 2018-01-28 was trained (500 proposals), with the defaults of the fields that it leaves out.
RELEASED = """
model { faster_rcnn {
  num_classes: 90
  image_resizer { fixed_shape_resizer { height: 1200 width: 1200 } }
  feature_extractor { type: "faster_rcnn_nas" first_stage_features_stride: 16 batch_norm_trainable: false }
  first_stage_anchor_generator { grid_anchor_generator {
    scales: [0.25, 0.5, 1.0, 2.0] aspect_ratios: [0.5, 1.0, 2.0] height_stride: 16 width_stride: 16 } }
  first_stage_atrous_rate: 1 first_stage_box_predictor_kernel_size: 3 first_stage_box_predictor_depth: 512
  first_stage_box_predictor_conv_hyperparams { op: CONV regularizer { l2_regularizer { weight: 0.0 } }
    initializer { truncated_normal_initializer { stddev: 0.01 } } }
  first_stage_minibatch_size: 256 first_stage_positive_balance_fraction: 0.5
  first_stage_nms_score_threshold: 0.0 first_stage_nms_iou_threshold: 0.7 first_stage_max_proposals: 500
  first_stage_localization_loss_weight: 2.0 first_stage_objectness_loss_weight: 1.0
  initial_crop_size: 17 maxpool_kernel_size: 1 maxpool_stride: 1
  second_stage_box_predictor { mask_rcnn_box_predictor { use_dropout: false dropout_keep_probability: 1.0
    fc_hyperparams { op: FC regularizer { l2_regularizer { weight: 0.0 } }
      initializer { variance_scaling_initializer { factor: 1.0 uniform: true mode: FAN_AVG } } } } }
  second_stage_batch_size: 64 second_stage_balance_fraction: 0.25
  second_stage_post_processing { score_converter: SOFTMAX batch_non_max_suppression {
    score_threshold: 0.0 iou_threshold: 0.6 max_detections_per_class: 100 max_total_detections: 100 } }
  second_stage_localization_loss_weight: 2.0 second_stage_classification_loss_weight: 1.0
} }
train_config {
  batch_size: 1
  optimizer { momentum_optimizer { momentum_optimizer_value: 0.9 learning_rate { manual_step_learning_rate {
    initial_learning_rate: 0.0003
    schedule { step: 0 learning_rate: 0.0003 }
    schedule { step: 900000 learning_rate: 0.00003 }
    schedule { step: 1200000 learning_rate: 0.000003 } } } } use_moving_average: false }
  gradient_clipping_by_norm: 10.0
  num_steps: 200000
  data_augmentation_options { random_horizontal_flip { } }
}
"""


def decays_of(optimizer: torch.optim.Optimizer) -> dict[torch.nn.Parameter, float]:
    return {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


@pytest.fixture
def small_detector(small_config: Any) -> Any:
    """A small detector of the paper with its config's own norms and drop path."""
    cfg = small_config("nasnet_frcnn.yaml", MODEL__NASNET__NORM="TFOD", SOLVER__IMS_PER_BATCH=1)
    return cfg, build_model(cfg)


def test_the_config_says_what_the_released_one_says() -> None:
    cfg = read_config("nasnet_frcnn")
    before = changes(cfg)
    follow(parse(RELEASED), cfg)
    # num_steps stops before the first decay of the learning rate; 1,500,000 steps follow the whole schedule.
    assert (cfg.SOLVER.MAX_ITER, before["SOLVER"]["MAX_ITER"]) == (200000, 1500000)
    cfg.SOLVER.MAX_ITER = 1500000
    assert changes(cfg) == before


@pytest.mark.parametrize(("name", "proposals"), [("nasnet_frcnn", 500), ("nasnet_frcnn_low_proposals", 50)])
def test_proposals_of_the_two_released_configs(name: str, proposals: int) -> None:
    assert proposals == read_config(name).MODEL.RPN.POST_NMS_TOPK_TEST


def test_learning_rate_momentum_and_clipping() -> None:
    cfg = read_config("nasnet_frcnn")
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    # fvcore rounds the progress up by 1e-6: of 1,500,000 steps, a rate falls up to two early.
    for step, rate in ((0, 3e-4), (899998, 3e-4), (900000, 3e-5), (1199998, 3e-5), (1200000, 3e-6), (1499999, 3e-6)):
        scheduler.last_epoch = step
        assert scheduler.get_lr() == [pytest.approx(rate)], step
    assert (cfg.SOLVER.MOMENTUM, cfg.SOLVER.NESTEROV, cfg.SOLVER.IMS_PER_BATCH) == (0.9, False, 1)


def test_gradients_are_clipped_tensor_by_tensor_before_momentum(small_detector: Any) -> None:
    """TF-slim's ``clip_gradient_norms``, which the released trainer calls, scales each tensor by itself."""
    cfg, model = small_detector
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    optimizer = build_optimizer(cfg, model)
    large, small = model.roi_heads.class_layer.weight, model.roi_heads.class_layer.bias
    before = large.detach().clone(), small.detach().clone()
    large.grad, small.grad = torch.full_like(large, 7.0), torch.full_like(small, 1e-3)
    optimizer.step()
    assert (before[0] - large).norm().item() == pytest.approx(cfg.SOLVER.BASE_LR * 10.0, rel=1e-4)
    step = torch.full_like(small, cfg.SOLVER.BASE_LR * 1e-3)
    torch.testing.assert_close(before[1] - small, step, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_clipping_equals_detectron2s(kind: str, small_detector: Any) -> None:
    cfg, model = small_detector
    cfg.MODEL.NASNET.DECAY_HEADS = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = kind, 0.5
    optimizers = [build(cfg, model) for build in (build_optimizer, build_detectron2_optimizer)]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    for optimizer in optimizers:
        model.load_state_dict(state)
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
        optimizer.step()
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(map(torch.equal, *found))


def test_l2_is_on_the_convolutions_of_the_network_alone(small_detector: Any) -> None:
    cfg, model = small_detector
    lazy = LazyConfig.load(str(CONFIGS / "nasnet_frcnn.py")).optimizer
    assert (lazy.lr, lazy.momentum, lazy.max_norm) == (0.0003, 0.9, 10.0)
    params = optimizer_params(model, lazy.params.decay_heads, weight_decay_norm=lazy.params.weight_decay_norm)
    twin = clipped_sgd(params, lazy.lr, lazy.momentum, lazy.weight_decay, lazy.max_norm)
    for optimizer in (build_optimizer(cfg, model), twin):
        decays = decays_of(optimizer)
        assert decays.keys() == set(model.parameters())
        for name, parameter in model.named_parameters():
            convolution = ".network." in name and parameter.ndim == 4
            assert decays[parameter] == (5e-5 if convolution else 0.0), name


@pytest.mark.parametrize("limit", [0.0, -1.0])
def test_numbers_with_which_nothing_is_learnt_are_refused(limit: float, small_config: Any) -> None:
    layer = torch.nn.Linear(2, 2)
    for momentum, max_norm, named in ((0.9, limit, "max_norm"), (1.0 - limit, 1.0, "momentum")):
        with pytest.raises(ConfigError, match=named):
            clipped_sgd(layer.parameters(), 0.1, momentum, 0.0, max_norm)
    with pytest.raises(ConfigError, match="weight_decay_bias"):
        optimizer_params(layer, weight_decay_bias=limit - 1)
    clipping = {"SOLVER__CLIP_GRADIENTS__ENABLED": True, "SOLVER__CLIP_GRADIENTS__CLIP_VALUE": limit}
    cfg = small_config("fpn_mobile.yaml", **clipping)
    with pytest.raises(ConfigError, match=r"SOLVER\.CLIP_GRADIENTS\.CLIP_VALUE"):
        build_optimizer(cfg, layer)
    with EventStorage(), pytest.raises(ConfigError, match="DROP_PATH_STEPS"):
        advance_drop_path(layer, int(limit))


@pytest.mark.parametrize("number", [-1.0, math.nan])
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_rate_or_a_decay_that_is_none_is_refused_in_a_lazy_config_too(name: str, number: float) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.{name}\b"):
        clipped_sgd([], **{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "max_norm": 1.0, name: number})


def test_a_lazy_run_that_resumes_on_other_data_says_so(caplog: pytest.LogCaptureFixture) -> None:
    entry = {"bbox": [1.0, 2, 3, 4], "category_id": 0}
    few, more = ([{"file_name": "a.png", "annotations": [entry] * count}] for count in (1, 2))
    optimizers = [
        clipped_sgd([torch.nn.Parameter(torch.zeros(1))], 0.1, 0.9, 0.0, 1.0, data) for data in (few, few, more, ())
    ]
    state = optimizers[0].state_dict()
    for optimizer, said in zip(optimizers[1:], (0, 1, 0), strict=True):
        caplog.clear()
        optimizer.load_state_dict(state)
        assert caplog.text.count("1 images with 1 boxes, now 1 images with 2 boxes") == said


def test_heads_have_decay_by_default(small_config: Any) -> None:
    cfg = small_config("fpn_mobile.yaml")
    model = build_model(cfg)
    decays = decays_of(build_optimizer(cfg, model))
    assert decays[model.roi_heads.box_predictor.cls_score.weight] == cfg.SOLVER.WEIGHT_DECAY > 0


def test_paths_are_dropped_by_their_own_step_count(small_detector: Any) -> None:
    """``total_training_steps`` of ``large_imagenet_config`` is 250,000 for every schedule of the detector."""
    cfg, model = small_detector
    assert (cfg.MODEL.NASNET.DROP_PATH_STEPS, cfg.MODEL.NASNET.DROP_PATH_RATE) == (250000, 0.3)
    paths = [module for module in model.modules() if isinstance(module, ScheduledDropPath)]
    # One normal cell a stage, two reductions and two stem cells: the last of seven drops with the whole rate.
    assert sorted(path.drop_prob for path in paths) == pytest.approx([0.3 * (i + 1) / 7 for i in range(7)])


def test_images_are_flipped_and_nothing_else() -> None:
    cfg = read_config("nasnet_frcnn")
    resize, flip = build_augmentation(cfg, is_train=True)
    assert isinstance(resize, ResizeShortestEdge) and resize.short_edge_length in ([0], (0,), [0, 0], (0, 0))
    assert isinstance(flip, RandomFlip) and (flip.prob, flip.horizontal) == (0.5, True)


@pytest.mark.parametrize("name", ["nasnet_frcnn", "nasnet_frcnn_large_800", "nasnet_frcnn_mobile_600"])
def test_norms_train_as_released(name: str, small_config: Any) -> None:
    """Scales and shifts train in both stages; the first one's statistics are the batch's and move by 1 - 0.9997."""
    norm = read_config(name).MODEL.NASNET.NORM
    model = build_model(small_config(f"{name}.yaml", MODEL__NASNET__NORM=norm, MODEL__NASNET__BN_MOMENTUM=0.0)).train()
    first = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    second = [m for m in model.roi_heads.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(norm.training and norm.momentum == 0.0003 for norm in first) and first
    assert not any(norm.training for norm in second) and second
    assert all(norm.weight.requires_grad and norm.bias.requires_grad for norm in (*first, *second))
