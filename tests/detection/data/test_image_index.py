"""Images of a command line and entries of an annotation file whose names are written in another way."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.image_index import ImageIndex


def ids(paths: list[str], entries: list[str]) -> list[int | None]:
    """Ids of images of 40 x 30, entries numbered from 10; None for an image without an entry."""
    known = [{"id": 10 + number, "file_name": name} for number, name in enumerate(entries)]
    index = ImageIndex([Path(path) for path in paths], {"images": known})

    def id_of(path: str) -> int | None:
        try:
            return index.id_of(Path(path), (40, 30))
        except KeyError:
            return None

    return [id_of(path) for path in paths]


@pytest.mark.parametrize(
    ("paths", "entries", "expected"),
    [
        (["a/1.jpg"], ["1.png"], [10]),
        (["a/IMG_1.JPG", "a/2.jpg"], ["a/img_1.jpg", "a/2.jpg"], [10, 11]),
        (["A/1.jpg", "b/1.jpg"], ["b/1.png", "a/1.png"], [11, 10]),
        (["a/1.jpg", "a/1.png"], ["1.png"], [None, 10]),  # its own name counts more
        (["copied/1.jpg"], ["train/1"], [10]),
        (["a/my hühn.jpg", "a/1%20.jpg"], ["a/my%20h%C3%BChn.jpg", "1%20.jpg"], [10, 11]),  # as in addresses
        (["a/1.2.jpg"], ["1.3.jpg"], [None]),
        (["b/1.jpg", "a/1.jpg"], ["/other/a/1.jpg", "C:/other/b/1.jpg"], [11, 10]),  # paths of another machine
    ],
)
def test_images_have_the_ids_of_names_in_another_way(
    paths: list[str], entries: list[str], expected: list[int | None], caplog: pytest.LogCaptureFixture
) -> None:
    assert ids(paths, entries) == expected
    assert len(caplog.records) == any(
        number is not None and Path(path).name != Path(entries[number - 10]).name
        for path, number in zip(paths, expected, strict=True)
    )


@pytest.mark.parametrize(("paths", "entries"), [(["a/1.jpg", "a/1.bmp"], ["1.png"]), (["a/1.jpg"], ["1.png", "1.bmp"])])
def test_ambiguous_names_are_refused(paths: list[str], entries: list[str]) -> None:
    with pytest.raises(CocoFormatError, match=r"1\.(png|bmp)"):
        ids(paths, entries)


@pytest.mark.parametrize(("same", "expected"), [(False, None), (True, 10)])
def test_an_image_is_not_another_s_of_its_base_name(tmp_path: Path, same: bool, expected: int | None) -> None:
    """Of two cameras only one may be annotated; a copy of its images is the same."""
    for camera in ("a", "b"):
        (tmp_path / camera).mkdir()
        (tmp_path / camera / "1.jpg").write_text("a" if same else camera)
    assert ids([str(tmp_path / "b" / "1.jpg")], ["a/1.jpg"]) == [expected]
    assert ids([str(tmp_path / "a" / "1.jpg")], ["a/1.jpg"]) == [10]
