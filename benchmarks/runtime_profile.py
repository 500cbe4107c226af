"""The time that TorchInductor's and OpenVINO's packages spend in each kind of layer.

    OMP_NUM_THREADS=1 python benchmarks/runtime_profile.py --model nasnet_a_mobile --json OUT

Both run the network that their packages hold, in float32, batch 1, and take turns. A turn is ``--calls`` calls, of
which the shortest is ``whole call``, and one more under the runtime's own profiler: PyTorch's, which sees oneDNN's
convolutions and every generated kernel, or OpenVINO's counters. ``ms`` is the median over the turns of the time in
layers of a kind, and ``GFLOP/s`` the plain network's arithmetic in its convolutions of that kind over this time.
Weights are random.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from inference import MATRIX, SIDE, compiled
from save_results import keep
from torch import Tensor, nn

from nasnet_det.export import classifier_program, save_package
from nasnet_det.fusion import optimize_for_inference

POINTWISE, DEPTHWISE, DENSE = "pointwise convolutions", "depthwise convolutions", "other convolutions"
POOLS, OTHER = "pools and what is fused with them", "sums, ReLU, copies and others"
OUTSIDE, WHOLE = "outside kernels", "whole call"
KINDS = (POINTWISE, DEPTHWISE, DENSE, POOLS, OTHER, OUTSIDE, WHOLE)
Times = dict[str, float]


def kind_of_weight(shape: Iterable[int]) -> str:
    """Return the kind of a convolution by the shape of its weight, (out, in / groups, height, width)."""
    _, inputs, *kernel = shape
    return POINTWISE if set(kernel) == {1} else DEPTHWISE if inputs == 1 else DENSE


def arithmetic(model: nn.Module, images: Tensor) -> Counter[str]:
    """Return the floating-point operations of a network's convolutions by kind, a multiply-add being two."""
    found: Counter[str] = Counter()

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        found[kind_of_weight(module.weight.shape)] += 2 * output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(images)
    for hook in hooks:
        hook.remove()
    return found


def inductor(model: nn.Module, images: Tensor) -> tuple[Callable[[], Any], Callable[[], Times]]:
    """Return one call of the fused network as Inductor compiles it, and one that is profiled."""
    import torch._inductor.config

    torch._inductor.config.cpp.enable_kernel_profile = True
    network, images = compiled(optimize_for_inference(model)), images.contiguous(memory_format=torch.channels_last)

    def profiled() -> Times:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
            network(images)
        times: Counter[str] = Counter()
        for event in profile.events() or ():
            if "convolution" in event.name:  # of an image, perhaps what is added to it, and the weight
                kind = kind_of_weight([shape for shape in event.input_shapes if len(shape) == 4][-1])
            elif event.name.startswith(("graph_", "mkl::")):
                kind = POOLS if "pool" in event.name else OTHER
            else:
                continue
            times[kind] += event.self_cpu_time_total / 1e3
        return dict(times)

    return lambda: network(images), profiled


def openvino(model: nn.Module, images: Tensor, folder: Path) -> tuple[Callable[[], Any], Callable[[], Times]]:
    """Return one call of the package's network in OpenVINO, and one that is profiled."""
    import openvino as ov

    path = save_package(classifier_program(model, images.shape[2:]), folder / "model", "openvino").path
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    settings["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    requests = [
        ov.Core().compile_model(str(path), "CPU", {**settings, "PERF_COUNT": counted}).create_infer_request()
        for counted in (False, True)
    ]

    def profiled() -> Times:
        requests[1].infer([images.numpy()])
        times: Counter[str] = Counter()
        for node in requests[1].profiling_info:
            times[kind_of_node(node.node_type, node.exec_type)] += node.real_time.total_seconds() * 1e3
        return dict(times)

    return lambda: requests[0].infer([images.numpy()]), profiled


def kind_of_node(layer: str, kernel: str) -> str:
    """Return the kind of a node of OpenVINO by its layer and its kernel, such as ``brgconv_avx512_1x1_f32``."""
    if layer == "GroupConvolution" or "_dw" in kernel:
        return DEPTHWISE
    if layer == "Convolution":
        return POINTWISE if "1x1" in kernel else DENSE
    return POOLS if "Pool" in layer else OTHER


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
        runtimes = {"openvino": openvino(model, images, Path(folder)), "inductor": inductor(model, images)}
        found: dict[str, list[Times]] = {name: [] for name in runtimes}
        for call, profiled in runtimes.values():
            call(), profiled()
        for _ in range(turns):
            for name, (call, profiled) in runtimes.items():
                whole, kernels = min(clock(call) for _ in range(calls)), profiled()
                found[name].append({**kernels, OUTSIDE: whole - sum(kernels.values()), WHOLE: whole})
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
    lines = [f"{'':36}" + "".join(f"{name + ' ms':>15}{'GFLOP/s':>9}" for name in names)]
    for kind in KINDS:
        cells = [row for row in rows if row["kind"] == kind]
        figures = (f"{row['ms']:15.2f}" + (f"{row['gflops']:9.1f}" if row["gflops"] else " " * 9) for row in cells)
        lines.append(f"{kind:36}" + "".join(figures))
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
