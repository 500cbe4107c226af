"""The time that TorchInductor's and OpenVINO's packages spend in each kind of convolution.

    OMP_NUM_THREADS=1 python benchmarks/runtime_profile.py --model nasnet_a_mobile --json OUT

Packages of one network, in float32, batch 1, take turns. A turn is ``--calls`` calls, of which the shortest is ``whole
call``, and one more with oneDNN's log or OpenVINO's counters on. ``ms`` is the median over the turns, ``GFLOP/s`` the
plain network's arithmetic in its convolutions of that kind over this time, and ``all the rest`` what the convolutions
leave of the whole call. Weights are random.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from inference import MATRIX, SIDE
from save_results import keep
from torch import Tensor, nn

from nasnet_det.export import classifier_program, load_package, save_package
from nasnet_det.export.runtimes import openvino_settings

POINTWISE, DEPTHWISE, DENSE = "pointwise convolutions", "depthwise convolutions", "other convolutions"
REST, WHOLE = "all the rest", "whole call"
KINDS = (POINTWISE, DEPTHWISE, DENSE, REST, WHOLE)
Times = dict[str, float]
#: A line of oneDNN's log: a convolution's groups, size of the kernel and time in milliseconds.
_LOGGED = re.compile(r"exec,cpu,convolution,.*,(?:g(\d+))?mb.*?kh(\d+).*,([\d.]+)$", re.MULTILINE)


def kind_of(side: int, groups: int) -> str:
    """Return the kind of a convolution."""
    return POINTWISE if side == 1 else DEPTHWISE if groups > 1 else DENSE


def arithmetic(model: nn.Module, images: Tensor) -> Counter[str]:
    """Return the floating-point operations of a network's convolutions by kind, a multiply-add being two."""
    found: Counter[str] = Counter()

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        kind = kind_of(max(module.kernel_size), module.groups)
        found[kind] += 2 * output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(images)
    for hook in hooks:
        hook.remove()
    return found


def inductor(path: Path, images: Tensor) -> tuple[Callable[[], Any], Callable[[], Times]]:
    """Return one call of a package, and one that gives the times that oneDNN logs."""
    package = load_package(path)

    def profiled() -> Times:
        with tempfile.TemporaryFile() as log:
            with printed_to(log.fileno()), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                package(images)
            log.seek(0)
            return logged_times(log.read().decode())

    return lambda: package(images), profiled


def logged_times(log: str) -> Times:
    """Return the time of each kind of convolution in oneDNN's log."""
    times: Counter[str] = Counter()
    for groups, side, milliseconds in _LOGGED.findall(log):
        times[kind_of(int(side), int(groups or 1))] += float(milliseconds)
    return dict(times)


@contextmanager
def printed_to(descriptor: int) -> Iterator[None]:
    """Send what C code prints to a file descriptor."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush(), flush(None)
    before = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(before, 1)
        os.close(before)


def openvino(path: Path, images: Tensor) -> tuple[Callable[[], Any], Callable[[], Times]]:
    """Return one call of a package, and one of its network that gives the times that OpenVINO counts."""
    import openvino as ov

    package = load_package(path)
    settings = {**openvino_settings("float32"), "PERF_COUNT": True}
    request = ov.Core().compile_model(str(path), "CPU", settings).create_infer_request()

    def profiled() -> Times:
        request.infer([images.numpy()])
        times: Counter[str] = Counter()
        for node in request.profiling_info:
            if kind := kind_of_node(node.node_type, node.exec_type):
                times[kind] += node.real_time.total_seconds() * 1e3
        return dict(times)

    return lambda: package(images), profiled


def kind_of_node(layer: str, kernel: str) -> str:
    """Return the kind of a convolution of OpenVINO by its layer and its kernel, such as ``brgconv_avx512_1x1_f32``;
    nothing for other nodes."""
    if layer == "GroupConvolution" or "_dw" in kernel:
        return DEPTHWISE
    return "" if layer != "Convolution" else POINTWISE if "1x1" in kernel else DENSE


def matrix_rate() -> float:
    """Return the rate of a large float32 matrix product in GFLOP/s."""
    a, b = torch.randn(2, SIDE, SIDE).unbind()
    return 2 * SIDE**3 / min(clock(lambda: a @ b) for _ in range(5)) / 1e6


def clock(run: Callable[[], Any]) -> float:
    """Return the time of a call in milliseconds."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def measure(model_name: str, turns: int, calls: int) -> list[dict[str, Any]]:
    """Return a row for each runtime and kind of layer."""
    torch.manual_seed(0)
    model = timm.create_model(model_name).eval()
    images = torch.randn(1, *model.default_cfg["input_size"])
    operations = arithmetic(model, images)
    with tempfile.TemporaryDirectory() as folder:
        program = classifier_program(model, images.shape[2:])
        runtimes = {
            name: profiler(save_package(program, Path(folder) / name, name).path, images)
            for name, profiler in (("openvino", openvino), ("inductor", inductor))
        }
        found: dict[str, list[Times]] = {name: [] for name in runtimes}
        for call, profiled in runtimes.values():
            call(), profiled()
        for _ in range(turns):
            for name, (call, profiled) in runtimes.items():
                whole, convolutions = min(clock(call) for _ in range(calls)), profiled()
                found[name].append({**convolutions, REST: whole - sum(convolutions.values()), WHOLE: whole})
    rows = []
    for name, turns_of_it in found.items():
        for kind in KINDS:
            milliseconds = median(times.get(kind, 0.0) for times in turns_of_it)
            done = operations[kind] if kind != WHOLE else operations.total()
            rows.append({"runtime": name, "kind": kind, "ms": milliseconds, "gflops": done / 1e6 / milliseconds})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text, the runtimes side by side."""
    names = list(dict.fromkeys(row["runtime"] for row in rows))
    lines = [f"{'':24}" + "".join(f"{name + ' ms':>15}{'GFLOP/s':>9}" for name in names)]
    for kind in KINDS:
        cells = [row for row in rows if row["kind"] == kind]
        figures = (f"{row['ms']:15.2f}" + (f"{row['gflops']:9.1f}" if row["gflops"] else " " * 9) for row in cells)
        lines.append(f"{kind:24}" + "".join(figures))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nasnet_a_mobile")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        rows, rate = measure(options.model, options.turns, options.calls), matrix_rate()
    print(f"{options.model}, {options.threads} threads, matrix rate {rate:.1f} GFLOP/s\n{table(rows)}")
    if options.json:
        keep(options.json, {"model": options.model, "threads": options.threads, MATRIX: rate, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
