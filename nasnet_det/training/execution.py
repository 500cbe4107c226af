"""Device, precision, memory layout and execution mode of a training step."""

from __future__ import annotations

import math
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nasnet_det.safe_io.values import first_line


@dataclass(frozen=True)
class Execution:
    """The device and the way a step is executed on it.

    Args:
        device: the device of the network and the batches.
        precision: ``float32``, or ``bfloat16`` for the operations that autocast runs in it.
        channels_last: store images and weights in ``torch.channels_last`` layout.
        mode: ``eager``, ``compile`` (``torch.compile``) or ``graph`` (forward and backward captured as CUDA graphs).
    """

    device: torch.device
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    mode: Literal["eager", "compile", "graph"] = "eager"

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as a ``torch.memory_format``."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass: autocast in bfloat16, nothing in float32."""
        if self.precision == "float32":
            return nullcontext()
        # A captured graph must not refer to autocast's cache of cast weights.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=self.mode != "graph")

    def describe(self) -> str:
        """Return a short description for logs."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{self.device}, {self.precision}, {layout}, {self.mode}"


def choose_execution(
    device: str | torch.device | None = None,
    precision: str = "auto",
    channels_last: bool | None = None,
    mode: str = "eager",
) -> Execution:
    """Return the given execution, with the fastest choice for everything left open.

    On a CPU that is channels_last in float32 (measured: 0.55 of the time of a contiguous training step; bfloat16 is
    slower than float32). On a GPU with bfloat16 arithmetic it is channels_last and bfloat16.

    Raises:
        ValueError: if the device, precision or mode is unknown or not available on this machine.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()  # which meta, a device of shapes without values, does not have
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device} is not available ({first_line(error)})") from None
    gains = place.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
    if mode not in ("eager", "compile", "graph") or (mode == "graph" and place.type != "cuda"):
        raise ValueError(f"mode must be eager, compile or (on a CUDA device) graph, got {mode!r} on {place}")
    in_bfloat16 = gains if precision == "auto" else precision == "bfloat16"
    return Execution(
        place,
        "bfloat16" if in_bfloat16 else "float32",
        gains or place.type == "cpu" if channels_last is None else channels_last,
        mode,  # type: ignore[arg-type]
    )


def memory_of(device: torch.device) -> float:
    """Return the memory of a device, in use or free, in bytes; infinity where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    known = hasattr(os, "sysconf")  # not on Windows
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if known else math.inf


def excess_of(parameters: int, device: torch.device, copies: int) -> str:
    """Return in words that a device has no memory for so many parameters; empty where it has.

    Args:
        parameters: how many.
        device: where the network is to be.
        copies: how many numbers it keeps there for each, 4 bytes each.
    """
    needed, memory = 4 * copies * parameters, memory_of(device)
    if needed <= memory:
        return ""
    return (
        f"{parameters / 1e6:,.0f} M parameters, which need {needed / 2**30:,.0f} GiB of memory; {device} has "
        f"{memory / 2**30:,.0f}: choose fewer cells or filters"
    )


def capture(model: nn.Module, images: Tensor, execution: Execution) -> Any:
    """Capture forward and backward as CUDA graphs, which saves a kernel launch for each of a cell's small operations.

    The running statistics are restored after the warm-up that capturing needs. Two of PyTorch's warnings about the
    streams and the context of that warm-up are silenced: captured steps gave the same losses as eager ones.
    """
    for start in ("Attempting to run cuBLAS", "The AccumulateGrad node's stream"):
        warnings.filterwarnings("ignore", start)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with execution.autocast():
        network = torch.cuda.make_graphed_callables(model, (torch.zeros_like(images),))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return network
