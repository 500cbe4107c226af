"""The LazyConfig twin of nasnet_frcnn.yaml: the paper's detector with NASNet-A large at 1200 x 1200.

Expected: 43.2 AP on minival, 43.1 on test-dev (paper, table 4). Not trained here. For detectron2's own
``lazyconfig_train_net.py``; a network of another width needs ``model.proposal_generator.head.in_channels`` changed with
it. Data sets of your own are ``dataloader.train.dataset.names`` and ``dataloader.test.dataset.name``: everything else
that reads a data set follows these two.
"""

import math

from detectron2.data import transforms
from detectron2.model_zoo import get_config
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from nasnet_det.detection.data.datasets import MINIVAL, TRAIN, register_coco_splits
from nasnet_det.detection.data.mapper import DetectionMapper
from nasnet_det.detection.data.registered import class_names, test_records, training_records
from nasnet_det.detection.data.training_data import build_test_loader, build_train_loader
from nasnet_det.detection.engine.solver import clipped_sgd, optimizer_params
from nasnet_det.detection.evaluation.evaluator import CocoEvaluator
from nasnet_det.detection.lazy import LazyCall as L
from nasnet_det.detection.lazy import typed
from nasnet_det.detection.modeling.backbone import build_network
from nasnet_det.detection.modeling.rcnn import roi_heads_later, split_rcnn
from nasnet_det.detection.modeling.rpn import GridAnchorGenerator, NASNetRPN, RPNHead

register_coco_splits()
COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]

box_transform = L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0], scale_clamp=math.inf)

model = L(split_rcnn)(
    network=L(build_network)(
        network="nasnet_a_large", norm="TFOD", pretrained="published", drop_path_rate=0.3, freeze_at=0
    ),
    drop_path_steps=250000,
    proposal_generator=L(NASNetRPN)(
        in_feature="cut",
        head=L(RPNHead)(in_channels=4032, num_anchors=12, channels=512),
        anchor_generator=L(GridAnchorGenerator)(
            sizes=[[64, 128, 256, 512]], aspect_ratios=[[2.0, 1.0, 0.5]], strides=[16], offset=0.0
        ),
        box_transform=box_transform,
        nms_threshold=0.7,
        max_proposals=[500, 500],
        loss_weights=[1.0, 2.0],
    ),
    roi_heads=L(roi_heads_later)(
        in_feature="cut",
        box_transform=box_transform,
        num_classes=90,
        label_ids=COCO_IDS,
        batch_size_per_image=64,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        proposal_append_gt=False,
        loss_weights=[1.0, 2.0],
    ),
    pixel_mean=[127.5, 127.5, 127.5],
    pixel_std=[127.5, 127.5, 127.5],
    input_format="RGB",
    image_size=[1200, 1200],
)

dataloader = typed(
    train=L(build_train_loader)(
        dataset=L(training_records)(
            names=[TRAIN],
            test="${...test.dataset.name}",
            num_classes="${model.roi_heads.num_classes}",
            label_ids="${model.roi_heads.label_ids}",
            key="model.roi_heads.label_ids to [], and model.roi_heads.num_classes",
            train="${train}",
        ),
        mapper=L(DetectionMapper)(
            is_train=True,
            augmentations=[L(transforms.RandomFlip)(horizontal=True)],
            image_format="${model.input_format}",
        ),
        total_batch_size=1,
        num_workers=4,
    ),
    test=L(build_test_loader)(
        dataset=L(test_records)(name=MINIVAL),
        mapper=L(DetectionMapper)(is_train=False, augmentations=[], image_format="${model.input_format}"),
        num_workers=4,
    ),
    evaluator=L(CocoEvaluator)(
        dataset_name="${..test.dataset.name}", classes=L(class_names)(names="${...train.dataset.names}")
    ),
)

optimizer = L(clipped_sgd)(
    params=L(optimizer_params)(decay_heads=False, weight_decay_norm=0.0),
    lr=0.0003,
    momentum=0.9,
    weight_decay=5e-5,
    max_norm=10.0,
    data="${dataloader.train.dataset}",
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[900000, 1200000, 1500000]),
    warmup_length=0.0,
    warmup_factor=1.0,
)
train = typed(**{**get_config("common/train.py").train, "max_iter": 1500000, "seed": -1})
