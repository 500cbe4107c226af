"""The image files that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: What is taken for an image in a folder.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


def is_image(path: Path) -> bool:
    """Return True for a path that ends like an image's and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Return the image files that paths, folders (not those below them) and globs name, in order, each once.

    Raises:
        FileNotFoundError: for an input that names no image.
    """
    found: dict[Path, Path] = {}
    for name in inputs:
        path = Path(name).expanduser()
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if is_image(file))
        elif path.is_file():
            files = [path]
        else:
            anchor = Path(path.anchor)
            files = sorted(file for file in anchor.glob(str(path.relative_to(anchor))) if file.is_file())
        if not files:
            raise FileNotFoundError(f"{name} names no image: neither a file, nor a folder or glob with images")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())
