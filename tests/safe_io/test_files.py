"""Files replaced whole or not at all, and inputs never written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.safe_io.files import (
    OverwriteError,
    expand_home,
    expect_folder,
    other_content,
    protect,
    protecting,
    remove,
    replacing,
    write_text,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


def test_a_folder_is_not_replaced_and_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name}'$"):
        write_text(tmp_path, "text")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("alias", ["itself", "symbolic link", "hard link", "folder"])
def test_inputs_are_neither_replaced_nor_deleted(tmp_path: Path, alias: str) -> None:
    source, target = tmp_path / "in" / "a.txt", tmp_path / "in" / "a.txt"
    write_text(source, "mine")
    if alias == "symbolic link":
        target = tmp_path / "link"
        target.symlink_to(source)
    elif alias == "hard link":
        target = tmp_path / "link"
        target.hardlink_to(source)
    with protecting([source.parent if alias == "folder" else source]):
        for act in (lambda: write_text(target, "other"), lambda: remove(target)):
            with pytest.raises(OverwriteError, match=target.name):
                act()
        write_text(tmp_path / "other", "free")
    assert source.read_text() == "mine"
    remove(target)


def test_protection_is_added_within_a_command_and_ends_with_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "1")
    protect([tmp_path / "a"])  # outside: nothing is kept
    with protecting([tmp_path / "absent"]):
        protect([tmp_path / "a"])
        with pytest.raises(OverwriteError):
            write_text(tmp_path / "a", "2")
    write_text(tmp_path / "a", "2")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML>", "web page"),
        (b"<html lang=en>", "web page"),
        (b"PK\x03\x04 the first half", "cut off"),
    ],
)
def test_files_in_place_of_others_are_told(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    assert word in other_content(tmp_path / "model.pth")
    (tmp_path / "model.pth").write_bytes(b"\x80\x02" + content)
    assert other_content(tmp_path / "model.pth") == other_content(tmp_path / "nowhere") == ""


def test_the_home_folder_is_put_for_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    texts = {"~/a b": "/home/me/a b", "~": "/home/me", "--output=~/runs": "--output=/home/me/runs"}
    texts |= {"A=~/x": "A=/home/me/x", "a.b=c=~/d": "a.b=c=/home/me/d"}
    kept = {text: text for text in ("", "a~/b", "~you", "x/~/y", "~x=1", "=")}
    assert {text: expand_home(text) for text in (*texts, *kept)} == {**texts, **kept}


def test_a_folder_that_cannot_be_made_is_told_before_it_is_needed(tmp_path: Path) -> None:
    expect_folder(tmp_path / "output" / ("a" * 255))
    (tmp_path / "file").touch()
    for path in (tmp_path / "output" / ("a" * 256), tmp_path / "file" / "a"):
        with pytest.raises(OSError, match=path.parent.name):
            expect_folder(path)
