#!/usr/bin/env python
"""Run a detector on images, folders or globs: pictures with boxes, and all detections as COCO results.

    nasnet-det predict --config-file configs/fpn_mobile.yaml --weights model.pth street.jpg photos/ 'more/*.png'
    nasnet-det predict --config-file A.yaml --weights a.pth --compare-config-file B.yaml --compare-weights b.pth \\
        --output output/compared photos/

The output folder gets a picture of each image, results.json in COCO's form, and images.json, which says which image
and category each id is. With --annotations the ids and names are those of that file, so that nasnet-det evaluate can
score the results. With a second detector each picture shows both side by side, as figure 9 of the paper.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasnet_det.cli.main import command, needs

with needs():
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json
    from detectron2.structures import Instances
    from tqdm import tqdm

    from nasnet_det.detection.data.coco_format import Record, named, read_annotations, write_json
    from nasnet_det.detection.engine.predictor import Predictor, find_images, load_config, read_image
    from nasnet_det.draw.detections import detections_of, draw, side_by_side
    from nasnet_det.safe_io.files import replacing


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the detector's config")
    parser.add_argument(
        "--weights", default="", metavar="FILE", help="its checkpoint (default: MODEL.WEIGHTS of the config)"
    )
    parser.add_argument(
        "--compare-config-file", metavar="FILE", help="a second detector's config (default: the first's)"
    )
    parser.add_argument(
        "--compare-weights", metavar="FILE", help="a second detector's checkpoint, shown beside the first"
    )
    parser.add_argument("--titles", nargs=2, metavar="TITLE", help="what to call the two")
    parser.add_argument("input", nargs="+", metavar="PATH", help="images, folders, globs")
    parser.add_argument("--output", type=Path, default=Path("output/predictions"), metavar="DIR")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="take ids and names from COCO annotations")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score shown (the results keep all)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="changes of the config")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if at least one image was predicted on, 2 if the input was at fault."""
    return predict(parse(argv))


def predict(args: argparse.Namespace) -> int:
    """Predict on every image and write pictures and results."""
    paths = find_images(args.input)
    detectors = [Predictor(load_config(args.config_file, args.opts, args.weights))]
    titles = args.titles or [Path(args.weights or args.config_file).stem]
    if args.compare_weights:
        config = args.compare_config_file or args.config_file
        detectors.append(Predictor(load_config(config, args.opts, args.compare_weights)))
        titles = args.titles or [*titles, Path(args.compare_weights).stem]
    catalog = Catalog(args.annotations, detectors[0].categories)

    results: list[list[Record]] = [[] for _ in detectors]
    skipped = []
    for path, picture_name in tqdm(list(zip(paths, picture_names(paths), strict=True)), unit="image", disable=None):
        try:
            image = read_image(path)
            image_id = catalog.add(path, image.size)
        except (OSError, KeyError) as error:
            skipped.append(f"{path} ({error})")
            continue
        pictures = []
        for detector, found in zip(detectors, results, strict=True):
            instances = detector(image)
            found += catalog.results(instances, image_id)
            pictures.append(draw(image, detections_of(instances, catalog.names, args.threshold)))
        with replacing(args.output / picture_name) as part:
            picture = pictures[0] if len(pictures) == 1 else side_by_side(pictures, titles)
            picture.save(part, format="JPEG", quality=92)

    if skipped:
        print(
            f"skipped {len(skipped)} of {len(paths)} images that cannot be read: {named(skipped, 20)}", file=sys.stderr
        )
    if len(skipped) == len(paths):
        raise ValueError("no image was left to predict on")
    write_json(args.output / "images.json", catalog.content)
    for found, name in zip(results, ("results.json", "results_compared.json"), strict=False):
        write_json(args.output / name, found)
        print(f"{len(found)} detections on {len(paths) - len(skipped)} images: {args.output / name}")
    print(f"pictures: {args.output}")
    return 0


def picture_names(paths: Sequence[Path]) -> list[str]:
    """A file name for each image's picture, no two the same."""
    names: list[str] = []
    for path in paths:
        name, number = f"{path.stem}.jpg", 2
        while name in names:
            name, number = f"{path.stem}-{number}.jpg", number + 1
        names.append(name)
    return names


class Catalog:
    """Which image and category each id is.

    Args:
        annotations: a COCO file whose ids and names to use; None to number the images from 1.
        categories: ``id`` and ``name`` of each class of the model, used without ``annotations``; classes beyond them
            are called by their numbers.
    """

    def __init__(self, annotations: Path | None, categories: Sequence[Record]) -> None:
        self._known: dict[str, int] | None = None
        self.content: dict[str, Any] = {"images": [], "categories": list(categories)}
        if annotations is not None:
            known = read_annotations(annotations)
            self._known = {Path(image["file_name"]).name: image["id"] for image in known["images"]}
            self.content["categories"] = sorted(known["categories"], key=lambda category: category["id"])
        self.names = [category["name"] for category in self.content["categories"]]

    def add(self, path: Path, size: tuple[int, int]) -> int:
        """Take in an image of ``size`` (width, height) and give its id.

        Raises:
            KeyError: if the annotations do not have it.
        """
        if self._known is not None and path.name not in self._known:
            raise KeyError("not in the annotations")
        image_id = len(self.content["images"]) + 1 if self._known is None else self._known[path.name]
        self.content["images"].append({"id": image_id, "file_name": str(path), "width": size[0], "height": size[1]})
        return image_id

    def results(self, instances: Instances, image_id: int) -> list[Record]:
        """Detections as COCO results."""
        found = instances_to_coco_json(instances, image_id)
        categories = self.content["categories"]
        for result in found:
            number = result["category_id"]
            result["category_id"] = categories[number]["id"] if number < len(categories) else number + 1
        return found


if __name__ == "__main__":
    sys.exit(main())
