"""Calls of a module recorded as CUDA graphs: the many small launches of a cell then cost the processor nothing.

A graph is recorded for each shape and type of image that comes, at its first call, and again when a weight has changed
or moved. The last few are kept; their results are copied out, so that the next call does not change them. Whatever
cannot be recorded runs as it is, and a warning says so once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nasnet_det.fusion.fallback import warn_once

#: Graphs kept of a module. Each holds the memory of its activations until it is dropped.
MOST_GRAPHS = 8
_WARM_UP_CALLS = 3


@dataclass(frozen=True)
class Recorded:
    """One graph: where it reads its images, what runs it, and where it puts what it makes."""

    images: Tensor
    replay: Callable[[], Any]
    made: Any

    def __call__(self, images: Tensor) -> Any:
        self.images.copy_(images)
        self.replay()
        return tree_map_only(Tensor, torch.clone, self.made)


def record(run: Callable[[Tensor], Any], images: Tensor) -> Recorded:
    """Record ``run`` on CUDA, for images of one shape, type and memory layout; first it runs a few times, to compile
    its kernels and choose its algorithms."""
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(images.device):
        own = torch.empty_like(images)
        own.copy_(images)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_CALLS):
                run(own)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = run(own)
    return Recorded(own, graph.replay, made)


class GraphedForward:
    """A module's ``forward``: a recorded graph where there can be one, else the module's own.

    Args:
        module: maps one tensor to tensors, without looking at their values, in evaluation.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.recorded: OrderedDict[Hashable, Recorded] = OrderedDict()
        self.weights: list[tuple[int, int]] = []
        self.positions: list[tuple[dict[str, Any], str]] = []
        self.gave_up = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._can_record(args, kwargs):
            return self._own(*args, **kwargs)
        (images,) = args
        if self._weights() != self.weights or not self.positions:
            self._look_again()
        key = (images.shape, images.stride(), images.dtype, images.device, torch.is_autocast_enabled("cuda"))
        if key not in self.recorded:
            try:
                self.recorded[key] = record(self._own, images)
            except RuntimeError as error:
                self.gave_up = True
                self._say(str(error).splitlines()[0])
                return self._own(images)
            while len(self.recorded) > MOST_GRAPHS:
                self.recorded.popitem(last=False)
        self.recorded.move_to_end(key)
        return self.recorded[key](images)

    def _own(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.module).forward(self.module, *args, **kwargs)

    def _weights(self) -> list[tuple[int, int]]:
        """Where every weight lies and how often it was changed; asked for at every call, so without a walk through the
        modules."""
        tensors = [tensor for holder, name in self.positions if (tensor := holder.get(name)) is not None]
        return [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]

    def _look_again(self) -> None:
        self.recorded.clear()
        holders: list[dict[str, Any]] = []
        for module in self.module.modules():
            holders += [module._parameters, module._buffers]
        self.positions = [(holder, name) for holder in holders for name in holder]
        self.weights = self._weights()

    def _can_record(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if self.gave_up or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        if len(args) != 1 or kwargs or type(args[0]) is not Tensor:
            self._say("it is called with something else than one tensor")
            return False
        (images,) = args
        if not images.is_cuda:
            self._say(f"there are none on {images.device.type}")
            return False
        return not (torch.is_grad_enabled() and images.requires_grad) and not torch.cuda.is_current_stream_capturing()

    def _say(self, reason: str) -> None:
        warn_once(f"CUDA graphs of {type(self.module).__name__}: {reason}; it runs as it is")

    @property
    def __code__(self) -> Any:
        """The module's, which ``torch.export`` asks for."""
        return type(self.module).forward.__code__

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphedForward:
        return GraphedForward(memo.get(id(self.module), self.module))

    def __reduce__(self) -> Any:
        return GraphedForward, (self.module,)


def use_graphs(module: nn.Module) -> None:
    """Let calls of ``module`` be recorded from now on."""
    module.forward = GraphedForward(module)


def owners(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    """``model`` if it is of a kind, else the modules in it that hold one of that kind directly."""
    if isinstance(model, kind):
        return [model]
    return [module for module in model.modules() if any(isinstance(child, kind) for child in module.children())]
