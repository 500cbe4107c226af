"""All steps from a search to a detector at toy size, on real images.

Every step is the command of docs/from-cell-to-detector.md with smaller numbers. The images are those of the small COCO
set: crops of its annotated objects, as a data set in CIFAR-10's form and as an ImageNet folder, then whole images.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.training.data.cifar10 import TEST_BATCH, TRAIN_BATCHES, Images, to_binary

PROJECT = Path(__file__).parents[2]
BATCH = 30


def _run(name: str, *arguments: str | Path) -> None:
    main = runpy.run_path(str(PROJECT / "tools" / f"{name}.py"))["main"]
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def objects(shared: Path) -> list[tuple[Image.Image, int]]:
    """The annotated objects of the ten most frequent categories, cut out, with their category's rank."""
    coco = shared / "data" / "coco_mini"
    data = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in data["images"]}
    whole = [a for a in data["annotations"] if not a["iscrowd"] and min(a["bbox"][2:]) >= 16]
    ids, counts = np.unique([a["category_id"] for a in whole], return_counts=True)
    rank = {int(category): place for place, category in enumerate(ids[np.argsort(-counts)][:10])}
    found = []
    for annotation in whole:
        if annotation["category_id"] in rank:
            x, y, width, height = annotation["bbox"]
            with Image.open(coco / "train2017" / names[annotation["image_id"]]) as image:
                cut = image.convert("RGB").crop((int(x), int(y), int(x + width), int(y + height)))
            found.append((cut, rank[annotation["category_id"]]))
    return found


@pytest.fixture(scope="module")
def cifar(objects: list[tuple[Image.Image, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The objects at 32 x 32 pixels in CIFAR-10's form."""
    root = tmp_path_factory.mktemp("cifar")
    pictures = np.stack([np.asarray(cut.resize((32, 32))).transpose(2, 0, 1) for cut, _ in objects])
    labels = np.array([label for _, label in objects], np.uint8)
    for number, name in enumerate((*TRAIN_BATCHES, TEST_BATCH)):
        part = slice(BATCH * number, BATCH * (number + 1))
        (root / f"{name}.bin").write_bytes(to_binary(Images(pictures[part], labels[part])))
    return root


@pytest.fixture(scope="module")
def imagenet(objects: list[tuple[Image.Image, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve objects of each of three categories as an ImageNet folder."""
    root = tmp_path_factory.mktemp("imagenet")
    for label in range(3):
        for number, cut in enumerate([cut for cut, place in objects if place == label][:12]):
            folder = root / ("train" if number < 8 else "val") / f"category_{label}"
            folder.mkdir(parents=True, exist_ok=True)
            cut.save(folder / f"{number}.jpg")
    return root


@pytest.fixture
def whole_images(shared: Path) -> Iterator[str]:
    """The name of the registered data set of whole images."""
    data = pytest.importorskip("detectron2.data")
    from detectron2.data.datasets import register_coco_instances

    coco, name = shared / "data" / "coco_mini", "road"
    annotations = coco / "annotations" / "instances_train2017.json"
    register_coco_instances(name, {}, str(annotations), str(coco / "train2017"))
    yield name
    data.DatasetCatalog.remove(name)
    data.MetadataCatalog.remove(name)


def test_from_search_to_detections(
    shared: Path, cifar: Path, imagenet: Path, whole_images: str, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    search, cell, backbone, run = (tmp_path / name for name in ("search", "my_cell.json", "backbone", "run"))

    child = ["epochs=1", "num_cells=1", "num_filters=4", "batch_size=25"]
    child += [f"train_images={4 * BATCH}", f"validation_images={BATCH}", "official_data=false"]
    where = ["--workers", "0", "--device", "cpu"]
    _run("search", "--strategy", "random", "--data", cifar, "--trials", "2", "--out", search, "--child", *child, *where)
    _run("export_cell", search, "--top", "1", "--out", cell)
    assert Genotype.load(cell).normal.blocks

    size = ["--num-cells", "1", "--num-filters", "8"]
    _run("build_backbone", cell, *size, "--image-size", "96", "--out", backbone)
    recipe = ["--epochs", "1", "--batch-size", "8", "--set", "learning_rate=0.01", "bn_momentum=0.1"]
    _run("train_imagenet", imagenet, "--model", f"local-dir:{backbone}", "--out", run, *recipe, *where)
    figures = tmp_path / "figures.json"
    _run("validate", imagenet, "--model", f"local-dir:{run / 'model'}", "--json", figures, *where)
    measured = json.loads(figures.read_text())
    assert measured["images"] == 12 and 0 <= measured["top1"] <= measured["top5"] == 1

    output = tmp_path / "detector"
    network = ["MODEL.NASNET.GENOTYPE", cell, "MODEL.NASNET.NUM_CELLS", "1", "MODEL.NASNET.NUM_FILTERS", "8"]
    network += ["MODEL.NASNET.PRETRAINED", run / "model" / "model.safetensors", "MODEL.NASNET.NORM", "BN"]
    coco = ["DATASETS.TRAIN", f"('{whole_images}',)", "DATASETS.TEST", "()"]
    small = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "96", "SOLVER.IMS_PER_BATCH", "2"]
    small += ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96", "DATALOADER.NUM_WORKERS", "0"]
    short = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "OUTPUT_DIR", output, *coco]
    config = ["--config-file", PROJECT / "configs" / "fpn_found_cell.yaml"]
    _run("train_net", *config, *network, *small, *short)
    assert (output / "model_final.pth").is_file()

    picture = sorted((shared / "data" / "coco_mini" / "val2017").iterdir())[0]
    show = ["--threshold", "0.0", "--output", tmp_path / "pictures"]
    options = ["--opts", "MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    trained = ["--config-file", output / "config.yaml", "--weights", output / "model_final.pth"]
    _run("predict", *trained, picture, *show, *options)
    results = json.loads((tmp_path / "pictures" / "results.json").read_text())
    assert results and {"image_id", "category_id", "bbox", "score"} <= set(results[0])
    assert [path for path in (tmp_path / "pictures").iterdir() if path.suffix in (".png", ".jpg")]
