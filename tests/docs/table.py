"""Rows that tell how the pages' commands and Python blocks are run, at small size or not at all.

The first matching row applies, those of the page before those of every page; a command without a row fails its test. A
row makes a command or block small (``swaps``, ``more``), or gives the reason ``why`` it is not run: then the tool's own
parser still reads the command's words, so that a renamed option fails, and a block is still compiled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """The way to run the commands or blocks that match a pattern.

    Args:
        pattern: found in the command or in the block's text.
        swaps: ``(pattern, replacement)`` pairs, applied in turn.
        more: words added to a command.
        why: the reason not to run it.
        slow: run it with --run-slow only.
        status: the expected exit status of the command.
    """

    pattern: str
    swaps: tuple[tuple[str, str], ...] = ()
    more: str = ""
    why: str = ""
    slow: bool = False
    status: int = 0

    def swapped(self, text: str) -> str:
        """Return ``text`` with everything replaced."""
        for pattern, replacement in self.swaps:
            text = re.sub(pattern, replacement, text)
        return text


@dataclass(frozen=True)
class Page:
    """The prerequisites of a page.

    Args:
        files: made before its first line; the names are those of :mod:`tests.docs.world`.
        needs: modules without which the page is skipped.
        rows: its own rows.
        saved: Python blocks that are files: ``(text in the block, file name)``.
    """

    files: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    saved: tuple[tuple[str, str], ...] = ()


CPU = "--workers 0 --device cpu"
CHILD = "official_data=false epochs=1 num_filters=4 num_cells=1 batch_size=16 train_images=32 validation_images=32"
SPACE = "--blocks 1 --operations identity conv_1x1 avg_pool_3x3"
SEARCH = Row(r"tools/search\.py", more=f"{CPU} --trials 2 {SPACE} --child {CHILD}")
RETRAIN = Row(r"tools/retrain_cells\.py", swaps=((r"--child .+", ""),), more=f"{CPU} --top 2")
IMAGENET = "--epochs 1 --batch-size 8 --image-size 96 --set learning_rate=0.01"
DETECTOR = (
    "MODEL.DEVICE cpu MODEL.NASNET.NUM_CELLS 1 MODEL.NASNET.NUM_FILTERS 8 "
    "MODEL.NASNET.PRETRAINED '' MODEL.NASNET.NORM BN "
    "MODEL.FPN.OUT_CHANNELS 32 MODEL.ROI_BOX_HEAD.FC_DIM 32 MODEL.RPN.POST_NMS_TOPK_TEST 12 INPUT.MIN_SIZE_TRAIN (64,) "
    "INPUT.MIN_SIZE_TEST 64 DATALOADER.NUM_WORKERS 0 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.STEPS ()"
)
SMALL_DETECTOR = (
    "--device cpu --image-size 64 --epochs 1 --set MODEL.NASNET.NUM_CELLS=1 MODEL.NASNET.NUM_FILTERS=8 "
    "MODEL.FPN.OUT_CHANNELS=32 MODEL.ROI_BOX_HEAD.FC_DIM=32"
)
ONE_PROCESS = (r"--num-gpus \d+ ", "")

PACKAGE = Row(
    r"tools/package\.py", ((r"nasnet_a_\w+ --pretrained", "local-dir:tiny --image-size 224"),), slow=True
)  # compiles for a minute

#: For every page.
ROWS = (
    Row(r"create_model\(.nasnet_a_large", swaps=((r"nasnet_a_large", "nasnet_a_mobile"),)),  # 350 MB
    Row(r"^nasnet-det --", why="tests/cli/test_main.py runs it"),
    Row(r"--help"),
    SEARCH,
    Row(r"tools/(check_data|draw_cell|draw_accuracy|evaluate|export_cell|search_report)\.py"),
    Row(r"tools/prepare_coco\.py", status=2),  # without COCO it names what to download
    Row(r"tools/prepare_cifar10\.py", why="a download; tests/training/data/test_cifar10_source.py has a local one"),
    Row(r"tools/convert_weights\.py", why="a download; tests/cli/test_convert_weights.py converts made files"),
    Row(r"tools/convert_detector\.py", why="a download; tests/cli/test_convert_detector.py converts a made checkpoint"),
    Row(r"tools/finetune\.py", why="minutes; tests/detection/engine/test_finetune.py runs it"),
    Row(r"tools/train_net\.py", why="days on GPUs; run at toy size on own-data.md and from-cell-to-detector.md"),
    Row(r"tools/predict\.py", why="takes trained weights; run at toy size on own-data.md and from-cell-to-detector.md"),
    Row(r"benchmarks/(inference|training)\.py", why="minutes on a quiet machine"),
    Row(r"benchmarks/gpu\.py", why="minutes on a GPU; tests/benchmarks/test_gpu.py runs it at toy size"),
    Row(r"look_at_config\(cfg\)", why="takes COCO; tests/detection/data/test_registered.py looks at small sets"),
    Row(r"DETECTRON2/tools/", why="days on GPUs; tests/cli/test_train_net.py runs these scripts"),
    Row(r"tools/train_cifar\.py", why="hours on a GPU; run at toy size on from-cell-to-detector.md"),
    Row(r"tools/train_imagenet\.py", why="days on GPUs; run at toy size on from-cell-to-detector.md and timm.md"),
    Row(r"tools/validate\.py", why="takes ImageNet; run at toy size on from-cell-to-detector.md and timm.md"),
    Row(r"tools/export_model\.py", why="takes trained weights or a minute; two others are run on exports.md"),
    Row(r"^python -c .* train\.py", why="timm's own script; tests/training/test_timm_training.py runs it"),
    Row(r"^optuna-dashboard", why="another project's program"),
    Row(r"^ray start", why="starts a cluster; tests/search/test_ray_workers.py has one"),
)

SCORED = ("instances_val2017.json", "instances_minival_8k2014.json", "image_info_test-dev2017.json")
DETECTIONS = "coco_instances_results.json"
SMALL_NETWORK = "num_cells=1, num_filters=8, stem_channels=8"

PAGES: dict[str, Page] = {
    "README.md": Page((SCORED[1], DETECTIONS, "my_cell.json"), ("detectron2",)),
    "coco.md": Page((*SCORED, DETECTIONS), ("detectron2",)),
    "detectron2.md": Page((SCORED[1], DETECTIONS), ("detectron2",)),
    "detector.md": Page(needs=("detectron2",)),
    "table-4.md": Page(needs=("detectron2",)),
    "own-data.md": Page(
        ("my_data", "pictures"),
        ("detectron2",),
        (
            Row(
                r"tools/finetune\.py",
                swaps=((r"finetune\.py my_data$", f"finetune.py my_data --weights none {SMALL_DETECTOR}"),),
            ),
            Row(
                r"tools/demo\.py", more=f"{DETECTOR} SOLVER.MAX_ITER 2 TEST.EVAL_PERIOD 2", status=1
            ),  # it learns too little
            Row(r"train_net\.py --config-file converted", why="takes a converted checkpoint, see convert_detector.py"),
            Row(r"train_net\.py --config-file configs", more=f"{DETECTOR} TEST.EVAL_PERIOD 0"),
            Row(r"tools/(train_net|predict)\.py"),
        ),
        saved=(("def setup_environment", "my_data.py"),),
    ),
    "from-cell-to-detector.md": Page(
        ("datasets/cifar10", "DATA", "pictures", "toy data set", "my_data"),
        ("detectron2", "optuna"),
        (
            RETRAIN,
            Row(r"tools/finetune\.py", more=SMALL_DETECTOR),
            Row(
                r"tools/train_cifar\.py",
                swaps=((r"--num-cells \d+ --num-filters \d+", "--num-cells 1 --num-filters 4"),),
                more="--unofficial --device cpu --epochs 1 --batch-size 50",
            ),
            Row(r"build_backbone\.py", more="--num-cells 1 --num-filters 8 --image-size 64"),
            Row(r"train_imagenet\.py", more=f"{CPU} {IMAGENET} bn_momentum=0.1"),
            Row(r"tools/validate\.py", more=CPU),
            Row(
                r"tools/train_net\.py",
                swaps=(ONE_PROCESS,),
                more=DETECTOR.replace("PRETRAINED ''", "PRETRAINED runs/mine/model/model.safetensors")
                + """ DATASETS.TRAIN "('toy',)" DATASETS.TEST "('toy',)" MODEL.ROI_HEADS.NUM_CLASSES 2 """,
            ),
            Row(r"tools/predict\.py"),
        ),
    ),
    "search.md": Page(
        ("datasets/cifar10", "DATA"),
        ("optuna",),
        (
            Row(r"--data DATA", more=f"{CPU} --trials 2 {SPACE} --child {CHILD} train_images=16 validation_images=4"),
            Row(
                r"--rungs 2 6 18",
                swaps=((r"--rungs 2 6 18", "--rungs 1 2"),),
                more=f"{CPU} --trials 3 {SPACE} --child {CHILD} epochs=2",
            ),
            Row(r"stop_rules", more=f"{SEARCH.more} epochs=2"),
            Row(r"--limit", swaps=((r"latency=\S+", "latency=9s@64"),), more=SEARCH.more),
            Row(r"--ray", why="a cluster; tests/search/test_ray_workers.py has one"),
            Row(r"--workers 4", why="four processes; tests/search/test_ray_workers.py starts some"),
            Row(
                r"--storage",
                swaps=((r"\.\.\.", "--data datasets/cifar10 --trials 2 --out runs/s1"),),
                why="a database server; tests/search/test_postgresql.py has one",
            ),
            RETRAIN,
            Row(r"tools/search_report\.py", swaps=((r"runs/random", "runs/cheap"),)),
        ),
    ),
    "timm.md": Page(
        ("DATA", "cat.jpg", "tiny model"),
        (),
        (
            Row(r"train_imagenet\.py", swaps=((r"nasnet_a_mobile", "local-dir:tiny"),), more=f"{CPU} {IMAGENET}"),
            Row(r"tools/validate\.py", more=CPU),
            PACKAGE,
        ),
    ),
    "exports.md": Page(
        ("tiny model",),
        ("onnx", "onnxscript", "onnxruntime"),
        (
            Row(
                r"export_model\.py nasnet_a_mobile --pretrained --output",
                swaps=(("nasnet_a_mobile --pretrained", "local-dir:tiny"), (r"mobile\.onnx", "tiny.onnx")),
            ),
            Row(r"local-dir:runs/mine", swaps=(("runs/mine/model", "tiny"),)),
            Row(
                r"package\.py my_run",
                why="takes a trained detector; tests/export/test_detector.py packages a small one",
            ),
            Row(r"package\.py nasnet_a_mobile --pretrained --output", why="tries every runtime, which takes minutes"),
            Row(
                r"package\.py nasnet_a_mobile",
                swaps=(
                    (
                        "nasnet_a_mobile --pretrained --runtime openvino",
                        "local-dir:tiny --image-size 224 --runtime onnxruntime",
                    ),
                ),
            ),
            Row(r"package\.py --show"),
        ),
    ),
    "pictures.md": Page(
        ("my_cell.json", "runs/s1", "runs/random"),
        ("detectron2", "optuna"),
        (Row(r"search_report", why="takes two searches; run on search.md"),),
    ),
    "elsewhere.md": Page(
        needs=("transformers", "segmentation_models_pytorch"),
        rows=(Row(r"examples/\w+\.py", why="tests/examples runs every example"),),
    ),
    "weights.md": Page(
        ("NASNet-mobile.h5", "model.ckpt"),
        rows=(
            Row(r"-m pytest", why="takes TF-slim's sources, as the text says"),
            Row(
                r"load_published",
                swaps=(("nasnet_a_mobile.tf_slim", "NASNet-mobile.h5"), ("mine.h5", "NASNet-mobile.h5")),
            ),
        ),
    ),
    "speed.md": Page(("tiny model",), rows=(PACKAGE,)),
    "command-line.md": Page(needs=("detectron2",)),
}


def row_of(page: str, text: str) -> Row | None:
    """Return the row of a command or block of a page."""
    rows: Sequence[Row] = (*PAGES.get(page, Page()).rows, *ROWS)
    return next((row for row in rows if re.search(row.pattern, text)), None)
