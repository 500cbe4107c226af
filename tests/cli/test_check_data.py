"""The command that looks at a folder, run as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from nasnet_det.cli.check_data import main
from tests.draw.browser import shown


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three annotated pictures, undivided."""
    root = tmp_path / "mine"
    (root / "images").mkdir(parents=True)
    for number in (1, 2, 3):
        Image.new("RGB", (60, 40), "grey").save(root / "images" / f"{number}.png")
    images = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in (1, 2, 3)]
    boxes = [{"id": i, "image_id": i, "category_id": 4, "bbox": [5, 5, 10 * i, 20]} for i in (1, 2, 3)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 4, "name": "hen"}]}
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def change(folder: Path, group: str, number: int, **values: object) -> None:
    content = json.loads((folder / "annotations.json").read_text())
    content[group][number].update(values)
    (folder / "annotations.json").write_text(json.dumps(content))


def test_counts_are_printed_and_a_page_drawn(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = tmp_path / "page.html"
    assert main([str(folder), "--output", str(page), "--samples", "2"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"boxes\s+3", printed) and re.search(r"hen\s+3", printed)
    text = page.read_text()
    assert text.count("<img") == 2 and "mine_all" in text


def test_fatal_trouble_is_status_2_and_on_the_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "images" / "2.png").unlink()
    change(folder, "annotations", 2, bbox=[5, 5, -10, 20])
    page = tmp_path / "page.html"
    assert main([str(folder), "--output", str(page)]) == 2
    captured = capsys.readouterr()
    assert "2.png" in captured.err and "Traceback" not in captured.err
    assert "[5, 5, -10, 20]" in captured.out  # left out of training, so not fatal
    assert "2.png" in page.read_text() and 'class="fatal"' in page.read_text()


def test_images_that_are_cut_off_are_found_by_decoding(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cut, page = folder / "images" / "2.png", tmp_path / "page.html"
    Image.effect_noise((60, 40), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:-500])
    for options, found in (([], False), (["--decode"], True)):
        assert main([str(folder), "--output", str(page), *options]) == 0
        assert ("1 of 3 images cannot be read" in capsys.readouterr().out) is found
        assert "2.png cannot be read" in page.read_text()  # in place of the sample, too


def test_broken_entries_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    change(folder, "images", 1, width="60")
    assert main([str(folder), "--output", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert all(named in error for named in ("annotations.json", "id 2", "'width'", "'60'"))


def test_the_input_is_not_written_over(folder: Path, capsys: pytest.CaptureFixture) -> None:
    for path in (folder / "annotations.json", folder / "images" / "2.png"):
        before = path.read_bytes()
        assert main([str(folder), "--output", str(path)]) == 2
        assert str(path) in capsys.readouterr().err and path.read_bytes() == before


def test_a_page_of_the_user_is_not_written_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "thesis.html"
    page.write_text("<!doctype html><html><head><title>mine</title></head></html>")
    before = page.read_bytes()
    assert main([str(folder), "--output", str(page)]) == 2
    assert str(page) in capsys.readouterr().err and page.read_bytes() == before
    # Its own pages are, also in the folder itself, and those of folders whose name leaves no room for more.
    assert [main([str(folder), "--output", str(folder / "check.html")]) for _ in range(2)] == [0, 0]
    long = folder.rename(folder.with_name("f" * 250))
    monkeypatch.chdir(tmp_path)
    assert [main([str(long)]) for _ in range(2)] == [0, 0]
    assert len([*(tmp_path / "output").iterdir()]) == 1


def test_masks_are_looked_at_where_asked(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = str(tmp_path / "page.html")
    assert main([str(folder), "--masks", "--output", page]) == 2
    assert "MASK_ON" in capsys.readouterr().err
    for number in range(3):
        change(folder, "annotations", number, segmentation=[[5, 5, 15, 5, 15, 25]])
    assert main([str(folder), "--masks", "--output", page]) == 0


def test_a_browser_shows_the_page(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main([str(folder), "--output", str(page)]) == 0
    text, pictures = shown(page)
    assert "mine_all" in text and pictures == 3


def test_a_registered_set_is_looked_at_by_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    data = pytest.importorskip("detectron2.data")
    datasets = pytest.importorskip("detectron2.data.datasets")
    monkeypatch.chdir(tmp_path)
    datasets.register_coco_instances("my_hens", {}, str(folder / "annotations.json"), str(folder / "images"))
    try:
        assert main(["my_hens"]) == 0
    finally:
        data.DatasetCatalog.remove("my_hens")
        data.MetadataCatalog.remove("my_hens")
    assert re.search(r"hen\s+3", capsys.readouterr().out)
    assert (tmp_path / "output" / "check-data-my_hens.html").is_file()
    assert main(["my_cows"]) == 2
    assert "my_cows does not exist" in capsys.readouterr().err
