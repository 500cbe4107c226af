"""From the first stage to the detections the host never waits for the device.

Without a GPU: on stand-ins for a GPU's tensors, which have shapes and no values, so that whatever needs a value fails,
and with an eye on every copy between host and device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nasnet_det.fusion import optimize_for_inference

#: One that knows its labels with gaps, as the published detectors do, and more proposals than go through at once.
OPTIONS = {"MODEL__NASNET__LABEL_IDS": [1, 3], "MODEL__ROI_HEADS__NUM_CLASSES": 4, "MODEL__NASNET__CHUNK_SIZE": 5}


@pytest.fixture(autouse=True)
def stand_ins() -> None:
    try:
        with FakeTensorMode():
            torch.ones(3).to("cuda")
    except RuntimeError:
        pytest.skip(f"this PyTorch ({torch.__version__}) makes no stand-ins for a GPU's tensors without one")


class Copies(TorchDispatchMode):
    """Notes what copies between two kinds of devices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        positions = {value.device.type for value in tree_leaves((args, kwargs, result)) if self.matters(value)}
        if len(positions) > 1:
            self.seen.append(str(func))
        return result

    @staticmethod
    def matters(value: Any) -> bool:
        """A number of the host is a launch's argument: it waits for nothing."""
        return isinstance(value, Tensor) and not (value.device.type == "cpu" and value.dim() == 0)


def put_on_a_gpu(model: nn.Module) -> None:
    """Stand-ins for all that a model holds."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, real in held.items():
                if real is not None:
                    made = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device="cuda")
                    held[name] = nn.Parameter(made, requires_grad=False) if held is module._parameters else made


def stages(model: Any, size: tuple[int, int], count: int) -> list[Any]:
    """What ``GeneralizedRCNN.inference`` calls one after the other, up to where detections are counted."""
    images = ImageList(torch.zeros(count, 3, *size, device=model.device), [size] * count)
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features, None)
    heads = model.roi_heads
    pooled = heads.pooled_features(features[heads.in_feature], proposals)
    logits, deltas = heads.class_layer(pooled), heads.box_layer(pooled)
    limit = len(proposals[0])
    outputs = zip(proposals, logits.split(limit), deltas.split(limit), strict=True)
    return [heads.label_ids.to_classes(heads.detect(*output)) for output in outputs]


@pytest.mark.parametrize("fused", [False, True])
def test_nothing_between_the_stages_needs_a_value(small_config: Any, fused: bool) -> None:
    model = build_model(small_config("nasnet_frcnn_mobile_600.yaml", **OPTIONS)).eval()
    model = optimize_for_inference(model) if fused else model
    with FakeTensorMode(), torch.no_grad():
        put_on_a_gpu(model)
        with Copies() as copies:
            found = stages(model, (96, 128), 2)
        assert copies.seen == []
        assert [tuple(one.boxes.shape) for one in found] == [(12 * 4, 4)] * 2  # proposals times labels
        assert all(field.device.type == "cuda" for one in found for field in one)
        # The one thing that does: how many detections there are, which detectron2's Instances must know.
        with pytest.raises((DynamicOutputShapeException, DataDependentOutputException)):
            found[0].existing()


def test_the_eye_sees_copies() -> None:
    with FakeTensorMode():
        x = torch.zeros(3, device="cuda")
        for copy in (lambda: x.new_tensor([1.0, 2.0]), lambda: x.cpu(), lambda: x + torch.ones(3).to("cuda")):
            with Copies() as copies:
                copy()
            assert copies.seen
        with Copies() as copies:
            _ = x * 2.0 + x.new_full((), 3.0)
        assert copies.seen == []


@torch.no_grad()
def test_proposals_of_fixed_size_give_the_same_detections(small_config: Any) -> None:
    torch.manual_seed(0)
    model = build_model(small_config("nasnet_frcnn_mobile_600.yaml", **OPTIONS, MODEL__NASNET__NORM="LN")).eval()
    model.proposal_generator.head.objectness.weight.mul_(100)
    model.proposal_generator.nms_threshold = 0.0  # so that there are fewer than fit
    proposals = []
    model.proposal_generator.register_forward_hook(lambda module, arguments, outputs: proposals.extend(outputs[0]))
    images = [{"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8)} for size in ((50, 70), (80, 40))]
    dropped = model(images)
    model.proposal_generator.fixed_size_on = ("cpu",)
    fixed = model(images)
    few, padded = proposals[:2], proposals[2:]
    assert any(0 < len(proposal) < 12 for proposal in few)
    for one, other in zip(few, padded, strict=True):
        assert len(other) == 12 and int(other.valid.sum()) == len(one)
        assert torch.equal(other.proposal_boxes.tensor[other.valid], one.proposal_boxes.tensor)
    for one, other in zip(fixed, dropped, strict=True):
        one, other = one["instances"], other["instances"]
        assert len(one) == len(other) > 0
        assert torch.equal(one.pred_classes, other.pred_classes)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, rtol=1e-4, atol=1e-3)


def test_only_heads_that_know_the_mask_get_it(small_config: Any) -> None:
    model = build_model(small_config("nasnet_frcnn_mobile_600.yaml"))
    assert model.proposal_generator.fixed_size_on == ("cuda",)
    from nasnet_det.detection.modeling.rpn import NASNetRPN

    cfg = small_config("nasnet_frcnn_mobile_600.yaml")
    alone = NASNetRPN(cfg, model.backbone.output_shape())
    assert alone.fixed_size_on == ()
