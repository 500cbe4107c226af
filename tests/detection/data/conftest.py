"""Pictures of small data sets, and data sets in detectron2's catalog, removed after each test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Registers content, with empty files as images, under a name."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    names = []

    def call(data: Any, name: str = "made") -> None:
        for image in data.get("images", ()):
            Image.new("RGB", (40, 30)).save(tmp_path / image["file_name"])
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
        register_coco_instances(name, {}, str(tmp_path / f"{name}.json"), str(tmp_path))
        names.append(name)

    yield call
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The pictures of two small sets, in one folder."""
    from tests.detection.data.forms import small

    folder = tmp_path / "pictures"
    folder.mkdir()
    for split in ("train", "val"):
        for image in small(split)["images"]:
            Image.new("RGB", (40, 30)).save(folder / image["file_name"])
    return folder
