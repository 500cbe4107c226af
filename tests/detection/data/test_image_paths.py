"""The images that paths, folders and globs name."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.detection.data.image_paths import find_images


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("1.jpg", "a/2.PNG", "a/b/3.jpg", "a/notes.txt", "a/.4.jpg", "[5].jpg", "other/6.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "other")
    for number in range(5):
        (tmp_path / "a" / "b" / f"up{number}").symlink_to("..")
    (tmp_path / "a" / "b" / "self.jpg").symlink_to("self.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a/b/3.jpg", "a", "./a/2.PNG"], ["3.jpg", "2.PNG"]),
        (["a/link"], ["6.jpg"]),
        (["a/b"], ["3.jpg", "self.jpg"]),  # which is named when it is read
        (["*.jpg"], ["1.jpg", "[5].jpg"]),
        (["[5].jpg"], ["[5].jpg"]),
        (["a/../?.jpg"], ["1.jpg"]),
        (["a/**/*.jpg"], ["3.jpg", "6.jpg"]),
        (["**/b/**/*.PNG"], ["2.PNG"]),
        (["*/2.PNG", "a/*/*.jpg"], ["2.PNG", "3.jpg", "6.jpg"]),
    ],
)
def test_images_are_found_once_each(folder: Path, given: list[str], names: list[str]) -> None:
    for inputs in (given, [str(folder / name) for name in given]):
        assert [path.name for path in find_images(inputs)] == names


@pytest.mark.parametrize("given", ["nowhere.jpg", "nowhere/*.jpg", "a/b/**/*.png", "a\0b.jpg", "a" * 5000])
def test_inputs_without_images_are_named(folder: Path, given: str) -> None:
    with pytest.raises(FileNotFoundError, match=given[:5].replace("*", r"\*")):
        find_images(["1.jpg", given])
