"""Pictures of every kind, opened as 8-bit RGB."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nasnet_det.safe_io import images
from nasnet_det.safe_io.images import ImageError, as_rgb, read_header, read_image

RAMP = np.linspace(0, 1, 12).reshape(3, 4)


def saved(folder: Path, pixels: Any, name: str, **more: Any) -> Path:
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(folder / name, **more)
    return folder / name


@pytest.mark.parametrize(
    ("pixels", "name"),
    [
        ((RAMP * 65535).astype(np.uint16), "a.png"),
        ((RAMP * 4095).astype(np.uint16), "a.tif"),
        ((RAMP * 100000).astype(np.int32), "a.tif"),
        ((RAMP * 2 - 1).astype(np.float32), "a.tif"),
        (RAMP.astype(np.float32), "a.tiff"),
    ],
)
def test_deep_pictures_are_scaled_by_their_own_range(
    tmp_path: Path, pixels: np.ndarray, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    images._warn_of_scaling.cache_clear()
    path = saved(tmp_path, pixels, name)
    with caplog.at_level(logging.WARNING):
        found = [np.asarray(image) for image in (read_image(path), as_rgb(Image.open(path)))]
    assert np.abs(found[0] - np.rint(255 * RAMP)[..., None]).max() <= 1
    assert np.array_equal(*found)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("kind", "channels"), [(2, [0, 1, 2]), (4, [0, 3]), (6, [0, 1, 2, 3])])
def test_channels_of_16_bits_keep_their_range_or_are_refused(tmp_path: Path, kind: int, channels: list[int]) -> None:
    path = tmp_path / "deep.png"
    grey = np.rint(RAMP * 65535)
    path.write_bytes(png_of_16_bits(np.stack([grey, grey, grey, np.full_like(grey, 65535)], -1)[..., channels], kind))
    assert np.abs(np.asarray(read_image(path)) - 255 * RAMP[..., None]).max() <= 1
    path.write_bytes(png_of_16_bits(np.stack([grey / 16] * len(channels), -1), kind))
    with pytest.raises(ImageError, match=r"deep\.png.*16-bit"):
        read_image(path)


def test_16_bits_are_seen_in_pixmaps_and_planes(tmp_path: Path) -> None:
    dark = np.stack([RAMP * 4095] * 3, -1)
    (tmp_path / "a.ppm").write_bytes(b"P6 4 3 65535\n" + dark.astype(">u2").tobytes())
    (tmp_path / "a.tif").write_bytes(tiff_of_planes(RAMP * 65535))
    assert Image.open(tmp_path / "a.tif").mode == "RGB"
    for name in ("a.ppm", "a.tif"):
        with pytest.raises(ImageError, match=rf"{name}.*16"):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("pixels", "tag", "value"),
    [
        ((RAMP * 4e9).astype(np.uint32).view(np.int32), 339, 1),  # unsigned numbers
        (((1 - RAMP) * 65535).astype(np.uint16), 262, 0),  # white at zero
        ((1 - RAMP).astype(np.float32), 262, 0),
    ],
)
def test_tiffs_tags_tell_what_its_numbers_mean(tmp_path: Path, pixels: np.ndarray, tag: int, value: int) -> None:
    path = saved(tmp_path, pixels, "a.tif")
    before = struct.pack("<HHI", tag, 3, 1)
    start = path.read_bytes().index(before) + len(before)
    path.write_bytes(path.read_bytes()[:start] + struct.pack("<H", value) + path.read_bytes()[start + 2 :])
    assert np.abs(np.asarray(read_image(path)) - np.rint(255 * RAMP)[..., None]).max() <= 1


def tiff_of_planes(plane: np.ndarray) -> bytes:
    """Return a TIFF of 16 bits in whose three planes ``(H, W)`` all values are the same."""
    (height, width), data = plane.shape, plane.astype("<u2").tobytes()
    tags = {256: width, 257: height, 258: (16,) * 3, 259: 1, 262: 2, 273: (0, 1, 2), 277: 3, 278: height}
    tags |= {279: (len(data),) * 3, 284: 2}
    entries, more, start = b"", b"", 8 + 2 + 12 * len(tags) + 4
    for tag, value in tags.items():
        values = [start + 36 + part * len(data) for part in value] if tag == 273 else np.atleast_1d(value).tolist()
        packed = struct.pack(f"<{len(values)}I", *values)
        entries += struct.pack("<HHI", tag, 4, len(values)) + (
            packed if len(values) == 1 else struct.pack("<I", start + len(more))
        )
        more += packed if len(values) > 1 else b""
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + more + data * 3


def png_of_16_bits(pixels: np.ndarray, kind: int) -> bytes:
    """Return a PNG of ``(H, W, C)`` values, which Pillow does not write; ``kind`` is its colour type."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_values_that_are_not_finite_are_no_part_of_the_range(tmp_path: Path) -> None:
    pixels = RAMP.astype(np.float32)
    pixels[0, :2] = np.nan, np.inf
    assert np.asarray(read_image(saved(tmp_path, pixels, "a.tif"))).max() == 255
    with pytest.raises(ImageError, match=r"b\.tif"):
        read_image(saved(tmp_path, np.full((2, 2), np.nan, np.float32), "b.tif"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "RGB"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    red = Image.new("RGB", (4, 3), (255, 0, 0)).convert(mode)
    path = saved(tmp_path, red, "a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    found = read_image(path)
    assert (found.mode, found.size) == ("RGB", (4, 3))
    if mode not in ("1", "L", "LA"):
        assert np.abs(np.asarray(found, dtype=int) - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3), np.uint8), "a.png", None])
def test_what_is_no_pil_image_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=type(wrong).__name__):
        as_rgb(wrong)


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(path).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("suffix", "told"), [("gif", True), ("tif", True), ("webp", True), ("png", True), ("mpo", False)]
)
def test_that_only_the_first_frame_or_page_is_used_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, suffix: str, told: bool
) -> None:
    monkeypatch.setattr(images, "_told", set())
    frames = [Image.new("RGB", (16, 8), colour) for colour in ("red", "blue")]
    for name in ("single", "several", "more"):
        more = {} if name == "single" else {"save_all": True, "append_images": frames[1:]}
        read_image(saved(tmp_path, frames[0], f"{name}.{suffix}", **more))
    assert [f"several.{suffix}" in text for text in caplog.messages] == [True] * told


def test_transparency_of_a_palette_is_dropped(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (4, 3), "red").convert("P"), "a.png", transparency=b"\0" * 3)
    assert read_image(path).mode == "RGB"


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_header_and_picture_agree_on_the_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.new("RGB", (8, 4)), f"a.{suffix}", exif=exif)
    size = (4, 8) if orientation > 4 else (8, 4)
    assert read_header(path).size == read_image(path).size == size
    assert read_header(path).stored_size == read_image(path, turn=False).size == (8, 4)
    assert read_header(path).orientation == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_annotated_as_stored_has_its_stored_pixels(tmp_path: Path, orientation: int) -> None:
    pixels = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    path = saved(tmp_path, pixels, "a.tif", tiffinfo={0x0112: orientation})
    assert np.array_equal(read_image(path, turn=False), pixels)


def test_signed_bytes_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, (RAMP * 100).astype(np.uint8), "a.tif", tiffinfo={339: 2})
    with pytest.raises(ImageError, match=r"a\.tif.*signed"):
        read_image(path)


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    for read in (read_header, read_image):
        with pytest.raises(ImageError, match=r"bad\.png"):
            read(path)


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("1.HEIC", b"\0\0\0\x18ftypheic", "JPEG"),
        ("1.tif", b"II*\0", "TIFF"),
        ("1.jpg", b"\0\0\0\x24ftypmif1", "JPEG"),
        ("1.png", b"\x1f\x8b\x08", "gzip"),
        ("1.jpg", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ],
)
def test_pictures_that_need_something_done_say_what(tmp_path: Path, name: str, content: bytes, remedy: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=rf"{name}.*{remedy}"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("read", [read_header, read_image])
def test_a_picture_of_too_many_pixels_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Any
) -> None:
    path = saved(tmp_path, Image.new("L", (80, 60)), "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"huge\.png.*2,000 pixels.*tiles"):
        read(path)


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8), "half.jpg")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"half\.jpg"):
        read_image(path)


def test_deep_pictures_of_the_shared_cases(shared: Path) -> None:
    for name in ("grey16.png", "grey16.tif"):
        values = np.asarray(read_image(shared / "cases" / "pictures" / name))
        assert (values.min(), values.max()) == (0, 255) and len(np.unique(values)) > 100


@pytest.mark.parametrize("read", [read_header, read_image])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"pipe\.jpg"):
        read(tmp_path / "pipe.jpg")
