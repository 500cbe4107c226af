"""The plan of a fine-tuning: image size, batch and schedule, scaled to the data and to the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

#: Sides between which images are resized, on a CPU and on a GPU, in steps that every pyramid can take.
_SIDES = {"cpu": (192, 512), "cuda": (320, 800)}
_STEP = 32
#: The weights of a plan that are ImageNet's: the published ones, and those of a file that the config names.
PUBLISHED, CONFIGURED = "published", "the config's"
#: Images up to this side have anchors of half the model's sizes.
_HALF_SIDE = 400
#: What the median object should measure, in pixels: about two positions of the finest map of a pyramid.
_OBJECT = 24
#: Images that a training sees at least, and how often it sees each image of a large data set.
_SEEN = {"cpu": 900, "cuda": 16000}
_EPOCHS = 12
_EVALUATIONS = 15
#: AdamW's rate for a batch of 3; other batches scale it by the square root.
_RATE, _RATE_OF_PRETRAINED, _RATE_BATCH = 2e-3, 2e-4, 3
#: Heads for images of a CPU's size, as configs/demo.yaml has them.
_THIN_HEADS: dict[str, Any] = {
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 256,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 128,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 400,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 400,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 200,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.5,
}


@dataclass(frozen=True)
class DataFacts:
    """The measures of a training set that a plan follows from.

    Args:
        images, objects: how many there are.
        short_side: the images' median shorter side in pixels.
        object_share: the median of the square root of an object's area, as a share of its image's shorter side.
    """

    images: int
    objects: int
    short_side: float
    object_share: float

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> DataFacts:
        """Measure checked COCO content."""
        sides = {image["id"]: min(image["width"], image["height"]) for image in content["images"]}
        boxes = [entry for entry in content["annotations"] if min(entry["bbox"][2:]) > 0]
        shares = [math.sqrt(entry["bbox"][2] * entry["bbox"][3]) / sides[entry["image_id"]] for entry in boxes]
        return cls(len(sides), len(boxes), median(sides.values()), median(shares) if shares else 1.0)


@dataclass(frozen=True)
class Plan:
    """A fine-tuning in numbers.

    Args:
        model: the config's name or file.
        weights: a checkpoint of a detector, :data:`PUBLISHED` ImageNet weights, those of a file that the config names
            (:data:`CONFIGURED`), or empty for random weights.
        device: ``cpu`` or ``cuda``.
        image_size: shorter side that images are resized to.
        batch_size: images of a step.
        steps: of the whole schedule.
        learning_rate: AdamW's, after the warmup; it falls to 0 along a cosine.
        eval_period: steps between two evaluations.
        patience: evaluations without a better AP after which training stops.
        average_decay: of the moving average of the weights.
    """

    model: str
    weights: str
    device: str
    image_size: int
    batch_size: int
    steps: int
    learning_rate: float
    eval_period: int
    patience: int
    average_decay: float

    def settings(self) -> dict[str, Any]:
        """Return the plan as keys and values of detectron2's config."""
        random = not self.weights
        settings: dict[str, Any] = {
            "MODEL.DEVICE": self.device,
            "MODEL.WEIGHTS": "" if self.has_new_heads else self.weights,
            "MODEL.NASNET.NORM": "BN" if random else "FrozenBN",
            "MODEL.NASNET.BN_MOMENTUM": 0.1 if random else 0.0,
            "INPUT.MIN_SIZE_TRAIN": [self.image_size],
            "INPUT.MIN_SIZE_TEST": self.image_size,
            "INPUT.MAX_SIZE_TRAIN": 2 * self.image_size,
            "INPUT.MAX_SIZE_TEST": 2 * self.image_size,
            "SOLVER.IMS_PER_BATCH": self.batch_size,
            "SOLVER.BASE_LR": self.learning_rate,
            "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
            "SOLVER.WARMUP_ITERS": min(1000, self.steps // 15),
            "SOLVER.WEIGHT_DECAY": 1e-4,
            "SOLVER.MAX_ITER": self.steps,
            "SOLVER.STEPS": [],
            "SOLVER.CLIP_GRADIENTS.ENABLED": True,
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
            "SOLVER.AMP.ENABLED": self.device == "cuda",
            "TEST.EVAL_PERIOD": self.eval_period,
        }
        if self.weights != CONFIGURED:
            settings["MODEL.NASNET.PRETRAINED"] = PUBLISHED if self.weights == PUBLISHED else ""
        if self.device == "cpu" and self.has_new_heads:
            settings |= _THIN_HEADS
        return settings

    @property
    def has_new_heads(self) -> bool:
        """True unless the weights are those of a whole detector."""
        return self.weights in ("", PUBLISHED, CONFIGURED)

    @property
    def halves_anchors(self) -> bool:
        """True for images so small that the objects on them are about half as large as the model's anchors are for."""
        return self.device == "cpu" and self.has_new_heads and self.image_size <= _HALF_SIDE

    def table(self) -> str:
        """Return the plan as lines for a person."""
        return "\n".join(f"  {name.replace('_', ' '):16}{value or 'random'}" for name, value in asdict(self).items())


def make_plan(facts: DataFacts, model: str, weights: str, device: str, **given: Any) -> Plan:
    """Scale a fine-tuning to its data and device.

    Args:
        facts: of the training set.
        model: the config's name or file.
        weights, device: as in :class:`Plan`.
        given: any of ``image_size``, ``batch_size``, ``epochs`` and ``patience`` that are not to be chosen; None counts
            as not given.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    side = chosen.get("image_size") or _image_size(facts, device)
    batch = chosen.get("batch_size") or _batch_size(facts, device, side)
    seen = chosen["epochs"] * facts.images if "epochs" in chosen else max(_SEEN[device], _EPOCHS * facts.images)
    steps = max(1, math.ceil(seen / batch))
    rate = (_RATE_OF_PRETRAINED if weights else _RATE) * math.sqrt(batch / _RATE_BATCH)
    period = max(1, steps // _EVALUATIONS)
    decay = 1 - 1 / max(10, min(2000, steps // 15))
    patience = chosen.get("patience", 5)
    return Plan(model, weights, device, side, batch, steps, round(rate, 6), period, patience, round(decay, 6))


def _image_size(facts: DataFacts, device: str) -> int:
    least, most = _SIDES[device]
    wanted = _OBJECT / max(facts.object_share, 1e-3) if device == "cpu" else facts.short_side
    side = min(max(wanted, least), most, max(facts.short_side, least))
    return _STEP * math.ceil(side / _STEP)


def _batch_size(facts: DataFacts, device: str, side: int) -> int:
    if device == "cpu":
        return min(3, facts.images)
    return max(1, min(16, facts.images, int(16 * (640 / side) ** 2)))
