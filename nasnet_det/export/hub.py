"""Models as folders for the Hugging Face Hub: classifiers in timm's format with a model card, and fine-tuned detectors.

Once this package is imported, timm loads such a folder, or the repository that it was pushed to::

    timm.create_model("local-dir:FOLDER", pretrained=True)
    timm.create_model("hf-hub:OWNER/REPOSITORY", pretrained=True)
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download

from nasnet_det.models.family import FAMILY
from nasnet_det.models.network import NASNet
from nasnet_det.training.models import write_timm_folder

#: The files of a fine-tuned detector on the hub.
RUN_FILES = (
    *("model.safetensors", "config.yaml", "README.md", "classes.txt", "genotype.json", "scores.json", "metrics.csv"),
    "samples/*",
)
_CARD = """\
---
library_name: timm
pipeline_tag: image-classification
license: {license}
tags:
- image-classification
- timm
- nasnet_det
---
# {title}

A network of the cell {cell}, {parameters:.2f} million parameters, {classes} classes, for images of {height} x {width}
pixels normalized with mean {mean} and standard deviation {std}.

## What these weights are

{weights}

## What they are not

{limits}

## Use

```python
import timm
import nasnet_det

model = timm.create_model("{location}", pretrained=True)
```

## Source of the cell

{source}

The cell itself is in `genotype.json`. Networks: Zoph et al., Learning Transferable Architectures for Scalable Image
Recognition, CVPR 2018 (arXiv:1707.07012). Built with [timm](https://github.com/huggingface/pytorch-image-models).
"""
_PUBLISHED = (
    "{source} prints {accuracy} for this architecture. That figure is the paper's and belongs to the weights that its "
    "authors trained; it says nothing of these."
)
_NOTHING_MEASURED = "No accuracy is claimed beyond what stands above."


def save_hub_folder(
    model: NASNet,
    folder: str | Path,
    weights: str,
    limits: str = "",
    license: str = "apache-2.0",
    location: str | None = None,
) -> Path:
    """Write a model as a folder for the hub: ``config.json``, ``model.safetensors``,
    ``genotype.json`` and the card, ``README.md``.

    Args:
        model: created by ``timm.create_model``, not ``features_only``.
        folder: the target; created if missing, and files of these names are replaced.
        weights: description of the weights for the card: training data, method, authors, measured accuracy.
        limits: limits of the weights for the card: what was not measured, where they should not be used.
        license: identifier of the weights' license, such as ``apache-2.0``.
        location: argument of ``timm.create_model`` in the card; the local folder if None.

    Returns:
        the folder.

    Raises:
        ValueError: if the weights are not described or not finite, the license is not an identifier, or the model was
            not created by timm.
        OSError: if the folder is not writable or the disk is full.
    """
    _check(model, weights, license)
    folder = Path(folder)
    card = _card(model, weights, limits, license, location or f"local-dir:{folder.name}")

    def add(folder: Path) -> None:
        model.genotype.save(folder / "genotype.json")
        (folder / "README.md").write_text(card, encoding="utf-8")

    write_timm_folder(model, folder, json.loads(json.dumps(model._model_args)), add=add)
    return folder


def push_to_hub(
    model: NASNet,
    repository: str,
    weights: str,
    limits: str = "",
    license: str = "apache-2.0",
    private: bool = False,
    api: HfApi | None = None,
) -> str:
    """Push a model to a repository of the hub, created if missing; see :func:`save_hub_folder`.

    Args:
        repository: ``OWNER/NAME``.
        private: whether a new repository is private.
        api: the hub's client; by default that of ``huggingface_hub``, with the login of ``hf auth login``.

    Returns:
        the repository's address.

    Raises:
        ValueError: see :func:`save_hub_folder`; or for an invalid repository name.
        OSError: if the hub refuses or is not reachable; the errors of its client are of this type.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_hub_folder(model, Path(folder) / "model", weights, limits, license, f"hf-hub:{repository}")
        return _push(Path(folder) / "model", repository, private, api)


def push_run_to_hub(folder: str | Path, repository: str, private: bool = False, api: HfApi | None = None) -> str:
    """Push the folder of a finished ``nasnet-det finetune`` to a repository of the hub, made if need be.

    Only :data:`RUN_FILES` are pushed: no checkpoints, and no logs. ``hf-hub:OWNER/NAME`` then names the detector in
    ``nasnet-det predict`` and ``evaluate``.

    Args:
        folder: the run folder.
        repository, private, api: see :func:`push_to_hub`.

    Returns:
        the repository's address.

    Raises:
        ValueError: if the run is not finished.
        OSError: if the hub refuses, or cannot be reached.
    """
    missing = [
        name for name in ("model.safetensors", "config.yaml", "README.md") if not (Path(folder) / name).is_file()
    ]
    if missing:
        raise ValueError(f"{folder} is not the folder of a finished run: it has no {' and no '.join(missing)}")
    return _push(Path(folder), repository, private, api, allow_patterns=list(RUN_FILES))


def fetch_run(repository: str) -> Path:
    """Return the folder of a run that :func:`push_run_to_hub` pushed to ``OWNER/NAME``, downloaded if need be.

    Raises:
        OSError: if the hub has no such repository, or cannot be reached.
    """
    return Path(snapshot_download(repository, allow_patterns=list(RUN_FILES)))


def _push(folder: Path, repository: str, private: bool, api: HfApi | None, **more: Any) -> str:
    api = api or HfApi(library_name="nasnet_det")
    address = api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Add model", **more)
    return str(address)


def _check(model: NASNet, weights: str, license: str) -> None:
    if not weights.strip():
        raise ValueError("weights is empty: describe their training data, method, authors and measured accuracy")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
        raise ValueError(f"license must be an identifier such as apache-2.0, got {license!r}")
    if not isinstance(model, NASNet) or not getattr(model, "pretrained_cfg", None):
        raise ValueError(
            f"expected a classifier created by timm.create_model, got {type(model).__name__}: leave out features_only"
        )
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"{name} holds values that are not finite: publish a checkpoint from before the training diverged"
            )


def _card(model: NASNet, weights: str, limits: str, license: str, location: str) -> str:
    cfg: Any = model.pretrained_cfg
    variant = FAMILY.get(cfg["architecture"])
    said = [limits.strip()] if limits.strip() else []
    if variant is not None and variant.accuracy:
        said.append(_PUBLISHED.format(source=variant.source, accuracy=f"{variant.accuracy} (in %)"))
    _, height, width = cfg["input_size"]
    return _CARD.format(
        license=license,
        title=cfg["architecture"],
        cell=model.genotype.name or "in `genotype.json`",
        parameters=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        classes=model.num_classes,
        height=height,
        width=width,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        weights=weights.strip(),
        limits="\n\n".join([*said, _NOTHING_MEASURED]),
        location=location,
        source=model.genotype.source or "Not stated.",
    )
