"""A finished run as one folder that can be moved: weights, config, classes, cell, card, scores and samples."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

import nasnet_det
from nasnet_det.detection.config import network_arguments
from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.look import read_record
from nasnet_det.detection.engine.prediction import picture_names
from nasnet_det.detection.engine.predictor import Predictor, load_config
from nasnet_det.detection.modeling.backbone import changes_of
from nasnet_det.draw.detections import detections_of, draw
from nasnet_det.genotypes.published import as_genotype
from nasnet_det.models.family import FAMILY
from nasnet_det.safe_io.files import replacing, write_text
from nasnet_det.safe_io.images import ImageError

WEIGHTS, CONFIG, SCORES = "model.safetensors", "config.yaml", "scores.json"
_SAMPLES = 8


def finish_folder(
    folder: Path,
    categories: Sequence[Mapping[str, Any]],
    scores: Mapping[str, float],
    plan: str,
    records: Sequence[Record],
) -> None:
    """Complete a run folder that has its weights and config: scores, classes, genotype, card and sample predictions.

    Args:
        folder: with :data:`WEIGHTS` and :data:`CONFIG`.
        categories: ``id`` and ``name`` of each class.
        scores: COCO's numbers of the weights, in percent.
        plan: the training in lines, for the card.
        records: those of the validation images, the first of which are drawn.
    """
    cfg = load_config(folder)
    measured = {name: value for name, value in scores.items() if math.isfinite(value)}
    write_text(folder / SCORES, json.dumps(measured, indent=2) + "\n")
    write_text(folder / "classes.txt", "".join(f"{category['name']}\n" for category in categories))
    node = network_arguments(cfg)
    genotype = as_genotype(node["genotype"] or FAMILY[node["network"]].genotype)
    write_text(folder / "genotype.json", genotype.to_json())
    write_text(folder / "README.md", card(folder.name, cfg, categories, scores, plan))
    draw_samples(Predictor(cfg), folder / "samples", records[:_SAMPLES])


def draw_samples(predictor: Predictor, folder: Path, records: Sequence[Record]) -> None:
    """Draw the detections on the images of some records; those that cannot be used are left out."""
    names = [str(category["name"]) for category in predictor.categories]
    for number, record in enumerate(records, start=1):
        (name,) = picture_names([Path(record["file_name"])])
        try:
            image = read_record(record)
            picture = draw(image, detections_of(predictor(image), names, threshold=0.5))
        except ImageError:
            continue
        with replacing(folder / f"{number}-{name}") as part:
            picture.save(part, format="JPEG", quality=92)


def card(
    name: str, cfg: CfgNode, categories: Sequence[Mapping[str, Any]], scores: Mapping[str, float], plan: str
) -> str:
    """Return a model card in Markdown, with the metadata that the Hugging Face hub reads."""
    found = ", ".join(
        f"{key} {scores[key]:.1f}" for key in ("AP", "AP50", "AP75") if math.isfinite(scores.get(key, math.nan))
    )
    classes = ", ".join(str(category["name"]) for category in categories)
    changes = changes_of(cfg.MODEL.NASNET).items()
    own = ["the cell in `genotype.json`" if key == "genotype" else f"{key} {value}" for key, value in changes]
    network = cfg.MODEL.NASNET.NETWORK + (f" with {', '.join(own)}" if own else "")
    return f"""---
library_name: nasnet_det
pipeline_tag: object-detection
tags: [object-detection, nasnet, detectron2]
---
# {name}

{cfg.MODEL.META_ARCHITECTURE} on {network}, trained by `nasnet-det finetune`, version
{nasnet_det.__version__}.

Validation, in percent: {found or "nothing was annotated"}. All numbers are in
`{SCORES}`, the course of the training in `metrics.csv`.

```sh
nasnet-det predict {shlex.quote(name)}/ pictures/
```

Classes: {classes}

```
{plan}
```
"""
