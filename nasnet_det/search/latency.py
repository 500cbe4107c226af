"""The latency of a network on this machine: one image, eager, fused or in a runtime of packages."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

Runtime = Literal["eager", "fused", "onnxruntime", "openvino"]
_SECONDS, _LEAST_RUNS = 0.3, 5


@dataclass(frozen=True)
class LatencyMeter:
    """A stopwatch for networks.

    Args:
        image_size: height and width of the image.
        runtime: ``eager`` (PyTorch), ``fused`` (:func:`nasnet_det.fusion.optimize_for_inference`), or a runtime of
            packages in ONNX, on the CPU.
        device: where eager and fused networks run.
    """

    image_size: int
    runtime: Runtime = "eager"
    device: str = "cpu"

    def __call__(self, network: nn.Module) -> float:
        """Return the median time of a forward pass of one image in milliseconds, after two that are not counted."""
        image = torch.randn(1, 3, self.image_size, self.image_size, generator=torch.Generator().manual_seed(0))
        run = self._runner(network.eval(), image)
        for _ in range(2):
            run()
        times: list[float] = []
        while len(times) < _LEAST_RUNS or sum(times) < _SECONDS:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        return 1000 * statistics.median(times)

    def _runner(self, network: nn.Module, image: Tensor) -> Callable[[], None]:
        if self.runtime not in ("eager", "fused"):
            return _package_runner(network, image, self.runtime)
        if self.runtime == "fused":
            from nasnet_det.fusion import optimize_for_inference

            network = optimize_for_inference(network)
        network, image = network.to(self.device), image.to(self.device)

        def run() -> None:
            with torch.inference_mode():
                network(image)
            if image.is_cuda:
                torch.cuda.synchronize()

        return run


def _package_runner(network: nn.Module, image: Tensor, runtime: str) -> Callable[[], None]:
    from nasnet_det.export.programs import Program, write_onnx
    from nasnet_det.export.runtimes import load_package

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        write_onnx(Program(network, image, ["logits"]), path)
        package = load_package(path, runtime)
    return lambda: package(image)
