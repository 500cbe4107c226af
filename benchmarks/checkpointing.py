"""What gradient checkpointing saves and costs: one training step of a network, plain and checkpointed.

    python benchmarks/checkpointing.py [--model nasnet_a_large] [--img-size 331] [--batch-size 2] [--json OUT]

Memory is the peak of the bytes that operators hold during the step, parameters and gradients not counted. Time is that
of further steps, plain and checkpointed in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import weakref
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import nasnet_det  # registers the models
from nasnet_det.files import write_text


def step(model: nn.Module, x: torch.Tensor) -> None:
    """Forward and backward of one batch."""
    model(x).square().mean().backward()


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


def peak_activations(model: str, img_size: int, batch_size: int, checkpointed: bool) -> int:
    """The peak of activations and temporary tensors over a training step, in bytes; parameters and their gradients,
    which exist before it, are not counted."""
    network = timm.create_model(model).train()
    network.set_grad_checkpointing(checkpointed)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    x = torch.randn(batch_size, 3, img_size, img_size)
    with LiveBytes() as counter:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        for tensor in (*network.parameters(), *network.buffers(), *gradients):
            counter.known[tensor.untyped_storage().data_ptr()] = weakref.ref(tensor)
        step(network, x)
    return counter.peak


def seconds(model: str, img_size: int, batch_size: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of real steps, the two kinds in turn."""
    network = timm.create_model(model).train()
    x = torch.randn(batch_size, 3, img_size, img_size)
    times: dict[str, list[float]] = {"plain": [], "checkpointed": []}
    for repeat in range(repeats + 1):
        for kind, measured in times.items():
            network.set_grad_checkpointing(kind == "checkpointed")
            start = time.perf_counter()
            step(network, x)
            if repeat:  # the first round warms up
                measured.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of a training step, plain and checkpointed.")
    parser.add_argument("--model", default="nasnet_a_large")
    parser.add_argument("--img-size", type=int, default=331)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    where = (
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, nasnet_det {nasnet_det.__version__}"
    )
    print(f"{arguments.model}, {arguments.batch_size} x {arguments.img_size} x {arguments.img_size}, float32; {where}")
    size = {
        kind: peak_activations(arguments.model, arguments.img_size, arguments.batch_size, kind == "checkpointed")
        for kind in ("plain", "checkpointed")
    }
    times = seconds(arguments.model, arguments.img_size, arguments.batch_size, arguments.repeats)
    rows = []
    for kind in size:
        median = statistics.median(times[kind])
        rows.append(
            {
                "variant": kind,
                "peak_activation_bytes": size[kind],
                "memory_ratio": size[kind] / size["plain"],
                "seconds": median,
                "time_ratio": median / statistics.median(times["plain"]),
                "spread": max(times[kind]) - min(times[kind]),
            }
        )
        print(
            f"{kind:14s} {size[kind] / 2**20:9.0f} MiB ({rows[-1]['memory_ratio']:6.1%})   "
            f"{median:7.2f} s ({rows[-1]['time_ratio']:.2f} x, spread {rows[-1]['spread']:.2f} s)"
        )
    if arguments.json:
        write_text(arguments.json, json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
