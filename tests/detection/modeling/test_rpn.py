"""The region proposal network: anchors, matching, proposals and losses of TF's Faster R-CNN."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from nasnet_det.detection.modeling.rpn import BACKGROUND, IGNORED, GridAnchorGenerator, NASNetRPN, RPNHead, match

SIZE = (96, 128)


def rpn(**arguments: object) -> NASNetRPN:
    torch.manual_seed(0)
    anchors = GridAnchorGenerator(sizes=[[16.0, 32.0]], aspect_ratios=[[2.0, 1.0, 0.5]], strides=[16], offset=0.0)
    return NASNetRPN(
        in_feature="cut",
        head=RPNHead(8, 6, channels=16),
        anchor_generator=anchors,
        box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0), scale_clamp=math.inf),
        **arguments,  # type: ignore[arg-type]
    )


def batch(count: int = 1) -> tuple[ImageList, dict[str, Tensor]]:
    torch.manual_seed(1)
    return ImageList(torch.zeros(count, 3, *SIZE), [SIZE] * count), {"cut": 3 * torch.randn(count, 8, 6, 8)}


def test_anchors_are_in_tensorflow_s_order() -> None:
    generator = GridAnchorGenerator(sizes=[[64, 128]], aspect_ratios=[[2.0, 0.5]], strides=[16], offset=0.0)
    anchors = generator([torch.zeros(1, 1, 2, 3)])[0].tensor
    assert anchors.shape == (2 * 3 * 4, 4)
    wide, high = 64 / math.sqrt(2), 64 * math.sqrt(2)
    sizes = [(wide, high), (2 * wide, 2 * high), (high, wide), (2 * high, 2 * wide)]  # ratio 2 first: high ones
    for number, anchor in enumerate(anchors):
        place, kind = divmod(number, 4)
        y, x = 16 * (place // 3), 16 * (place % 3)  # rows first; the first centre lies on the image's corner
        width, height = sizes[kind]
        expected = torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        torch.testing.assert_close(anchor, expected)


def test_matching_by_thresholds() -> None:
    iou = torch.tensor([[0.9, 0.7, 0.69, 0.3, 0.29, 0.0], [0.1, 0.2, 0.1, 0.1, 0.1, 0.8]])
    assert match(iou, 0.7, 0.3).tolist() == [0, 0, IGNORED, IGNORED, BACKGROUND, 1]


def test_every_object_has_its_first_best_anchor() -> None:
    iou = torch.tensor([[0.8, 0.1, 0.2, 0.2], [0.6, 0.1, 0.5, 0.5], [0.1, 0.0, 0.25, 0.25]])
    # Object 1's best anchor is 0, which object 0 has already; object 2's are 2 and 3, of which it gets the first.
    assert match(iou, 0.7, 0.3).tolist() == [0, BACKGROUND, 2, IGNORED]


def test_an_object_that_no_anchor_touches_gets_the_first() -> None:
    assert match(torch.zeros(1, 3), 0.7, 0.3).tolist() == [0, BACKGROUND, BACKGROUND]


def test_without_objects_all_is_background() -> None:
    assert match(torch.zeros(0, 3), 0.7, 0.3).tolist() == [BACKGROUND] * 3
    assert match(torch.zeros(2, 0), 0.7, 0.3).tolist() == []


def test_proposals_lie_in_the_image_best_first_and_apart() -> None:
    model = rpn(max_proposals=(5, 11)).eval()
    proposals, losses = model(*batch(2))
    assert losses == {}
    for proposal in proposals:
        boxes = proposal.proposal_boxes.tensor
        assert 0 < len(boxes) <= 11
        assert (boxes >= 0).all() and (boxes[:, 2] <= SIZE[1]).all() and (boxes[:, 3] <= SIZE[0]).all()
        logits = proposal.objectness_logits
        assert torch.equal(logits, logits.sort(descending=True).values)


def test_inference_decodes_from_clipped_anchors_and_training_from_those_inside() -> None:
    model = rpn(nms_threshold=1.0, max_proposals=(1000, 1000))
    torch.nn.init.zeros_(model.head.boxes.weight)  # proposals are then the anchors themselves
    images, features = batch()
    anchors = model.anchor_generator([features["cut"]])[0].tensor
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= SIZE[1]) & (anchors[:, 3] <= SIZE[0])
    high = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]]).float()
    clipped = torch.minimum(anchors, high).clamp(min=0)

    def boxes_of(training: bool, truth: list[Instances] | None) -> set[tuple[float, ...]]:
        with EventStorage():
            found = model.train(training)(images, features, truth)[0][0].proposal_boxes.tensor
        return {tuple(box) for box in (found * 8).round().tolist()}

    truth = [Instances(SIZE, gt_boxes=Boxes(torch.tensor([[10.0, 10.0, 40.0, 40.0]])))]
    assert boxes_of(False, None) == {tuple(box) for box in (clipped * 8).round().tolist()}
    assert boxes_of(True, truth) == {tuple(box) for box in (anchors[inside] * 8).round().tolist()}


def test_losses_are_what_the_definition_says() -> None:
    model = rpn(batch_size=10**6, positive_fraction=1.0, loss_weights=(1.0, 2.0)).train()  # all anchors are sampled
    images, features = batch(2)
    truth = [
        Instances(SIZE, gt_boxes=Boxes(torch.tensor([[20.0, 20.0, 52.0, 50.0], [60.0, 10.0, 75.0, 30.0]]))),
        Instances(SIZE, gt_boxes=Boxes(torch.zeros(0, 4))),
    ]
    with EventStorage():
        _, losses = model(images, features, truth)
    logits, deltas = (value.detach() for value in model.head(features["cut"]))
    anchors = model.anchor_generator([features["cut"]])[0].tensor
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= SIZE[1]) & (anchors[:, 3] <= SIZE[0])
    objectness, localization = [], []
    for i, objects in enumerate(truth):
        boxes = objects.gt_boxes.tensor
        sampled, summed_objectness, summed_localization = 0, 0.0, 0.0
        overlaps = box_iou(anchors, boxes) if len(boxes) else None
        forced = {}
        if overlaps is not None:
            masked = overlaps.masked_fill(~inside[:, None], -1)
            forced = {int(masked[:, j].argmax()): j for j in reversed(range(len(boxes)))}
        for a in inside.nonzero()[:, 0].tolist():
            best, which = (overlaps[a].max(0).values, int(overlaps[a].argmax())) if overlaps is not None else (0.0, 0)
            label = 1 if a in forced or best >= 0.7 else 0 if best < 0.3 else None
            if label is None:
                continue
            sampled += 1
            summed_objectness += float(functional.cross_entropy(logits[i, a : a + 1], torch.tensor([label])))
            if label:
                wanted = encode(anchors[a], boxes[forced.get(a, which)])
                summed_localization += float(functional.smooth_l1_loss(deltas[i, a], wanted, reduction="sum"))
        objectness.append(summed_objectness / sampled)
        localization.append(summed_localization / sampled)
    assert float(losses["loss_rpn_cls"]) == pytest.approx(sum(objectness) / 2, rel=1e-4)
    assert float(losses["loss_rpn_loc"]) == pytest.approx(2.0 * sum(localization) / 2, rel=1e-4)


def encode(anchor: Tensor, box: Tensor) -> Tensor:
    """TF's box coder with scales 10, 10, 5, 5."""
    size, wanted = anchor[2:] - anchor[:2], box[2:] - box[:2]
    shift = ((box[:2] + box[2:]) - (anchor[:2] + anchor[2:])) / 2 / size
    return torch.cat([10 * shift, 5 * (wanted / size).log()])


def test_the_sample_is_bounded_and_half_positive() -> None:
    model = rpn(batch_size=8, positive_fraction=0.5, thresholds=(0.3, 0.3)).train()
    images, features = batch()
    boxes = torch.tensor([[x, y, x + 30.0, y + 30.0] for x in (5.0, 40.0, 80.0) for y in (5.0, 50.0)])
    with EventStorage() as storage:
        model(images, features, [Instances(SIZE, gt_boxes=Boxes(boxes))])
        sampled = {name: value for name, (value, _) in storage.latest().items()}
    assert sampled == {"rpn/num_pos_anchors": 4, "rpn/num_neg_anchors": 4}


def test_training_without_any_proposal_takes_the_whole_image() -> None:
    model = rpn(score_threshold=0.99).train()
    images, features = batch()
    with EventStorage():
        proposals, _ = model(images, features, [Instances(SIZE, gt_boxes=Boxes(torch.zeros(0, 4)))])
    assert proposals[0].proposal_boxes.tensor.tolist() == [[0, 0, 128, 96]]
    assert len(model.eval()(images, features)[0][0]) == 0
