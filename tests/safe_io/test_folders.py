"""Walks through folders: hidden ones, links, links in a circle."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.safe_io.folders import find_files, find_pictures, is_hidden, subfolders


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


def test_a_hidden_folder_that_is_named_is_walked_through(folder: Path) -> None:
    assert names(folder, find_files(folder / ".cache")) == [".cache/3.jpg"]


def test_links_to_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "b").rename(tmp_path / "elsewhere")
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "c").symlink_to("a")
    (folder / "lost").symlink_to(tmp_path / "nowhere")
    assert names(folder, find_pictures(folder)) == ["a/1.jpg", "b/2.PNG", "c/1.jpg"]
    assert names(folder, find_pictures(folder / "b")) == ["b/2.PNG"]


def test_links_in_circles_end(folder: Path) -> None:
    for number in range(9):
        (folder / "a" / f"up{number}").symlink_to(folder)
        (folder / "b" / f"self{number}").symlink_to(".")
    assert names(folder, find_pictures(folder)) == ["a/1.jpg", "b/2.PNG"]
