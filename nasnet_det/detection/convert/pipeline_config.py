"""Translation of the TF Object Detection API's ``pipeline.config`` to detectron2's keys.

Fields that the file leaves out have the defaults of ``protos/faster_rcnn.proto``, ``post_processing.proto`` and
``grid_anchor_generator.proto``; a field that would change the detector in a way that is not supported is refused, and
one that is not understood is named in the log.
"""

from __future__ import annotations

import logging
import math
from itertools import pairwise

from detectron2.config import CfgNode

from nasnet_det.detection.convert.protobuf_text import Message, PipelineConfigError
from nasnet_det.safe_io.values import format_value

logger = logging.getLogger(__name__)


def follow(pipeline: Message, cfg: CfgNode) -> None:
    """Set the values of a ``faster_rcnn_nas`` pipeline in a config of the paper's detector.

    Raises:
        PipelineConfigError: for another detector, or a field that is not supported.
    """
    model = pipeline.message("model") if "model" in pipeline.fields else pipeline
    if "faster_rcnn" not in model.fields:
        raise PipelineConfigError(f"expected a faster_rcnn model, got {', '.join(model.fields) or 'nothing'}")
    detector = model.message("faster_rcnn")
    _network(detector, cfg)
    _image(detector.message("image_resizer"), cfg)
    _anchors(detector.message("first_stage_anchor_generator"), cfg)
    _first_stage(detector, cfg)
    _second_stage(detector, cfg)
    if "train_config" in pipeline.fields:
        _training(pipeline.message("train_config"), cfg)
    pipeline.ignore("train_input_reader", "eval_config", "eval_input_reader", "graph_rewriter")
    for name in pipeline.not_understood():
        logger.warning(f"pipeline config: {name} is not understood and changes nothing")


def _network(detector: Message, cfg: CfgNode) -> None:
    extractor = detector.message("feature_extractor")
    extractor.demand("type", "", "faster_rcnn_nas")
    extractor.demand("first_stage_features_stride", 16, 16)
    if extractor.value("batch_norm_trainable", False):
        cfg.MODEL.NASNET.NORM = "BN"
    detector.demand("number_of_stages", 2, 2)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = detector.value("num_classes", 0)


def _image(resizer: Message, cfg: CfgNode) -> None:
    if "fixed_shape_resizer" not in resizer.fields:
        raise PipelineConfigError(f"{resizer.path}: only a fixed_shape_resizer is supported, as by faster_rcnn_nas")
    fixed = resizer.message("fixed_shape_resizer")
    fixed.demand("resize_method", "BILINEAR", "BILINEAR")
    fixed.demand("convert_to_grayscale", False, False)
    cfg.MODEL.NASNET.IMAGE_SIZE = [fixed.value("height", 300), fixed.value("width", 300)]


def _anchors(generator: Message, cfg: CfgNode) -> None:
    grid = generator.message("grid_anchor_generator")
    base = grid.value("height", 256)
    grid.demand("width", 256, base)
    for name in ("height_stride", "width_stride"):
        grid.demand(name, 16, 16)
    offset = grid.value("height_offset", 0)
    grid.demand("width_offset", 0, offset)
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[base * scale for scale in _above_zero(grid, "scales")]]
    # TF's ratio is width / height, detectron2's the other way round.
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0 / ratio for ratio in _above_zero(grid, "aspect_ratios")]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = offset / 16


def _above_zero(message: Message, name: str) -> list[float]:
    """Return the numbers of a repeated field, which must be above 0."""
    found = message.values(name)
    if wrong := [n for n in found if isinstance(n, bool) or not isinstance(n, (int, float)) or not 0 < n < math.inf]:
        raise PipelineConfigError(f"{message.path}: {name} are numbers above 0, not {format_value(wrong[0])}")
    return [float(number) for number in found]


def _first_stage(detector: Message, cfg: CfgNode) -> None:
    rpn = cfg.MODEL.RPN
    detector.demand("first_stage_atrous_rate", 1, 1)
    detector.demand("first_stage_box_predictor_kernel_size", 3, 3)
    for name in ("use_static_shapes", "use_combined_nms_in_first_stage"):
        detector.demand(name, False, False)
    rpn.CONV_DIMS = [detector.value("first_stage_box_predictor_depth", 512)]
    rpn.BATCH_SIZE_PER_IMAGE = detector.value("first_stage_minibatch_size", 256)
    rpn.POSITIVE_FRACTION = detector.value("first_stage_positive_balance_fraction", 0.5)
    rpn.NMS_THRESH = detector.value("first_stage_nms_iou_threshold", 0.7)
    cfg.MODEL.NASNET.RPN_SCORE_THRESH = detector.value("first_stage_nms_score_threshold", 0.0)
    rpn.POST_NMS_TOPK_TRAIN = rpn.POST_NMS_TOPK_TEST = detector.value("first_stage_max_proposals", 300)
    rpn.LOSS_WEIGHT = detector.value("first_stage_objectness_loss_weight", 1.0)
    localization = detector.value("first_stage_localization_loss_weight", 1.0)
    if not rpn.LOSS_WEIGHT:
        raise PipelineConfigError("first_stage_objectness_loss_weight is 0: objectness would not be learnt")
    rpn.BBOX_REG_LOSS_WEIGHT = localization / rpn.LOSS_WEIGHT  # detectron2 multiplies the two
    detector.ignore(
        "first_stage_box_predictor_conv_hyperparams",  # initial values and decay
        "use_partitioned_nms_in_first_stage",  # of no effect without static shapes
        "use_static_shapes_for_eval",
        "use_matmul_crop_and_resize",  # other ways to the same result
        "use_matmul_gather_in_matcher",
        "use_static_balanced_label_sampler",
        "inplace_batchnorm_update",
        "resize_masks",
    )


def _second_stage(detector: Message, cfg: CfgNode) -> None:
    node, heads, box = cfg.MODEL.NASNET, cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    node.CROP_SIZE = detector.value("initial_crop_size", 0)
    node.CROP_POOL_KERNEL = detector.value("maxpool_kernel_size", 0) or 1
    node.CROP_POOL_STRIDE = detector.value("maxpool_stride", 0) or 1
    heads.BATCH_SIZE_PER_IMAGE = detector.value("second_stage_batch_size", 64)
    heads.POSITIVE_FRACTION = detector.value("second_stage_balance_fraction", 0.25)
    box.BBOX_REG_LOSS_WEIGHT = detector.value("second_stage_localization_loss_weight", 1.0)
    detector.demand("second_stage_classification_loss_weight", 1.0, 1.0)
    predictor = detector.message("second_stage_box_predictor").message("mask_rcnn_box_predictor")
    for name in ("predict_instance_masks", "predict_keypoints", "share_box_across_classes", "use_dropout"):
        predictor.demand(name, False, False)
    predictor.ignore("fc_hyperparams", "dropout_keep_probability")
    after = detector.message("second_stage_post_processing")
    after.demand("score_converter", "IDENTITY", "SOFTMAX")
    after.demand("logit_scale", 1.0, 1.0)
    suppression = after.message("batch_non_max_suppression")
    for name in ("use_static_shapes", "use_class_agnostic_nms", "use_combined_nms"):
        suppression.demand(name, False, False)
    suppression.demand("soft_nms_sigma", 0.0, 0.0)
    heads.SCORE_THRESH_TEST = suppression.value("score_threshold", 0.0)
    heads.NMS_THRESH_TEST = suppression.value("iou_threshold", 0.6)
    node.DETECTIONS_PER_CLASS = suppression.value("max_detections_per_class", 100)
    cfg.TEST.DETECTIONS_PER_IMAGE = suppression.value("max_total_detections", 100)


def _training(training: Message, cfg: CfgNode) -> None:
    """Set the schedule; parts that detectron2's keys do not cover are left unchanged and named in the log."""
    cfg.SOLVER.IMS_PER_BATCH = training.value("batch_size", 32)
    clip = training.value("gradient_clipping_by_norm", 0.0)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = clip > 0
    if clip > 0:
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = "norm", clip
    cfg.SOLVER.MAX_ITER = training.value("num_steps", 0) or cfg.SOLVER.MAX_ITER
    training.ignore("fine_tune_checkpoint", "from_detection_checkpoint", "num_steps")
    momentum = training.message("optimizer").message("momentum_optimizer")
    cfg.SOLVER.MOMENTUM = momentum.value("momentum_optimizer_value", 0.9)
    steps = momentum.message("learning_rate").message("manual_step_learning_rate")
    rate = steps.value("initial_learning_rate", 0.002)
    schedule = [(entry.value("step", 0), entry.value("learning_rate", 0.002)) for entry in steps.values("schedule")]
    if not schedule:
        logger.warning(
            "pipeline config: train_config.optimizer is not a manual_step_learning_rate; the schedule is unchanged"
        )
        return
    if schedule[0][0] == 0:
        rate, schedule = schedule[0][1], schedule[1:]
    rates = [rate, *(after for _, after in schedule)]
    factors = {round(after / before, 6) if before else math.inf for before, after in pairwise(rates)}
    if len(factors) > 1 or math.inf in factors:
        logger.warning(
            f"pipeline config: the learning rates {rates} do not fall by one factor; the schedule is unchanged"
        )
        return
    cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS = rate, [step for step, _ in schedule]
    cfg.SOLVER.GAMMA = factors.pop() if factors else cfg.SOLVER.GAMMA
