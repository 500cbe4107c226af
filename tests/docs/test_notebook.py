"""The notebook runs from top to bottom, with a thin checkpoint instead of its installations and downloads."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import PROJECT

NOTEBOOK = PROJECT / "notebooks" / "nasnet_det.ipynb"
#: Replacements of the cells that install or download, by their tag.
STAND_INS = {
    "setup": "from pathlib import Path",
    "download": "archive = Path('faster_rcnn_nas_coco_2018_01_28.tar.gz')",
}
SETTINGS = "steps, side, workers = 300, 600, 2"


@pytest.fixture
def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def thin_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An archive with a thin detector's variables, read without TensorFlow, for small images and few proposals."""
    pytest.importorskip("detectron2")
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from nasnet_det.detection.convert import tf_detector
    from nasnet_det.detection.engine.demo import DATASET
    from tests.helpers import tf_detector_variables as arrays

    (tmp_path / "model.ckpt.index").touch()
    with tarfile.open(tmp_path / "faster_rcnn_nas_coco_2018_01_28.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "model.ckpt.index", "faster_rcnn_nas_coco_2018_01_28/model.ckpt.index")
    cfg = tf_detector.base_config()
    cfg.MODEL.NASNET.IMAGE_SIZE = [128, 128]
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 30, 12
    cfg.MODEL.DEVICE = "cpu"
    monkeypatch.setattr(tf_detector, "read_arrays", lambda path: arrays())
    monkeypatch.setattr(tf_detector, "base_config", lambda: cfg)
    monkeypatch.chdir(tmp_path)
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        if DATASET in catalog:
            catalog.remove(DATASET)


def test_it_is_a_notebook() -> None:
    pytest.importorskip("nbformat").validate(json.loads(NOTEBOOK.read_text(encoding="utf-8")))


def test_it_keeps_no_output(cells: list[dict[str, Any]]) -> None:
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_it_runs(cells: list[dict[str, Any]], thin_checkpoint: None) -> None:
    namespace: dict[str, Any] = {"__name__": "__notebook__"}
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    assert sum(SETTINGS in "".join(cell["source"]) for cell in cells) == 1
    for cell in cells:
        tag = next(iter(cell["metadata"].get("tags", [])), None)
        text = STAND_INS[tag] if tag else "".join(cell["source"])
        text = text.replace(SETTINGS, "steps, side, workers = 2, 128, 0")
        exec(compile(text, cell["id"], "exec"), namespace)
    assert Path("tuned/model_final.pth").is_file() and 0 <= namespace["scores"]["AP"] <= 100
    last = eval(text.splitlines()[-1], namespace)
    assert last.size[0] >= 480 and last.size[1] >= 360
