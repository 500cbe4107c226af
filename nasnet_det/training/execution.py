"""Where and how a step's arithmetic is done: device, precision, memory layout, mode."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Execution:
    """Where and how the arithmetic is done.

    Args:
        device: the device.
        precision: ``float32``, or ``bfloat16`` for the operations that autocast runs in it.
        channels_last: whether images and weights lie channels last in memory.
        mode: ``eager``; ``compile`` (torch.compile); ``graph`` (forward and backward as captured CUDA graphs).
    """

    device: torch.device
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    mode: Literal["eager", "compile", "graph"] = "eager"

    @property
    def memory_format(self) -> torch.memory_format:
        """torch's name of the layout."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass. Its cache of cast weights is off: a captured graph must not refer to it."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=self.mode != "graph")

    def describe(self) -> str:
        """In words, for logs."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{self.device}, {self.precision}, {layout}, {self.mode}"


def choose_execution(
    device: str | torch.device | None = None,
    precision: str = "auto",
    channels_last: bool | None = None,
    mode: str = "eager",
) -> Execution:
    """The device asked for, or the best there is, and what gains on it: on a CPU channels_last in float32 (measured:
    0.55 of a contiguous training step's time; bfloat16 takes longer); on a GPU that computes in bfloat16, both.

    Raises:
        ValueError: if the device, precision or mode does not exist here.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device} cannot be used ({str(error).splitlines()[0]})") from None
    gains = place.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision is auto, float32 or bfloat16, not {precision!r}")
    if mode not in ("eager", "compile", "graph") or (mode == "graph" and place.type != "cuda"):
        raise ValueError(f"mode is eager, compile or, on a CUDA device, graph; not {mode!r} on {place}")
    in_bfloat16 = gains if precision == "auto" else precision == "bfloat16"
    return Execution(
        place,
        "bfloat16" if in_bfloat16 else "float32",
        gains or place.type == "cpu" if channels_last is None else channels_last,
        mode,  # type: ignore[arg-type]
    )


def capture(model: nn.Module, images: Tensor, execution: Execution) -> Any:
    """Forward and backward as CUDA graphs: the many small operations of a cell then cost no launch each. The warm-up
    that capturing needs leaves no trace in the running statistics."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with execution.autocast():
        network = torch.cuda.make_graphed_callables(model, (torch.zeros_like(images),))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return network
