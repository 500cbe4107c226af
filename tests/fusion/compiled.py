"""Compiles every Triton kernel for a GPU that is not there, an H100: ``python tests/fusion/compiled.py``."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nasnet_det.detection.modeling.suppression_kernel import suppression_kernel
from nasnet_det.fusion.triton_kernels import depthwise_kernel, separable_kernel

SIZES = dict.fromkeys(("height", "width", "out_height", "out_width", "positions"), "i32")
GEOMETRY = {
    "KERNELS": ((3, 3), (5, 5), (1, 7)),
    "BORDERS": ((1, 1), (2, 2), (0, 3)),
    "RELUS": (True, False, True),
    "STRIDE": (2, 2),
    "DILATION": 1,
    "CHANNELS": 44,
    "BLOCK_PLACES": 32,
}
DEPTHWISE = {**GEOMETRY, "HAS_SHIFT": (False, True, False), "ACTIVATES": (False, True, False), "BLOCK_CHANNELS": 64}
SEPARABLE = {
    **GEOMETRY,
    "FIRST": (0, 1, 3),
    "FIRST_OTHER": (0, 0, 1),
    "FACTORS": (0.5,),
    "HAS_SHIFT": (True, False),
    "ACTIVATES": (True, False),
    "OUT_CHANNELS": 44,
    "BLOCK_CHANNELS": 32,
    "BLOCK_OUT": 64,
    "WIDE": False,
}


SUPPRESSION = {"boxes": "*fp32", "counts": "*i64", "kept": "*i64", "number": "i32", "limit": "i32", "threshold": "fp32"}


def build(kernel: Any, signature: dict[str, Any], constants: dict[str, Any]) -> None:
    """One kernel; raises what Triton raises if it cannot be."""
    signature = {**signature, **dict.fromkeys(constants, "constexpr")}
    ordered = {name: signature[name] for name in kernel.arg_names}
    triton.compile(ASTSource(kernel, ordered, constants), GPUTarget("cuda", 90, 32))


def tensors(**counts: int) -> dict[str, Any]:
    """Tuples of bfloat16 tensors, and the sizes."""
    return {**{name: ("*bf16",) * count for name, count in counts.items()}, **SIZES}


def main() -> None:
    build(depthwise_kernel, tensors(xs=3, weights=3, shifts=3, made=3), DEPTHWISE)
    build(separable_kernel, tensors(xs=3, weights=3, products=2, shifts=2, others=1, made=2), SEPARABLE)
    build(suppression_kernel, SUPPRESSION, {"SLOTS": 128, "BLOCK": 32})


if __name__ == "__main__":
    main()
