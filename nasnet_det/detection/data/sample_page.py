"""The page of a look at data sets: counts, troubles, and drawn samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.look import Look, SetLook, count_rows
from nasnet_det.draw.detections import Detection, draw, shrink
from nasnet_det.draw.fonts import readable_names
from nasnet_det.draw.page import Page
from nasnet_det.safe_io.images import ImageError, read_image

#: The longest side of a sample, in pixels.
_SIDE = 640


def sample_page(title: str, look: Look, samples: int = 12, seed: int = 0) -> str:
    """Return a page, as HTML, of a look at data sets.

    Args:
        title: its heading.
        look: what was found.
        samples: how many images to draw of each data set.
        seed: of their choice.
    """
    page = Page(title)
    page.heading("Counts")
    names, *rows = count_rows(look.sets)
    page.table(names, rows)
    page.heading("Problems")
    for trouble in look.troubles:
        page.text(str(trouble), "fatal" if trouble.fatal else "")
    if not look.troubles:
        page.text("None.")
    for found in look.sets:
        page.heading(f"Samples of {found.data.name}")
        page.sheet(drawn_samples(found, samples, seed))
    return str(page)


def drawn_samples(found: SetLook, samples: int, seed: int) -> Iterator[tuple[Image.Image, str]]:
    """Yield images of a data set, chosen at random, with their boxes, and a caption each."""
    order = np.random.default_rng(seed).permutation(len(found.records))
    for number in sorted(order[:samples].tolist()):
        record = found.records[number]
        try:
            name = "/".join(Path(record["file_name"]).parts[-2:])
            yield draw_record(record, found.data.names), f"{name} ({record['width']} x {record['height']})"
        except ImageError as error:  # which the troubles name, unless it is cut off in its pixels
            yield Image.new("RGB", (64, 64), "grey"), str(error)


def draw_record(record: Record, classes: list[str]) -> Image.Image:
    """Return the image of a record with its boxes, at most 640 pixels wide and high.

    Raises:
        ImageError: if the image cannot be read.
    """
    image = read_image(record["file_name"], record.get("turn", True))
    scale, names = shrink(image, _SIDE), readable_names(classes)
    objects = [
        Detection.scaled(entry["bbox"], scale, entry["category_id"], names[entry["category_id"]])
        for entry in record["annotations"]
    ]
    return draw(image, objects)
