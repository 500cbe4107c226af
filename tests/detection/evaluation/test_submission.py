"""The files for COCO's server."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from nasnet_det.detection.evaluation.submission import write_submission
from nasnet_det.safe_io.files import OverwriteError


def test_submission_is_named_and_packed_as_the_server_asks(tmp_path: Path) -> None:
    many = [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": i / 200} for i in range(150)]
    path, archive = write_submission(many, tmp_path, "NASNet-A")
    assert path.name == "detections_test-dev2017_NASNet-A_results.json"
    assert archive.name == "detections_test-dev2017_NASNet-A_results.zip"
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == [path.name]
        packed = json.loads(file.read(path.name))
    assert packed == json.loads(path.read_text())
    assert sorted(r["score"] for r in packed) == [i / 200 for i in range(50, 150)]
    with pytest.raises(ValueError, match="algorithm"):
        write_submission(many, tmp_path, "../NASNet_A")


@pytest.mark.parametrize("ending", ["json", "zip"])
def test_only_earlier_submissions_are_replaced(tmp_path: Path, ending: str) -> None:
    for _ in range(2):
        write_submission([{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}], tmp_path, "NASNet-A")
    own = tmp_path / f"detections_test-dev2017_mine_results.{ending}"
    own.write_bytes(b"PK\x03\x04 of the user")
    with pytest.raises(OverwriteError, match=own.name):
        write_submission([], tmp_path, "mine")
    assert own.read_bytes() == b"PK\x03\x04 of the user" and len([*tmp_path.iterdir()]) == 3
