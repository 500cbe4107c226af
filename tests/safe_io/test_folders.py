"""Walks through folders, hidden ones, links, links in a circle; images whose names are written in another way."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.safe_io.folders import (
    find_files,
    find_named,
    find_pictures,
    is_hidden,
    is_picture,
    is_vacant,
    path_ends,
    subfolders,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.PNG", "a/1.jpg", "a/notes.txt", ".cache/3.jpg", "__MACOSX/a/._1.jpg", "a/._1.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return tmp_path / "data"


def names(folder: Path, found: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found]


def test_hidden_files_are_left_out(folder: Path) -> None:
    assert names(folder, find_files(folder)) == ["a/1.jpg", "a/notes.txt", "b/2.PNG"]
    assert names(folder, find_pictures(folder)) == ["a/1.jpg", "b/2.PNG"]
    assert names(folder, subfolders(folder)) == ["a", "b"]
    assert is_hidden(".git") and not is_hidden("git.jpg")


def test_folders_of_hidden_files_are_vacant(tmp_path: Path) -> None:
    assert is_vacant(tmp_path / "new") and is_vacant(tmp_path)
    for name in (".DS_Store", ".run.json.0123abcd.part"):
        (tmp_path / name).touch()
    assert is_vacant(tmp_path) and not is_vacant(tmp_path / ".DS_Store")
    (tmp_path / "a").touch()
    assert not is_vacant(tmp_path)


def test_a_hidden_folder_that_is_named_is_walked_through(folder: Path) -> None:
    assert names(folder, find_files(folder / ".cache")) == [".cache/3.jpg"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", '{\n  "format": "nasnet_det.demo"}'),
        ("images.json", '{"info": {"description": "written by nasnet-det predict"}}'),
    ],
)
def test_folders_of_runs_and_predictions_are_left_out(folder: Path, name: str, text: str) -> None:
    (folder / "b" / name).write_text("{}")
    assert names(folder, find_pictures(folder)) == ["a/1.jpg", "b/2.PNG"]
    (folder / "b" / name).write_text(text)
    assert names(folder, find_pictures(folder)) == ["a/1.jpg", "b/2.PNG"]  # predicted on where it is
    (folder / "b" / "2.PNG").rename(folder / "b" / "2.jpg")
    assert names(folder, find_pictures(folder)) == ["a/1.jpg"]
    assert names(folder, find_pictures(folder / "b")) == ["b/2.jpg"]  # where they are asked for


def test_links_to_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "b").rename(tmp_path / "elsewhere")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "c").symlink_to("a")
    (folder / "lost").symlink_to(tmp_path / "nowhere")
    (folder / "self").symlink_to("self")
    assert names(folder, find_pictures(folder)) == ["a/1.jpg", "b/2.PNG", "c/1.jpg"]
    assert names(folder, find_pictures(folder / "b")) == ["b/2.PNG"]


def test_links_in_circles_end(folder: Path) -> None:
    for number in range(9):
        (folder / "a" / f"up{number}").symlink_to(folder)
        (folder / "b" / f"self{number}").symlink_to(".")
    assert names(folder, find_pictures(folder)) == ["a/1.jpg", "b/2.PNG"]


@pytest.mark.parametrize("listed", ["a/1.png", "A/1.JPG", "a/1.JPEG", "a/1", "A\\1.tif", "./A/./1.webp"])
def test_images_are_found_by_names_in_another_letter_case_or_with_another_ending(folder: Path, listed: str) -> None:
    for start, name in ((folder, listed), (Path(), str(folder / listed))):
        found = find_named(start, [name, str(folder / "b" / "2.PNG")])
        assert found.paths == [folder / "a" / "1.jpg", folder / "b" / "2.PNG"] and found.renamed == [True, False]


@pytest.mark.parametrize(
    ("stored", "listed"),
    [
        (["x.jpg", "x.png"], ["x.bmp"]),  # one of two
        (["x.jpg", "X.bmp"], ["X.jpg"]),
        (["x.jpg"], ["x.jpg", "x.png"]),  # the file of another name
        (["x.jpg"], ["x.png", "x.bmp"]),  # one for two
        (["x.txt", "._x.jpg"], ["x.jpg"]),  # no images
        (["x.1.jpg"], ["x.2.jpg"]),
        ([], ["lost.jpg", "lost.png", "self.jpg"]),  # links to nowhere
    ],
)
def test_images_that_may_be_others_are_not_guessed(tmp_path: Path, stored: list[str], listed: list[str]) -> None:
    for name in stored:
        (tmp_path / name).touch()
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    found = find_named(tmp_path, listed)
    assert found.paths == [tmp_path / name for name in listed] and not any(found.renamed)
    assert found.missing == [name not in stored for name in listed]
    pictures = {tmp_path / name for name in stored if not name.endswith(".txt") and not name.startswith(".")}
    for name, files in zip(listed, found.fitting, strict=True):
        assert set(files) == (set() if name in stored or name == "x.2.jpg" else pictures)


@pytest.mark.parametrize(
    "listed", ["C:\\me\\set\\a\\1.jpg", "/data/a/1.jpg", "../set/a/1.jpg", "http://host/set/a/1.PNG", "data/a/1.jpg"]
)
def test_paths_of_another_machine_are_found_by_their_ends(folder: Path, listed: str) -> None:
    found = find_named(folder, [listed, "b/2.PNG"])
    assert found.paths == [folder / "a" / "1.jpg", folder / "b" / "2.PNG"] and found.renamed == [True, False]
    assert find_named(Path(), [listed]).missing == [True]  # the working folder is not that of the data
    assert find_named(folder / "a", ["set/1.jpg", "other/1.jpg"]).missing == [True, True]  # one for two
    (folder / "1.jpg").touch()
    assert find_named(folder, ["b/1.jpg"]).missing == [True]  # of a folder that is there


def test_a_path_of_very_many_folders_takes_no_time(folder: Path) -> None:
    assert len([*path_ends(folder, "x/" * 3000 + "1.jpg")]) < 100
    assert find_named(folder, ["x/" * 3000 + "b/2.PNG"]).paths == [folder / "b" / "2.PNG"]


def test_one_image_under_two_ids_is_found_for_both(folder: Path) -> None:
    assert find_named(folder, ["a/1.png", "a/1.png"]).paths == [folder / "a" / "1.jpg"] * 2


@pytest.mark.parametrize(("name", "taken"), [("a.MPO", True), ("a.apng", True), ("._a.jpg", False), ("a.txt", False)])
def test_pictures_are_told_by_their_names(name: str, taken: bool) -> None:
    assert is_picture(Path(name)) is taken


def test_names_written_as_in_addresses_are_found(tmp_path: Path) -> None:
    for name in ("my ü.jpg", "50%20.jpg"):
        (tmp_path / name).touch()
    found = find_named(tmp_path, ["my%20%C3%BC.jpg", "50%20.jpg"])
    assert [path.name for path in found.paths] == ["my ü.jpg", "50%20.jpg"] and not any(found.missing)
