"""Prepare the data sets of COCO that the paper and the configs use, and list the downloads that are missing.

    nasnet-det prepare-coco ROOT

ROOT is the folder that DETECTRON2_DATASETS names (default: its present value, or datasets); COCO is in ROOT/coco. Run
it again after each download: it makes what is possible and lists the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import new_parser
from nasnet_det.detection.data.coco_format import read_annotations
from nasnet_det.detection.data.datasets import MINIVAL, SERVER, SPLITS, TRAIN, CocoSplit, datasets_root
from nasnet_det.detection.data.minival import minival_ids, select_minival, select_training, write_annotations
from nasnet_det.safe_io.files import begins_with, check_writable
from nasnet_det.safe_io.values import named

#: The first key of a file that this command has made, and what such a file begins with.
_MARK = "nasnet-det prepare-coco"
_OWN = rb'\A\{"nasnet-det prepare-coco":'


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("root", type=Path, nargs="?", default=datasets_root(), metavar="ROOT")
    parser.add_argument(
        "--only", nargs="+", choices=SPLITS, default=list(SPLITS), metavar="NAME", help=f"of {', '.join(SPLITS)}"
    )
    parser.add_argument("--minival-ids", type=Path, metavar="FILE", help="other ids than the paper's, one a line")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if all data sets asked for are ready, 2 if something is missing."""
    args = parse(argv)
    coco = args.root / "coco"
    make(coco, args.only, read_ids(args.minival_ids) if args.minival_ids else None)
    archives = {name: absent_archives(SPLITS[name], coco) for name in args.only}
    missing = [name for name in args.only if not report(name, SPLITS[name], coco, archives[name])]
    if {TRAIN, "coco_2017_val"} <= set(args.only) - set(missing):
        report_overlap(coco)
    if wanted := dict.fromkeys(archive for name in missing for archive in archives[name]):
        print(f"download these and unpack them in {coco}:", *(f"{SERVER}/{archive}" for archive in wanted), sep="\n  ")
    if missing:
        print(f"error: {len(missing)} of {len(args.only)} data sets are not ready; see above", file=sys.stderr)
        return 2
    print(f"all ready; set DETECTRON2_DATASETS={args.root}")
    return 0


def read_ids(path: Path) -> frozenset[int]:
    """Read image ids, one a line.

    Raises:
        ValueError: for anything else in the file.
    """
    try:
        return frozenset(map(int, path.read_text(encoding="utf-8").split()))
    except ValueError as error:
        raise ValueError(f"{path}: expected image ids, one a line ({error})") from None


def make(coco: Path, names: Collection[str], given: frozenset[int] | None) -> None:
    """Write the annotations of minival and of its training set, those in ``names`` that are outdated and possible.

    Args:
        coco: the folder of COCO.
        names: of data sets.
        given: image ids of another minival than the paper's.

    Raises:
        OverwriteError: for an outdated file that this command did not write.
    """
    ids = given or minival_ids()
    digest = hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()[:16]
    mark = {_MARK: f"minival of {len(ids)} images, {digest}"}
    wanted = [name for name in (MINIVAL, TRAIN) if name in names and _is_due(coco, SPLITS[name], mark, bool(given))]
    if not wanted:
        return
    for name in wanted:
        check_writable(coco / SPLITS[name].annotations, _OWN)
    print("reading the official annotations of 2014; the training set takes a minute and some gigabytes of memory")
    val2014 = read_annotations(coco / SPLITS[MINIVAL].sources[0], required=["file_name"])
    for name in wanted:
        if name == MINIVAL:
            made = select_minival(val2014, ids)
        else:
            made = select_training(
                read_annotations(coco / SPLITS[TRAIN].sources[0], required=["file_name"]), val2014, ids
            )
        path = coco / SPLITS[name].annotations
        write_annotations(path, mark | made)
        print(f"written: {path}: {len(made['images'])} images, {len(made['annotations'])} annotations")


def absent_archives(split: CocoSplit, coco: Path) -> list[str]:
    """Return the archives of COCO's server whose content a data set lacks."""
    needed = [coco / source for source in split.sources] or [coco / split.annotations]
    there = (coco / split.annotations).is_file() or all(map(Path.is_file, needed))
    absent = [folder for folder in split.folders if not (coco / folder).is_dir()]
    return ([] if there else [split.archive]) + [f"zips/{folder}.zip" for folder in absent]


def report(name: str, split: CocoSplit, coco: Path, archives: Sequence[str]) -> bool:
    """Print whether a data set is ready, or what it lacks; return whether it is ready."""
    path = coco / split.annotations
    if archives:
        print(f"missing  {name} ({split.purpose}): {', '.join(Path(archive).name for archive in archives)}")
        return False
    images = [coco / ("" if split.sources else split.folders[0]) / name for name in _image_names(path)]
    present = {file for folder in split.folders for file in (coco / folder).iterdir()}
    lost = [image for image in images if image not in present]
    if lost:
        print(f"missing  {name} ({split.purpose}): {len(lost)} of {len(images)} images: {named(lost)}")
        return False
    print(f"ready    {name} ({split.purpose}): {len(images)} images")
    return True


def report_overlap(coco: Path) -> None:
    """Print how many images of val2017 are in the paper's training set."""
    seen = {Path(name).stem[-12:] for name in _image_names(coco / SPLITS[TRAIN].annotations)}
    judged = {Path(name).stem for name in _image_names(coco / SPLITS["coco_2017_val"].annotations)}
    print(
        f"note: {len(seen & judged)} of val2017's {len(judged)} images are in {TRAIN}: evaluate a detector "
        f"trained on that, as the converted TensorFlow checkpoints were, on {MINIVAL} or test-dev, never on val2017"
    )


def _is_due(coco: Path, split: CocoSplit, mark: dict[str, str], expects_mark: bool) -> bool:
    """Return whether a made file is missing, older than one of its sources, all of which exist, or of other ids.

    Files of earlier versions have no mark.
    """
    path, sources = coco / split.annotations, [coco / source for source in split.sources]
    if not all(source.is_file() for source in sources):
        return False
    is_marked = begins_with(path, re.escape(json.dumps(mark, separators=(",", ":"))[:-1].encode()))
    is_of_others = not is_marked and (expects_mark or begins_with(path, _OWN))
    return is_of_others or not path.is_file() or path.stat().st_mtime < max(s.stat().st_mtime for s in sources)


def _image_names(annotations: Path) -> list[str]:
    return [image["file_name"] for image in read_annotations(annotations, required=["file_name"])["images"]]
