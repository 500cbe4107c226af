"""Files replaced whole or not at all, and inputs never written over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nasnet_det.safe_io.files import (
    OverwriteError,
    check_writable,
    expand_home,
    expect_folder,
    protect,
    protecting,
    remove,
    replacing,
    short_name,
    write_text,
)
from tests.helpers import another_process


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


def test_what_killed_processes_were_writing_is_removed_and_what_others_write_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with another_process("files", f"replacing({str(tmp_path / 'a.txt')!r})"):
        assert len([*tmp_path.iterdir()]) == 1
    (tmp_path / ".mine.part").touch()
    with another_process("files", f"replacing({str(tmp_path / 'b.txt')!r})"):
        write_text(tmp_path / "c.txt", "whole")
        assert {path.name[:6] for path in tmp_path.iterdir()} == {".b.txt", ".mine.", "c.txt"}


def test_a_file_has_the_permissions_of_any_other_also_where_none_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("chmod", "fchmod"):  # as on disks in FAT

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, name, refuse)
    write_text(tmp_path / "a", "1")
    (tmp_path / "b").write_text("1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_what_a_library_puts_in_the_place_of_a_file_is_as_readable_as_others(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "1")
    with replacing(tmp_path / "b") as part:  # as safetensors does
        (tmp_path / "c").touch(0o600)
        (tmp_path / "c").replace(part)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_names_that_are_not_of_utf_8_are_escaped_in_texts(tmp_path: Path) -> None:
    write_text(tmp_path / "a", f"{os.fsdecode(bytes([0xE9]))}.jpg")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "\\udce9.jpg"


def test_a_full_disk_is_named_whatever_error_a_library_makes_of_it(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    write_text(tmp_path / "a", "earlier")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for error in (RuntimeError("basic_ios::clear: iostream error"), OSError(28, "No space left on device")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
        try:
            with pytest.raises(OSError, match=f"too large.*{tmp_path.name}/a'$"), replacing(tmp_path / "a") as part:
                part.write_bytes(bytes(2**15))
                raise error
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "earlier"
    with pytest.raises(RuntimeError, match="iostream"), replacing(tmp_path / "a"):
        raise RuntimeError("iostream error")


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


def test_a_link_is_followed_but_not_to_a_file_that_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "new"):
        (tmp_path / f"{name}.link").symlink_to(Path("disk", name))
    write_text(tmp_path / "disk" / "model", "earlier")
    for name in ("model", "new"):
        write_text(tmp_path / f"{name}.link", "text")
        assert (tmp_path / f"{name}.link").is_symlink() and (tmp_path / "disk" / name).read_text() == "text"
    assert len([*tmp_path.iterdir()]) == 3 and len([*(tmp_path / "disk").iterdir()]) == 2
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "model")
    with pytest.raises(PermissionError, match="disk/model"):
        write_text(tmp_path / "model.link", "other")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "disk")
    with pytest.raises(PermissionError, match="disk'"):
        check_writable(tmp_path / "new.link")


def test_protection_is_added_within_a_command_and_ends_with_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "1")
    protect([tmp_path / "a"])  # outside: nothing is kept
    with protecting([tmp_path / "absent"]):
        protect([tmp_path / "a"])
        with pytest.raises(OverwriteError):
            write_text(tmp_path / "a", "2")
    write_text(tmp_path / "a", "2")


@pytest.mark.parametrize(
    ("content", "is_own"), [(b"[]", True), (b'[{"image_id": 1}]', True), (b"", True), (b"{}", False)]
)
def test_only_files_of_our_own_kind_are_written_over(tmp_path: Path, content: bytes, is_own: bool) -> None:
    own = rb'\A\[(\]|\{"image_id": )'
    check_writable(tmp_path / "results.json", own)
    (tmp_path / "results.json").write_bytes(content)
    if is_own:
        check_writable(tmp_path / "results.json", own)
    else:
        with pytest.raises(OverwriteError, match=r"results\.json"):
            check_writable(tmp_path / "results.json", own)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OverwriteError, match="pipe"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["a" * 255, "\u00e4" * 200, "plain"])
def test_names_fit_file_systems(tmp_path: Path, name: str) -> None:
    names = {short_name(f"{name}{end}", ".html") for end in ("1", "2")}
    assert len(names) == 2 and ("plain1.html" in names) == (name == "plain")
    for each in names:
        write_text(tmp_path / each, "text")


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
