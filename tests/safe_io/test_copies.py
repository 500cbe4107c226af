"""Files that are the same under other names."""

from __future__ import annotations

import os
from pathlib import Path

from nasnet_det.safe_io.copies import find_copies


def test_links_and_copies_are_found_and_equal_ends_are_not_enough(tmp_path: Path) -> None:
    end = bytes(5000)
    contents = {"first": b"a" + end, "second": b"b" + end, "third": b"c" + end, "copy": b"b" + end, "short": b"a"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "soft").symlink_to(tmp_path / "third")
    os.link(tmp_path / "first", tmp_path / "hard")
    paths, others = (
        [tmp_path / name for name in names]
        for names in (("copy", "soft", "hard", "short", "first", "gone"), ("first", "second", "third", "lost"))
    )
    found = {path.name: other.name for path, other in find_copies(paths, others).items()}
    assert found == {"copy": "second", "soft": "third", "hard": "first", "first": "first"}
    assert find_copies([Path("gone")], [Path("gone")]) == {Path("gone"): Path("gone")}


def test_files_that_cannot_be_read_are_no_copies(tmp_path: Path) -> None:
    for number in (1, 2):
        os.mkfifo(tmp_path / f"pipe{number}")  # opening one never ends
        (tmp_path / f"empty{number}").touch()
        (tmp_path / f"folder{number}").mkdir()
        (tmp_path / f"loop{number}").symlink_to(f"loop{number}")
    paths, others = (
        [tmp_path / f"{name}{number}" for name in ("pipe", "empty", "folder", "loop", "nul\0", "long" * 100)]
        for number in (1, 2)
    )
    assert find_copies(paths, others) == {}
