"""Reading of image files as 8-bit RGB, for training, evaluation and prediction.

Pillow's own conversion clips 16-bit and float images at 255; here they are scaled. EXIF orientation is applied by
default, as in detectron2.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from tqdm.contrib.concurrent import thread_map

from nasnet_det.safe_io.file_kinds import other_content

logger = logging.getLogger(__name__)

_ORIENTATION = 0x0112
#: TIFF's tags of the bits of each channel, of their meaning, of which 0 is white at zero, and of their form, of which 2
#: are signed numbers.
_BITS, _MEANING, _FORM, _SIGNED = 258, 262, 339, 2
#: What undoes each EXIF orientation; the last four exchange width and height.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: The orientations that are undone by the turn of another; the rest undo themselves.
_BACK = {6: 8, 8: 6}
#: Formats of animations and pages; telephones store others, for a picture's depth or brightness, in further frames.
_SERIES = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")
#: Those of which a process has warned.
_told: set[str] = set()
#: A quarter of the range of 8 bits.
_DARK = 64
#: Reading this many headers takes long enough for a progress bar.
_MANY = 2000


class ImageError(OSError):
    """An unusable image; the message names the reason and, where it is known, the file."""


def reason_with_name(path: str | os.PathLike[str], reason: object) -> str:
    """Return the reason why an image is unusable with the name of its file, which the reason may have."""
    return str(reason) if os.fspath(path) in str(reason) else f"{os.fspath(path)} ({reason})"


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file.

    Args:
        stored_size: width and height of the pixels in the file.
        orientation: the EXIF orientation, 1 to 8; 1 is upright.
    """

    stored_size: tuple[int, int]
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image upright."""
        return self.stored_size[::-1] if self.orientation > 4 else self.stored_size


def read_header(path: str | os.PathLike[str]) -> ImageHeader:
    """Return the size and orientation of an image without decoding its pixels.

    Raises:
        ImageError: if the file is missing or no image.
    """
    try:
        with _open(path) as image:
            orientation, turned = _orientation(image), False
            if orientation > 1 and image.format == "TIFF":  # which Pillow turns itself, in loading or before
                image.load()
                turned = _orientation(image) == 1
            return ImageHeader(image.size[::-1] if turned and orientation > 4 else image.size, orientation)
    except Exception as error:  # Pillow's many readers raise anything for a damaged file
        raise _refused(path, error) from error


def read_headers(paths: Sequence[Path], decode: bool = False) -> list[ImageHeader | ImageError]:
    """Return the header of each image, or what is wrong with it.

    Args:
        paths: the files.
        decode: decode the pixels, too, which shows files that are cut off.
    """
    threads, quiet = min(16, 2 * (os.cpu_count() or 1)), True if len(paths) < _MANY else None
    read = functools.partial(_header, decode=decode)
    return thread_map(read, paths, desc="looking at the images", max_workers=threads, disable=quiet)


def ends_whole(path: Path) -> bool:
    """Return whether a file ends as a whole JPEG or PNG does: others may be cut off, which only decoding them shows."""
    try:
        with path.open("rb") as file:
            file.seek(-min(8, path.stat().st_size), os.SEEK_END)
            return file.read().endswith((b"\xff\xd9", b"IEND\xaeB`\x82"))
    except OSError:
        return False


def _header(path: str | os.PathLike[str], decode: bool) -> ImageHeader | ImageError:
    try:
        if decode:
            read_image(path)
        return read_header(path)
    except ImageError as error:
        return error


def read_image(path: str | os.PathLike[str], turn: bool = True) -> Image.Image:
    """Return an image file as 8-bit RGB (:func:`as_rgb`); the first frame of an animation.

    Args:
        turn: apply the EXIF orientation.

    Raises:
        ImageError: if the file is missing, damaged, incomplete, or of a kind that has no RGB form.
    """
    try:
        with _open(path) as image:
            if image.format in _SERIES and getattr(image, "is_animated", False) and image.format not in _told:
                _told.add(image.format)
                logger.warning(f"{path} has several frames or pages: of such {image.format} the first is used")
            stored = _orientation(image) if image.format == "TIFF" else 1  # of others this may decode them
            rgb, orientation = as_rgb(image), _orientation(image)
            if turn:
                return rgb.transpose(_TURNS[orientation]) if orientation > 1 else rgb
            was_turned = stored > 1 and orientation == 1  # by Pillow, as it turns TIFF in loading
            return rgb.transpose(_TURNS[_BACK.get(stored, stored)]) if was_turned else rgb
    except Exception as error:
        raise _refused(path, error) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Return a copy of an image as 8-bit RGB, without transparency.

    Grey images of 16 or 32 bits or of floating-point numbers are scaled to 8 bits by their own range. Of images of
    several channels of 16 bits Pillow keeps the upper 8; those that use less than a quarter of the range are refused,
    as are TIFF's of a plane for each channel, which Pillow takes for bytes.

    Raises:
        ImageError: if it has no such form.
        TypeError: for anything but a PIL image.
    """
    if not isinstance(image, Image.Image):
        kind = type(image).__name__
        raise TypeError(f"expected a PIL image, got {kind}: Image.open(PATH) and Image.fromarray(ARRAY) make one")
    tags = getattr(image, "tag_v2", {})
    if image.mode == "L" and _SIGNED in tags.get(_FORM, ()):
        raise ImageError("its values are signed bytes, which Pillow takes for unsigned ones: save it as 0 to 255")
    forms = [str(tile[3]) for tile in getattr(image, "tile", ())]  # which loading forgets
    deep = any(form in text for text in forms for form in (";16", "65535"))  # the latter is PPM's largest value
    if not deep and len(image.getbands()) > 1 and max(tags.get(_BITS, (8,))) > 8:
        raise ImageError("its channels of 16 bits are in planes of their own: save it with a colour for each pixel")
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        _warn_of_scaling(f"mode {image.mode}", "each by its own range")
        pixels = np.asarray(image)
        if image.mode == "I" and tags and _SIGNED not in tags.get(_FORM, ()):  # Pillow takes them for signed ones
            pixels = pixels.view(np.uint32)
        scaled = _scaled(pixels.astype(np.float64))
        return Image.fromarray(255 - scaled if tags.get(_MEANING) == 0 else scaled).convert("RGB")
    if "transparency" in image.info:  # a palette's would be warned of
        image = image.convert("RGBA")
    rgb = image.convert("RGB")
    if deep:
        _warn_of_scaling(f"{image.mode} of 16 bits", "which keep their upper 8")
        if np.asarray(rgb).max() < _DARK:
            raise ImageError("its 16-bit values use less than a quarter of their range: convert it to 8 bits")
    return rgb


def _open(path: str | os.PathLike[str]) -> ImageFile.ImageFile:
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        raise ValueError("it is a pipe or a device")  # which may never end
    return Image.open(path)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # the pixels may be intact
        return 1
    return found if found in _TURNS else 1


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """Map the least finite value to 0 and the largest to 255; ``(H, W)`` of uint8."""
    finite = np.isfinite(pixels)
    if not finite.any():
        raise ImageError("it holds no finite value")
    low, high = pixels[finite].min(), pixels[finite].max()
    share = (np.clip(np.where(finite, pixels, low), low, high) - low) / ((high - low) or 1.0)
    return np.rint(255 * share).astype(np.uint8)


@functools.cache
def _warn_of_scaling(form: str, how: str) -> None:
    """Warn, once a process and form."""
    logger.warning(
        f"images of more than 8 bits a value (in Pillow {form}) are scaled to 8 bits, {how}; convert them yourself "
        "where the absolute values matter"
    )


def _refused(path: str | os.PathLike[str], error: Exception) -> ImageError:
    name = os.fspath(path)
    if isinstance(error, FileNotFoundError):
        return ImageError(f"{name} does not exist")
    if isinstance(error, UnidentifiedImageError):
        reason = other_content(name) or "it is of no known image format"
    elif isinstance(error, Image.DecompressionBombError):
        reason = f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: cut it into tiles, or make it smaller"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(repr(name), "it")
    return ImageError(f"{name} cannot be read as an image: {reason}")
