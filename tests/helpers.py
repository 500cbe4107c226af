"""Helpers of several test modules: random networks and genotypes, small data sets, and killed processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub.utils import filter_repo_objects
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from nasnet_det import NASNet
from nasnet_det.genotypes.genotype import COMBINERS, OPERATIONS, Block, CellGenotype, Genotype
from nasnet_det.training.data.cifar10 import TEST_BATCH, TRAIN_BATCHES, Images, to_binary
from nasnet_det.weights.formats.tf_slim import FORMAT
from nasnet_det.weights.layout import published_units

ROOT = Path(__file__).resolve().parents[1]
#: Classes and F of the detector in :func:`tf_detector_variables`.
TF_CLASSES, TF_FILTERS = 5, 4
#: A genotype of one block, and one that has every kind of step that a fused cell has.
_CELL = CellGenotype((Block(0, 1, "sep_conv_3x3", "max_pool_3x3"),), (2,))
ONE_BLOCK = Genotype(_CELL, _CELL, name="mine", source="a search")
EVERY_STEP = Genotype(
    CellGenotype((Block(0, 1, "sep_conv_3x3", "avg_pool_3x3"), Block(2, 0, "sep_conv_5x5", "identity")), (1, 3)),
    CellGenotype((Block(0, 1, "sep_conv_5x5", "max_pool_3x3"),), (2,)),
)
SYNSETS = ("n01440764", "n01443537", "n01484850")


def randomize(module: nn.Module) -> nn.Module:
    """Random batch-norm statistics and weights, so that nothing is an identity by accident."""
    torch.manual_seed(0)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.5, 0.5)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    return module.eval()


def assert_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Assert that two state dicts are equal to the bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


class Hostile:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@st.composite
def cells(draw: st.DrawFn, num_blocks: int, num_inputs: int = 2, join_all: bool = False) -> CellGenotype:
    """Any legal cell of ``num_blocks`` blocks that joins its unread states, and perhaps others."""
    blocks = []
    for number in range(num_blocks):
        states = st.integers(0, num_inputs + number - 1)
        names = st.sampled_from(sorted(OPERATIONS))
        blocks.append(
            Block(draw(states), draw(states), draw(names), draw(names), draw(st.sampled_from(sorted(COMBINERS))))
        )
    created = range(num_inputs, num_inputs + num_blocks)
    if join_all:
        return CellGenotype(tuple(blocks), tuple(created))
    extra = draw(st.sets(st.integers(0, num_inputs + num_blocks - 1)))
    read = {state for block in blocks for state, _ in block.sides}
    return CellGenotype(tuple(blocks), tuple(sorted({*extra, *(state for state in created if state not in read)})))


@st.composite
def genotypes(draw: st.DrawFn, max_blocks: int = 5) -> Genotype:
    """Any legal genotype, of either way of passing states on."""
    passes_all = draw(st.booleans())
    sizes = st.integers(1, max_blocks)
    normal = draw(sizes)
    reduction = normal if passes_all else draw(sizes)
    inputs = normal if passes_all else 2
    return Genotype(
        draw(cells(normal, inputs, passes_all)),
        draw(cells(reduction, inputs, passes_all)),
        passes_all=passes_all,
        name=draw(st.none() | st.text(max_size=10)),
    )


def made_images(number: int, seed: int) -> Images:
    """Noise around one colour a class."""
    random = np.random.default_rng(seed)
    labels = np.arange(number, dtype=np.uint8) % 10
    colours = np.random.default_rng(0).integers(40, 215, (10, 3))
    noise = random.integers(-40, 40, (number, 3, 32, 32))
    return Images((colours[labels][:, :, None, None] + noise).astype(np.uint8), labels)


def write_cifar(root: Path, images: int = 20) -> Path:
    """Write six batches of ``images`` pictures in CIFAR-10's binary form, one colour for each class."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate((*TRAIN_BATCHES, TEST_BATCH)):
        (root / f"{name}.bin").write_bytes(to_binary(made_images(images, seed)))
    return root


def write_image_folder(root: Path, train: int = 8, val: int = 4) -> Path:
    """Write an ImageNet folder of three classes with ``train`` and ``val`` pictures each, one colour for each class."""
    noise = np.random.default_rng(0)
    for split, number in (("train", train), ("val", val)):
        for label, name in enumerate(SYNSETS):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = noise.integers(0, 60, (50 + i, 64, 3))
                pixels[..., label] += 180
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def kill_at_random(
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
    kills: int,
    within: float,
    seed: int,
    method: Literal["fork", "spawn"] = "fork",
) -> int:
    """Run a function in a process of its own, killing it at random moments and starting it again, and let it finish at
    last. Gives how many kills it took: fewer if it was done before."""
    rng, context = random.Random(seed), multiprocessing.get_context(method)
    for kill in range(kills):
        process = context.Process(target=target, args=arguments)
        process.start()
        process.join(rng.uniform(0.0, within))
        if process.exitcode is not None:
            assert process.exitcode == 0
            return kill
        process.kill()
        process.join()
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0
    return kills


@contextmanager
def another_process(module: str, block: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has entered a block of a module of ``nasnet_det.safe_io`` and waits in it; killed at the end."""
    code = f"from nasnet_det.safe_io.{module} import *\nwith {block}:\n    print(flush=True)\n    input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process
        process.kill()


def torchrun(tool: str, arguments: Sequence[object], **environment: str) -> str:
    """Run a script of ``tools`` in two processes of torchrun, without GPUs; return what they printed."""
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*started, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **environment}
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


class FakeHub:
    """Takes what is pushed as the Hugging Face hub would."""

    def __init__(self, store: Path) -> None:
        self.store, self.private = store, False

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.private = private
        return f"https://hub/{name}"

    def upload_folder(
        self, repo_id: str, folder_path: Path, commit_message: str, allow_patterns: list[str] | None = None
    ) -> None:
        assert commit_message
        files = [path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()]
        for name in filter_repo_objects(files, allow_patterns=allow_patterns):
            target = self.store / repo_id / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((folder_path / name).read_bytes())


def tf_detector_variables() -> dict[str, np.ndarray]:
    """A thin detector's variables under TF's names, numbered by a random generator."""
    random = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {"global_step": np.int64(7)}
    model = NASNet(num_cells=1, num_filters=TF_FILTERS, stem_channels=8, skip_reduction_layer_input=True, num_classes=0)
    for unit in published_units(model):
        upper = unit.cell is not None and unit.cell.name in ("reduction_cell_1", "cell_2")
        scope = "SecondStageFeatureExtractor" if upper else "FirstStageFeatureExtractor"
        for leaf, module in unit.module.named_modules():
            for parameter, value in module.named_parameters(recurse=False):
                kind = leaf if leaf in ("depthwise", "pointwise") else "conv" if value.ndim == 4 else "norm"
                shape = list(value.shape)
                if kind == "depthwise":
                    shape = [shape[2], shape[3], shape[0], shape[1]]
                elif kind != "norm":
                    shape = [shape[2], shape[3], shape[1], shape[0]]
                name = FORMAT.tensor(kind, FORMAT.layer(unit, leaf) or "", parameter)
                found[f"{scope}/{name}"] = random.normal(size=shape).astype(np.float32)
            for parameter, value in module.named_buffers(recurse=False):
                if parameter.startswith("running"):
                    name = FORMAT.tensor("norm", FORMAT.layer(unit, leaf) or "", parameter)
                    found[f"{scope}/{name}"] = random.uniform(1, 2, value.shape).astype(np.float32)
    channels, features = (4 + 6) * 2 * TF_FILTERS, 6 * 4 * TF_FILTERS  # of reduction_cell_0 and cell_1; of cell_2
    layers = {
        "Conv": [3, 3, channels, 512],
        "FirstStageBoxPredictor/ClassPredictor": [1, 1, 512, 24],
        "FirstStageBoxPredictor/BoxEncodingPredictor": [1, 1, 512, 48],
        "SecondStageBoxPredictor/ClassPredictor": [features, TF_CLASSES + 1],
        "SecondStageBoxPredictor/BoxEncodingPredictor": [features, 4 * TF_CLASSES],
    }
    for name, shape in layers.items():
        found[f"{name}/weights"] = random.normal(size=shape).astype(np.float32)
        found[f"{name}/biases"] = random.normal(size=shape[-1:]).astype(np.float32)
    return found


#: A pipeline config of the TF Object Detection API with values other than the defaults.
PIPELINE = """
model { faster_rcnn {
  num_classes: 37
  image_resizer { fixed_shape_resizer { height: 320 width: 640 } }
  feature_extractor { type: "faster_rcnn_nas" }
  first_stage_anchor_generator { grid_anchor_generator {
    scales: [0.5, 1.0] aspect_ratios: 0.5 aspect_ratios: 2.0 height_stride: 16 width_stride: 16 } }
  first_stage_nms_iou_threshold: 0.65
  first_stage_nms_score_threshold: 0.01
  first_stage_max_proposals: 50
  first_stage_minibatch_size: 128
  first_stage_localization_loss_weight: 2.0
  first_stage_objectness_loss_weight: 0.5
  initial_crop_size: 14
  maxpool_kernel_size: 2
  maxpool_stride: 2
  second_stage_box_predictor { mask_rcnn_box_predictor { use_dropout: false } }
  second_stage_batch_size: 32
  second_stage_balance_fraction: 0.5
  second_stage_localization_loss_weight: 3.0
  second_stage_post_processing {
    batch_non_max_suppression {
      score_threshold: 0.05 iou_threshold: 0.55 max_detections_per_class: 70 max_total_detections: 80 }
    score_converter: SOFTMAX
  }
} }
train_config {
  batch_size: 2
  optimizer { momentum_optimizer {
    learning_rate { manual_step_learning_rate {
      initial_learning_rate: 0.1
      schedule { step: 0 learning_rate: 0.0004 }
      schedule { step: 600 learning_rate: 0.0001 }
      schedule { step: 900 learning_rate: 0.000025 } } }
    momentum_optimizer_value: 0.8 } }
  gradient_clipping_by_norm: 5.0
  num_steps: 1200
}
"""

#: As quark0/darts ``cnn/genotypes.py`` prints it.
DARTS_V2 = """DARTS_V2 = Genotype(
    normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1),
        ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5],
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0),
        ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"""


def coco_content() -> dict[str, Any]:
    """Return COCO annotations of three images of 40 x 30 pixels, two of which show a person."""
    images = [{"id": i, "width": 40, "height": 30, "file_name": f"{i}.jpg"} for i in (1, 2, 3)]
    box = {"category_id": 5, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": 0}
    boxes = [{"id": 1, "image_id": 1, **box}, {"id": 2, "image_id": 2, **box}]
    return {"images": images, "annotations": boxes, "categories": [{"id": 5, "name": "person"}]}
