"""A training step's memory and time: eager, compiled and with gradient checkpointing.

    python benchmarks/checkpointing.py --json OUT                     # nasnet_a_large and the paper's large detector
    python benchmarks/checkpointing.py --subjects nasnet_a_mobile --img-size 224 --batch-size 8 --json OUT
    python benchmarks/checkpointing.py --variants eager checkpointed --json OUT   # without minutes of compiling

A step is forward and backward of a batch of made images; parameters and their gradients exist before it. Memory is what
the process grows by at most during a step that is not its first (the resident set on a CPU, what PyTorch allocated on a
GPU), every variant in a process of its own; where operators run one by one, the peak of the bytes that they hold as
well. Time is the median of further steps, the variants in turn in one process, by the clock and of the processor, which
other work on the machine disturbs less. Compiling is in neither. The detectors train as their configs say, with
proposals in chunks that are computed again in the backward pass: for them ``eager`` has that already.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import platform
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from save_results import keep
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import nasnet_det  # registers the models

ROOT = Path(__file__).resolve().parents[1]
DETECTORS = {"detector_large": "nasnet_frcnn.yaml", "detector_mobile": "nasnet_frcnn_mobile_600.yaml"}
VARIANTS = ("eager", "compiled", "checkpointed")


class Subject:
    """A network or a detector to train.

    Args:
        name: a timm model's name, or one of ``DETECTORS``.
        size: height and width of its images.
        batch: images of a step.
        device: where it runs.
    """

    def __init__(self, name: str, size: int, batch: int, device: str) -> None:
        torch.manual_seed(0)
        if name in DETECTORS:
            self.model, self.parts, self.inputs = self._detector(name, size, batch, device)
        else:
            self.model = timm.create_model(name).train().to(device)
            self.parts = [self.model]
            self.inputs = torch.randn(batch, 3, size, size, device=device)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        self.forwards = [part.forward for part in self.parts]

    @staticmethod
    def _detector(name: str, size: int, batch: int, device: str) -> tuple[nn.Module, list[nn.Module], Any]:
        from detectron2.modeling import build_model
        from detectron2.structures import Boxes, Instances

        from nasnet_det.detection.config import read_config

        options = ["MODEL.DEVICE", device, "MODEL.NASNET.PRETRAINED", "", "MODEL.NASNET.IMAGE_SIZE", [size, size]]
        model = build_model(read_config(ROOT / "configs" / DETECTORS[name], options)).train()
        boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.5, 0.5, 0.8, 0.7]]) * size
        truth = Instances((size, size), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 5])).to(device)
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
        inputs = [{"image": image, "instances": truth} for _ in range(batch)]
        return model, [model.backbone, model.roi_heads.second_stage], inputs

    def use(self, variant: str) -> None:
        """Take another variant; what was compiled stays so."""
        for part, forward in zip(self.parts, self.forwards, strict=True):
            network = getattr(part, "network", part)
            network.set_grad_checkpointing(variant == "checkpointed")
            part.forward = forward
            if variant == "compiled":
                part.__dict__.setdefault("_compiled", torch.compile(forward))
                part.forward = part.__dict__["_compiled"]

    def step(self) -> None:
        """Forward and backward of one batch."""
        if isinstance(self.inputs, torch.Tensor):
            self.model(self.inputs).square().mean().backward()
            return
        from detectron2.utils.events import EventStorage

        with EventStorage():
            sum(self.model(self.inputs).values()).backward()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage that operators make, from its making to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage.data_ptr(), storage.nbytes()
        if size == 0 or key in self.known:
            return

        def end(_: Any) -> None:
            del self.known[key]
            self.live -= size

        self.known[key] = weakref.ref(storage, end)
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_of_operators(subject: Subject) -> int:
    """The peak of activations and temporary tensors over a step, in bytes; what exists before it is not counted."""
    with LiveBytes() as counter:
        gradients = [p.grad for p in subject.model.parameters() if p.grad is not None]
        for tensor in (*subject.model.parameters(), *subject.model.buffers(), *gradients):
            counter.known[tensor.untyped_storage().data_ptr()] = weakref.ref(tensor)
        subject.step()
    return counter.peak


def growth(step: Callable[[], None], device: str) -> int:
    """Return the largest growth of the process during a step, in bytes."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def memory(arguments: tuple[str, int, int, str], variant: str) -> dict[str, int | None]:
    """Return the memory of one variant, measured in a process of its own."""
    subject = Subject(*arguments)
    subject.use(variant)
    subject.step()
    found = growth(subject.step, arguments[-1])
    return {
        "peak_growth_bytes": found,
        "peak_activation_bytes": None if variant == "compiled" else peak_of_operators(subject),
    }


def seconds(arguments: tuple[str, int, int, str], variants: list[str], repeats: int) -> dict[str, dict[str, Any]]:
    """Return the times of all variants, taken in turn after a round that warms up and compiles."""
    subject, device = Subject(*arguments), arguments[-1]
    times: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
    preparation = {}
    for repeat in range(repeats + 1):
        for variant, measured in times.items():
            subject.use(variant)
            start = time.perf_counter(), time.process_time()
            subject.step()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            took = time.perf_counter() - start[0], time.process_time() - start[1]
            if repeat:
                measured.append(took)
            else:
                preparation[variant] = took[0]
    return {
        variant: {
            "seconds": statistics.median(clock for clock, _ in measured),
            "spread": max(clock for clock, _ in measured) - min(clock for clock, _ in measured),
            "processor_seconds": statistics.median(processor for _, processor in measured),
            "first_step_seconds": preparation[variant],
        }
        for variant, measured in times.items()
    }


@contextmanager
def steady_allocation() -> Iterator[None]:
    """Let processes started in the block return freed memory at once, so that their size is the memory in use."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    try:
        yield
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measure(name: str, options: argparse.Namespace, where: str) -> list[dict[str, Any]]:
    """The rows of one subject."""
    size = options.detector_size if name in DETECTORS else options.img_size
    batch = options.detector_batch_size if name in DETECTORS else options.batch_size
    arguments = (name, size, batch, options.device)
    print(f"\n{name}, {batch} x {size} x {size}, float32", flush=True)
    with steady_allocation():
        sizes = {variant: apart(memory, arguments, variant) for variant in options.variants}
    times = apart(seconds, arguments, options.variants, options.repeats)
    base = options.variants[0]
    rows = []
    for variant in options.variants:
        row = {"subject": name, "size": size, "batch_size": batch, "variant": variant, **sizes[variant]}
        row |= {**times[variant], "machine": where}
        row["memory_ratio"] = row["peak_growth_bytes"] / sizes[base]["peak_growth_bytes"]
        row["time_ratio"] = row["seconds"] / times[base]["seconds"]
        row["processor_ratio"] = row["processor_seconds"] / times[base]["processor_seconds"]
        rows.append(row)
        operators = row["peak_activation_bytes"]
        print(
            f"{variant:14s} {row['peak_growth_bytes'] / 2**20:8.0f} MiB ({row['memory_ratio']:6.1%})"
            f" {f'operators {operators / 2**20:.0f} MiB' if operators else '':>20s}"
            f" {row['seconds']:8.2f} s ({row['time_ratio']:.2f} x, spread {row['spread']:.2f} s),"
            f" processor {row['processor_seconds']:7.2f} s ({row['processor_ratio']:.2f} x),"
            f" first step {row['first_step_seconds']:.0f} s",
            flush=True,
        )
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", nargs="+", default=["nasnet_a_large", "detector_large"], metavar="SUBJECT")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="the first is 1")
    parser.add_argument("--img-size", type=int, default=331)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--detector-size", type=int, default=400)
    parser.add_argument("--detector-batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    known = {*timm.list_models("nasnet*"), *timm.list_models("pnasnet*"), *DETECTORS}
    for name in options.subjects:
        if name not in known:
            print(f"error: no subject {name}: there are {', '.join(sorted(known))}", file=sys.stderr)
            return 2
    cuda = options.device.startswith("cuda")
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {os.cpu_count()} cores"
    where += f", {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    where += f", timm {timm.__version__}, nasnet_det {nasnet_det.__version__}"
    print(where, flush=True)
    rows: list[dict[str, Any]] = []
    for name in options.subjects:
        rows += measure(name, options, where)
        if options.json:  # after every subject, so that a limit on time costs the last one only
            keep(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
