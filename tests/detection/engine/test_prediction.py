"""Predictions on many images: each gets its own id and category, inputs stay, and what cannot be used is named."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")
from detectron2.structures import Boxes, Instances

from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.engine.prediction import PredictionError, picture_names, predict_images
from nasnet_det.safe_io.files import OverwriteError, protecting
from nasnet_det.safe_io.images import ImageError


class Finder:
    """A detector with one box on every image, of its second class; it cannot take narrow images."""

    num_classes = 2

    def __init__(self, names: tuple[str, ...] = ("hen", "fox")) -> None:
        self.categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]

    def __call__(self, image: Image.Image) -> Instances:
        if min(image.size) < 2:
            raise ImageError("too narrow")
        found = Instances((image.height, image.width))
        found.pred_boxes, found.scores = Boxes(torch.tensor([[1.0, 2.0, 6.0, 9.0]])), torch.tensor([0.9])
        found.pred_classes = torch.tensor([1])
        return found


def pictures(root: Path, *names: str, size: tuple[int, int] = (40, 30)) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(root / name)
    return [root / name for name in names]


def annotations(path: Path, *names: str, categories: Any = ((1, "hen"), (2, "fox")), **more: Any) -> Path:
    images = [{"id": 10 + i, "file_name": name, "width": 40, "height": 30, **more} for i, name in enumerate(names)]
    listed = [{"id": number, "name": name} for number, name in categories]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": listed}))
    return path


def results(output: Path) -> list[tuple[int, int]]:
    return [(found["image_id"], found["category_id"]) for found in json.loads((output / "results.json").read_text())]


def predicted(
    folder: Path, paths: list[Path], *listed: str, names: tuple[str, ...] = ("hen", "fox"), **more: Any
) -> list[tuple[int, int]]:
    """Predict pictures that are annotated under the names ``listed``; return the image and the category of each."""
    predict_images([Finder(names)], paths, folder / "out", annotations(folder / "a.json", *listed, **more))
    return results(folder / "out")


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (("camA/1.png", "camB/1.png"), [10, 11]),
        (("1.png", "camB/1.png"), [10, 11]),  # the longer name is camB's
        (("sets\\camB\\1.png", "sets\\camA\\1.png"), [11, 10]),
    ],
)
def test_pictures_of_one_name_have_their_own_ids(tmp_path: Path, listed: tuple[str, ...], expected: list[int]) -> None:
    paths = pictures(tmp_path / "sets", "camA/1.png", "camB/1.png")
    assert [image_id for image_id, _ in predicted(tmp_path, paths, *listed)] == expected


@pytest.mark.parametrize("size", [(40, 30), (30, 40)])
def test_pictures_are_turned_as_they_are_annotated(tmp_path: Path, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "1.jpg", exif=exif)
    predicted(tmp_path, [tmp_path / "1.jpg"], "1.jpg", width=size[0], height=size[1])
    (image,) = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert (image["width"], image["height"]) == size


def test_names_in_another_form_of_unicode(tmp_path: Path) -> None:
    paths = pictures(tmp_path, unicodedata.normalize("NFD", "hühner/1.png"))
    assert predicted(tmp_path, paths, unicodedata.normalize("NFC", "hühner/1.png"), "1.png") == [(10, 2)]


@pytest.mark.parametrize("listed", [("1.png",), ("x/1.png", "y/1.png")])
def test_ambiguous_pictures_are_refused(tmp_path: Path, listed: tuple[str, ...]) -> None:
    paths = pictures(tmp_path, "camA/1.png", "camB/1.png")
    with pytest.raises(CocoFormatError, match=r"cam[AB].1\.png"):
        predicted(tmp_path, paths, *listed)
    assert not (tmp_path / "out").exists()


def test_a_picture_in_another_folder_than_annotated_is_found_by_its_only_name(tmp_path: Path) -> None:
    paths = pictures(tmp_path, "copied/1.png", "copied/2.png")
    file = annotations(tmp_path / "a.json", "train2017/1.png")
    found = predict_images([Finder()], paths, tmp_path / "out", file)
    assert results(tmp_path / "out") == [(10, 2)]
    assert len(found.skipped) == 1 and "2.png" in found.skipped[0]


def test_a_picture_of_another_size_than_annotated_is_skipped(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match=r"1\.png.*40 x 30.*400 x 30"):
        predicted(tmp_path, pictures(tmp_path, "1.png", "2.png"), "1.png", "2.png", width=400)


def test_categories_are_matched_by_name(tmp_path: Path) -> None:
    categories = ((4, "fox"), (7, "owl"), (9, "hen"))
    assert predicted(tmp_path, pictures(tmp_path, "1.png"), "1.png", categories=categories) == [(10, 4)]


def test_classes_of_one_name_are_matched_where_all_are_the_annotations(tmp_path: Path) -> None:
    both = {"names": ("fox", "fox"), "categories": ((4, "fox"), (7, "fox"))}
    assert predicted(tmp_path, pictures(tmp_path, "1.png"), "1.png", **both) == [(10, 7)]


@pytest.mark.parametrize("categories", [((1, "hen"),), ((1, "cat"), (2, "dog")), ((1, "fox"), (2, "fox"), (3, "hen"))])
def test_other_categories_than_the_detector_s_are_refused(tmp_path: Path, categories: Any) -> None:
    with pytest.raises(CocoFormatError, match="fox"):
        predicted(tmp_path, pictures(tmp_path, "1.png"), "1.png", categories=categories)


def test_without_names_the_number_of_categories_counts(tmp_path: Path) -> None:
    paths = pictures(tmp_path, "1.png")
    assert predicted(tmp_path, paths, "1.png", names=()) == [(10, 2)]
    with pytest.raises(CocoFormatError, match=r"1 categories.* 2 "):
        predicted(tmp_path, paths, "1.png", names=(), categories=[(1, "x")])


def test_pictures_that_the_detector_cannot_take_are_named_and_the_others_predicted(tmp_path: Path) -> None:
    paths = [*pictures(tmp_path, "1.png"), *pictures(tmp_path, "line.png", size=(1, 500)), *pictures(tmp_path, "2.png")]
    found = predict_images([Finder()], paths, tmp_path / "out")
    assert found.used == 2 and len(found.skipped) == 1 and "line.png" in found.skipped[0]
    assert results(tmp_path / "out") == [(1, 2), (2, 2)]


def test_a_second_detector_of_other_classes_has_a_list_of_its_own(tmp_path: Path) -> None:
    paths = pictures(tmp_path, "1.png")
    predict_images([Finder(), Finder()], paths, tmp_path / "same", titles=("a", "b"))
    assert not (tmp_path / "same" / "images_compared.json").exists()
    predict_images([Finder(), Finder(("cat", "dog"))], paths, tmp_path / "other", titles=("a", "b"))
    lists = [json.loads((tmp_path / "other" / f"images{end}.json").read_text()) for end in ("", "_compared")]
    assert [found["categories"][1]["name"] for found in lists] == ["fox", "dog"]


def test_pictures_are_never_written_over(tmp_path: Path) -> None:
    paths = pictures(tmp_path, "1.jpg", "2.png")
    before = {path: path.read_bytes() for path in paths}
    with protecting(), pytest.raises(OverwriteError, match=r"1\.jpg"):
        predict_images([Finder()], paths, tmp_path)
    with pytest.raises(PredictionError, match=tmp_path.name):  # where they would be data later on
        predict_images([Finder()], paths[1:], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["1.jpg", "images.json", "results.json", "results_compared.json"])
def test_files_of_others_are_not_written_over(tmp_path: Path, name: str) -> None:
    paths = pictures(tmp_path / "in", "1.png")
    for number in (1, 2, 1):  # an earlier prediction is replaced
        predict_images([Finder()] * number, paths, tmp_path / "out", titles=("a", "b"))
    (tmp_path / "mine").mkdir()
    own = tmp_path / "mine" / name
    Image.new("RGB", (9, 9)).save(own, format="JPEG")
    before = own.read_bytes()
    with pytest.raises(OverwriteError, match=name):
        predict_images([Finder()], paths, tmp_path / "mine")
    assert own.read_bytes() == before and len([*own.parent.iterdir()]) == 1


def test_annotations_and_results_of_others_are_not_written_over(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "in", "1.png")
    (tmp_path / "results.json").write_text("[]")
    (tmp_path / "images.json").write_text('{"images": [], "categories": [], "annotations": []}')
    with pytest.raises(OverwriteError, match=r"images\.json"):
        predict_images([Finder()], paths, tmp_path)


def test_names_of_pictures_are_distinct_whatever_the_file_system() -> None:
    paths = ("a/x.png", "b/x.jpg", "c/X.png", "x-2.png", "\u00e9.png", "e\u0301.png")
    names = picture_names([*map(Path, paths)])
    assert len({unicodedata.normalize("NFC", name).lower() for name in names}) == 6 and names[0] == "x.jpg"


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "\u9d8f" * 83 + ".png"], ids=["latin", "chinese"])
def test_names_that_fill_what_file_systems_take_are_cut(tmp_path: Path, name: str) -> None:
    paths = [*pictures(tmp_path / "a", name), *pictures(tmp_path / "b", name)]
    predict_images([Finder()], paths, tmp_path / "out")
    assert len([*(tmp_path / "out").glob("*.jpg")]) == 2
