"""The second stage: chunks, labels, losses and detections."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.modeling.backbone import build_network
from nasnet_det.detection.modeling.roi_heads import LabelIds, NASNetROIHeads
from nasnet_det.detection.modeling.split import split_network
from nasnet_det.detection.modeling.suppression import Found

SIZE = (96, 128)


def heads(norm: str = "FrozenBN", **arguments: Any) -> NASNetROIHeads:
    torch.manual_seed(0)
    return NASNetROIHeads(
        **{
            "in_feature": "cut",
            "second_stage": split_network(build_network(num_cells=1, num_filters=4, norm=norm))[1],
            "box_transform": Box2BoxTransform((10.0, 10.0, 5.0, 5.0), scale_clamp=math.inf),
            "num_classes": 3,
            "crop_size": 5,
            "chunk_size": 4,
            "batch_size_per_image": 16,
            "positive_fraction": 0.25,
            "proposal_matcher": Matcher([0.5], [0, 1]),
            "proposal_append_gt": False,
            **arguments,
        }
    )


def batch(
    model: NASNetROIHeads, counts: tuple[int, ...] = (9, 6)
) -> tuple[ImageList, dict[str, Tensor], list[Instances]]:
    torch.manual_seed(1)
    channels = sum(model.second_stage.in_channels)
    features = {"cut": torch.randn(len(counts), channels, 6, 8)}
    proposals = []
    for count in counts:
        corner = torch.rand(count, 2) * 60
        boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2) * 30], dim=1)
        proposals.append(Instances(SIZE, proposal_boxes=Boxes(boxes), objectness_logits=torch.rand(count)))
    return ImageList(torch.zeros(len(counts), 3, *SIZE), [SIZE] * len(counts)), features, proposals


def truth(boxes: list[list[float]], classes: list[int]) -> Instances:
    return Instances(SIZE, gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)), gt_classes=torch.tensor(classes).long())


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
@pytest.mark.parametrize("counts", [(9, 6), (0, 5), (3,), (0,)])
@torch.no_grad()
def test_the_size_of_chunks_changes_nothing(chunk_size: int, counts: tuple[int, ...]) -> None:
    model = heads(chunk_size=chunk_size).eval()
    images, features, proposals = batch(model, counts)
    pooled = model.pooled_features(features["cut"], proposals)
    assert pooled.shape == (sum(counts), model.second_stage.out_channels)
    expected = [
        model.second_stage(model.crop(features["cut"][i], box[None] / torch.tensor([128, 96, 128, 96]))).mean((2, 3))
        for i, proposal in enumerate(proposals)
        for box in proposal.proposal_boxes.tensor
    ]
    if expected:
        torch.testing.assert_close(pooled, torch.cat(expected), rtol=1e-4, atol=1e-4 * float(pooled.abs().max()))
    detections, _ = model(images, features, proposals)
    assert [len(found) > 0 for found in detections] == [count > 0 for count in counts]


def test_no_more_than_a_chunk_runs_at_once() -> None:
    model, seen = heads(chunk_size=4).eval(), []
    model.second_stage.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
    images, features, proposals = batch(model)
    with torch.no_grad():
        model(images, features, proposals)
    assert seen == [3, 3, 3, 3, 3]  # as few as can be, and of a size


def test_trainable_norms_see_all_proposals_of_a_step_at_once() -> None:
    model, seen = heads("BN", chunk_size=4).train(), []
    model.second_stage.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
    images, features, proposals = batch(model)
    with EventStorage():
        model(images, features, proposals, [truth([[5, 5, 40, 40]], [1]), truth([], [])])
    assert seen == [15]


def test_chunks_in_training_give_the_gradients_of_one_piece() -> None:
    gradients = []
    for chunk_size in (4, 100):
        model = heads(chunk_size=chunk_size).train()
        images, features, proposals = batch(model)
        features["cut"].requires_grad_()
        torch.manual_seed(2)
        with EventStorage():
            _, losses = model(images, features, proposals, [truth([[5, 5, 40, 40]], [1]), truth([[9, 9, 30, 30]], [2])])
        sum(losses.values()).backward()
        gradients.append([features["cut"].grad, *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_losses_are_what_the_definition_says() -> None:
    model = heads(batch_size_per_image=100, positive_fraction=1.0, loss_weights=(1.0, 2.0)).train()
    images, features, proposals = batch(model)
    objects = [truth([[0, 0, 1, 1]], [1]), truth([], [])]
    objects[0].gt_boxes.tensor[0] = proposals[0].proposal_boxes.tensor[2] + 1.0
    with EventStorage():
        _, losses = model(images, features, proposals, objects)
    pooled = model.pooled_features(features["cut"], proposals).detach()
    logits, deltas = model.class_layer(pooled).split([9, 6]), model.box_layer(pooled)[:9].unflatten(1, (3, 4))
    box = objects[0].gt_boxes.tensor[0]
    overlaps = box_iou(box[None], proposals[0].proposal_boxes.tensor)[0]
    labels = [1 if overlap >= 0.5 else 3 for overlap in overlaps]
    assert 1 in labels and 3 in labels
    first = functional.cross_entropy(logits[0], torch.tensor(labels), reduction="sum") / 9
    second = functional.cross_entropy(logits[1], torch.full((6,), 3), reduction="sum") / 6
    assert float(losses["loss_cls"].detach()) == pytest.approx(float((first + second).detach()) / 2, rel=1e-4)
    localization = 0.0
    for k in [k for k, label in enumerate(labels) if label == 1]:
        wanted = model.box_transform.get_deltas(proposals[0].proposal_boxes.tensor[k : k + 1], box[None])[0]
        localization += float(functional.smooth_l1_loss(deltas[k, 1].detach(), wanted, reduction="sum"))
    assert float(losses["loss_box_reg"].detach()) == pytest.approx(2.0 * localization / 9 / 2, rel=1e-4)


def test_every_weight_has_a_gradient_without_objects() -> None:
    model = heads().train()
    images, features, proposals = batch(model)
    with EventStorage():
        _, losses = model(images, features, proposals, [truth([], []), truth([], [])])
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_crops_may_be_pooled() -> None:
    model = heads(crop_size=6, crop_pool=(2, 2))
    assert model.crop(torch.randn(24, 6, 8), torch.tensor([[0.0, 0.0, 0.5, 0.5]])).shape == (1, 24, 3, 3)


def test_labels_with_gaps() -> None:
    ids = LabelIds([1, 3, 4], 5)
    found = ids.to_labels(Instances(SIZE, gt_classes=torch.tensor([2, 0, 1, 1]), gt_boxes=Boxes(torch.rand(4, 4))))
    assert found.gt_classes.tolist() == [3, 0, 2, 2]
    detected = Found(torch.rand(5, 4), torch.arange(5.0), *[torch.arange(5)] * 2, torch.tensor([1, 1, 1, 0, 1]).bool())
    classes = ids.to_classes(detected).existing()
    assert (classes.classes.tolist(), classes.scores.tolist()) == ([0, 1], [0, 2])
    assert LabelIds([], 3).to_labels(truth([], [])).gt_classes.tolist() == []


def test_the_coco_config_names_the_80_ids_that_exist(small_config: Any) -> None:
    from detectron2.data import MetadataCatalog

    cfg = small_config("nasnet_frcnn.yaml")
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    assert list(cfg.MODEL.NASNET.LABEL_IDS) == sorted(ids, key=lambda label: ids[label])


@pytest.mark.parametrize("ids", [[0, 1], [1, 1], [4]])
def test_labels_that_the_network_does_not_have_are_refused(ids: list[int]) -> None:
    with pytest.raises(ConfigError, match="LABEL_IDS"):
        LabelIds(ids, 3)


def test_a_class_that_the_network_does_not_have_is_named() -> None:
    with pytest.raises(ConfigError, match="NUM_CLASSES"):
        LabelIds([], 3).to_labels(truth([[0, 0, 1, 1]], [3]))


def test_a_chunk_holds_something() -> None:
    with pytest.raises(ConfigError, match="CHUNK_SIZE"):
        heads(chunk_size=-1)


def test_a_negative_number_of_detections_keeps_all_as_in_detectron2() -> None:
    counts = []
    for total in (-1, -5, 10**6):
        model = heads(nms_threshold=1.0, total=total).eval()
        images, features, proposals = batch(model)
        with torch.no_grad():
            counts.append([len(found) for found in model(images, features, proposals)[0]])
    assert counts[0] == counts[1] == counts[2] and min(counts[0]) > 5
    with pytest.raises(ConfigError, match="total"):
        heads(total=0)
