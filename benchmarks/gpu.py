"""Measure inference, the paper's detector and training on one GPU, in at most nine minutes.

    python benchmarks/gpu.py --output gpu [--cifar DATA]
    python benchmarks/gpu.py --device cpu --quick --output gpu

The parts, one after another: eager inference of ``nasnet_a_mobile`` and ``nasnet_a_large``, plain and fused, at batch 1
and 64; the paper's detector at 1200 x 1200 with 300 proposals by stage, plain and fused; training steps of both
networks; ``cifar_quick`` in four minutes, of which it trains three and a half (on random images without ``--cifar``,
whose accuracy is meaningless), while the compiled forms of the networks, at batch 1 with CUDA graphs, are compiled,
which takes processors and hardly the GPU; then these are measured in turn. Each part runs in a process of its own with
a time limit; what the limit leaves out is named.
DIR/gpu.json and gpu.csv hold the rows, DIR/gpu.md the table.
``peak MiB`` is what PyTorch allocated on a GPU since the row began, and the process's peak resident set on a CPU.
``--quick`` tries every part on small networks.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from filelock import FileLock
from save_results import keep

import nasnet_det
from nasnet_det.fusion import optimize_for_inference
from nasnet_det.safe_io.files import write_text
from nasnet_det.training.data.cifar10 import TEST_BATCH, TRAIN_BATCHES, Images, to_binary

#: Seconds of the whole run.
LIMIT = 540
SMALL = {"num_cells": 1, "num_filters": 8}
COLUMNS = ("part", "what", "batch", "ms", "images/s", "peak MiB")
Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """The device, sizes and folders of all parts.

    Args:
        device: ``cuda`` or ``cpu``.
        quick: use small networks instead of the real ones.
        cifar: the folder of CIFAR-10's batches; None for random images.
        output: the folder of the results.
        ready: the barrier of parts that run side by side.
        deadline: when they stop waiting for each other, on the clock of ``time.monotonic``.
    """

    device: str
    quick: bool
    cifar: Path | None
    output: Path
    ready: Any = None
    deadline: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16 on a GPU, float32 on a CPU."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def wait_for_others(self) -> None:
        """Wait until all parts that run side by side have compiled or trained, which slows what is measured."""
        if self.ready is not None:
            with suppress(threading.BrokenBarrierError):  # one is too slow or has failed
                self.ready.wait(max(0.0, self.deadline - time.monotonic()))

    def turn(self) -> AbstractContextManager[Any]:
        """Return a lock that one process holds while it measures; a process that ends gives it back."""
        return FileLock(self.output / "measuring.lock")

    def reset_peak(self) -> None:
        """Begin a row: free what the last one left and count memory from here."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_mib(self) -> float:
        """Return the peak memory of the row in MiB."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def shortest(run: Callable[[], Any], setting: Setting, seconds: float = 1.5, least: int = 3) -> float:
    """Return the shortest time of a call in seconds, over at least ``least`` calls and about ``seconds``."""
    times: list[float] = []
    with setting.turn():
        end = time.perf_counter() + (0 if setting.quick else seconds)
        while len(times) < least or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            setting.synchronize()
            times.append(time.perf_counter() - start)
    return min(times)


def inference(name: str, executions: dict[int, str], forms: tuple[str, ...], setting: Setting) -> Rows:
    """Measure a classifier, plain or fused, at each batch in its execution."""
    import torch._inductor.config

    torch._inductor.config.freezing = True
    plain = timm.create_model(name, **(SMALL if setting.quick else {})).eval()
    size = 64 if setting.quick else plain.pretrained_cfg["input_size"][-1]
    place = {"device": setting.device, "dtype": setting.dtype, "memory_format": torch.channels_last}
    for form in forms:
        model = (optimize_for_inference(plain) if form == "fused" else plain).to(**place)
        calls = {}
        for batch, execution in executions.items():
            execution = execution if setting.device == "cuda" else execution.split()[0]  # a CPU has no graphs
            x = torch.randn(2 if setting.quick and batch > 1 else batch, 3, size, size).to(**place)
            calls[execution, len(x)] = _forward(model, x, execution, setting)
        setting.wait_for_others()
        for (execution, images), call in calls.items():
            setting.reset_peak()
            yield _row(f"{name}, {form}, {execution}", images, shortest(call, setting), setting)


def _forward(model: torch.nn.Module, x: torch.Tensor, execution: str, setting: Setting) -> Callable[[], Any]:
    """Return a forward pass, compiled and warm."""
    mode = "reduce-overhead" if execution.endswith("graphs") else "default"
    forward = model if execution == "eager" else torch.compile(model, dynamic=False, mode=mode)
    call = torch.inference_mode()(lambda: forward(x))
    for _ in range(3):  # graphs are recorded in the second call
        call()
    setting.synchronize()
    return call


def detector(setting: Setting) -> Rows:
    """Measure the paper's detector by stage, plain and fused."""
    from detector import measure as measure_detector

    sizes = (96, 8) if setting.quick else (1200, 300)
    options = ["MODEL.NASNET.NUM_CELLS", 1, "MODEL.NASNET.NUM_FILTERS", 12] if setting.quick else []
    for form in ("plain", "fused"):
        setting.reset_peak()
        variant = {"detector": "nasnet_large", "form": form, "proposals": sizes[1], "chunk": 0, "options": options}
        found = measure_detector(variant, sizes[0], 1 if setting.quick else 5, setting.device)
        what = f"{sizes[0]} x {sizes[0]}, {sizes[1]} proposals, {form}"
        yield _row(f"{what}, whole", 1, found["seconds"], setting)
        for stage, seconds in found["stage_seconds"].items():
            yield _row(f"{what}, {stage}", 1, seconds, setting)


def training(setting: Setting) -> Rows:
    """Measure training steps of ImageNet networks, eager and, on a GPU, as CUDA graphs."""
    from training import Row
    from training import measure as measure_step

    from nasnet_det.training.execution import choose_execution

    wanted = [("nasnet_a_mobile", 224, 128), ("nasnet_a_large", 331, 32)]
    torch.backends.cudnn.benchmark = True  # as the training commands do
    eager = choose_execution(setting.device)
    for execution in [eager] if setting.device == "cpu" else [replace(eager, mode="graph"), eager]:
        for name, size, batch in [("nasnet_a_cifar_6_at_768", 32, 2)] if setting.quick else wanted:
            setting.reset_peak()
            found = measure_step(Row(name, size, batch, execution), *((1, 1, 1) if setting.quick else (5, 2, 3)))
            yield _row(f"{name}, {execution.describe()}", batch, found["milliseconds_per_step"] / 1000, setting)


def cifar(setting: Setting) -> Rows:
    """Train ``cifar_quick``; preparing and measuring the epochs takes half a minute more."""
    from nasnet_det.cli.train_cifar import main

    data = setting.cifar or write_random_cifar(setting.output / "random_cifar", 16 if setting.quick else 10_000)
    arguments = [
        str(data),
        "--out",
        str(setting.output / "cifar"),
        "--recipe",
        "cifar_quick",
        "--device",
        setting.device,
    ]
    if setting.quick:
        arguments += [
            "--genotype",
            "nasnet_a",
            "--num-cells",
            "1",
            "--num-filters",
            "4",
            "--set",
            "epochs=1",
            "batch_size=16",
        ]
    else:
        arguments += ["--minutes", "3.5"]
    setting.reset_peak()
    start = time.perf_counter()
    status = main([*arguments, *([] if setting.cifar else ["--unofficial"])])
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"train-cifar ended with status {status}")
    summary = json.loads((setting.output / "cifar" / "summary.json").read_text(encoding="utf-8"))
    images = "CIFAR-10" if setting.cifar else "random images"
    what = f"cifar_quick on {images}, {seconds:.0f} s, top-1 {100 * summary['mean']:.2f} %"
    yield {"what": what, "seconds": seconds, "top1": summary["mean"], "peak_mib": setting.peak_mib()}
    setting.wait_for_others()


def write_random_cifar(folder: Path, images: int) -> Path:
    """Write six batches of ``images`` random images in CIFAR-10's binary form."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name in (*TRAIN_BATCHES, TEST_BATCH):
        pixels = random.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(images, dtype=np.uint8) % 10
        (folder / f"{name}.bin").write_bytes(to_binary(Images(pixels, labels)))
    return folder


#: Batches and their executions. At batch 1 a GPU waits for launches, which CUDA graphs save.
EAGER = {1: "eager", 64: "eager"}
COMPILED = {64: "compiled", 1: "compiled with CUDA graphs"}
PARTS: dict[str, Callable[[Setting], Rows]] = {
    "mobile": partial(inference, "nasnet_a_mobile", EAGER, ("plain", "fused")),
    "large": partial(inference, "nasnet_a_large", EAGER, ("plain", "fused")),
    "detector": detector,
    "training": training,
    "mobile_compiled": partial(inference, "nasnet_a_mobile", COMPILED, ("plain",)),
    "mobile_fused_compiled": partial(inference, "nasnet_a_mobile", COMPILED, ("fused",)),
    "large_compiled": partial(inference, "nasnet_a_large", COMPILED, ("plain",)),
    "large_fused_compiled": partial(inference, "nasnet_a_large", COMPILED, ("fused",)),
    "cifar": cifar,
}
#: Parts that run at the same time, and their seconds.
GROUPS: dict[tuple[str, ...], float] = {
    ("mobile",): 40,
    ("large",): 40,
    ("detector",): 35,
    ("training",): 75,
    ("cifar", *(name for name in PARTS if name.endswith("compiled"))): 320,
}
#: Of a group's seconds, those that are left for measuring when its parts stop waiting for the slowest.
MEASURING = 25


def _row(what: str, batch: int, seconds: float, setting: Setting) -> dict[str, Any]:
    return {"what": what, "batch": batch, "seconds": seconds, "peak_mib": setting.peak_mib()}


def _run_part(name: str, setting: Setting, connection: Any) -> None:
    """Send a part's rows one by one, then None; an error is a row too."""
    try:
        for row in PARTS[name](setting):
            connection.send(row)
    except Exception as error:  # the other parts are still worth measuring
        connection.send({"what": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]})
        setting.wait_for_others()
    connection.send(None)


def measure(names: list[str], setting: Setting, limit: float) -> Rows:
    """Run parts side by side, each in a process of its own, for at most ``limit`` seconds."""
    context = multiprocessing.get_context("spawn")
    running, processes = {}, []
    end = time.monotonic() + limit
    if len(names) > 1:
        setting = replace(setting, ready=context.Barrier(len(names)), deadline=end - MEASURING)
    for name in names:
        receiver, sender = context.Pipe(duplex=False)
        processes.append(context.Process(target=_run_part, args=(name, setting, sender)))
        processes[-1].start()
        sender.close()
        running[receiver] = name
    try:
        while running and (ready := wait(list(running), max(0.0, end - time.monotonic()))):
            for receiver in ready:
                try:
                    row = receiver.recv()
                except EOFError:
                    row = {"what": running[receiver], "error": "its process ended without a word"}
                if row is not None:
                    yield {"part": running[receiver], **row}
                if row is None or "error" in row:
                    del running[receiver]
        for name in running.values():
            yield {"part": name, "what": name, "error": f"stopped after {limit:.0f} s; its other rows are complete"}
    finally:
        for process in processes:
            process.kill()
            process.join()


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row's cells of the table."""
    if "error" in row:
        return row["part"], row["error"], "", "", "", ""
    seconds, batch = row["seconds"], row.get("batch")
    rate = f"{batch / seconds:.1f}" if batch else ""
    return row["part"], row["what"], str(batch or ""), f"{1000 * seconds:.1f}", rate, f"{row['peak_mib']:.0f}"


def machine(device: str) -> dict[str, Any]:
    """Return the device and the versions."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "timm": timm.__version__, "nasnet_det": nasnet_det.__version__}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0 if every part gave its rows, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small networks, one call each: a test of this command")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all")
    parser.add_argument("--cifar", type=Path, metavar="DATA", help="the folder of CIFAR-10's batches")
    parser.add_argument(
        "--output", type=Path, default=Path("gpu"), metavar="DIR", help="the folder of the results (gpu)"
    )
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: PyTorch finds no GPU here; --device cpu --quick tries this command without one", file=sys.stderr)
        return 2
    setting = Setting(options.device, options.quick, options.cifar, options.output)
    described, rows = machine(options.device), []
    print(", ".join(map(str, described.values())), flush=True)
    end = time.monotonic() + LIMIT
    setting.output.mkdir(parents=True, exist_ok=True)
    for group, seconds in GROUPS.items():
        limit = LIMIT if setting.quick else min(seconds, end - time.monotonic())
        for row in measure([name for name in group if name in options.parts], setting, limit):
            rows.append(row)
            print("  ".join(cells(row)), flush=True)
            keep(options.output / "gpu.json", {"machine": described, "rows": rows})
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(cells, rows)]
    write_text(options.output / "gpu.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
