"""Mutations of named tensors, and pickles that would run code."""

from __future__ import annotations

import collections
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.fuzz.engine import Case
from tests.helpers import Hostile

DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.int32, torch.uint16),
)
#: Values that are not tensors.
OTHERS: tuple[Any, ...] = (None, 0, 1.5, "text", b"bytes", [1, 2], (), {}, {"a": torch.ones(2)}, {1, 2}, True, 10**30)


def hostile_object(case: Case) -> Hostile:
    """Return an object that :func:`ran` tells of if it is unpickled."""
    return Hostile(case.folder / "ran")


def ran(case: Case) -> bool:
    """Return whether what :func:`hostile_object` returns was executed."""
    return (case.folder / "ran").exists()


def spoil_tensors(state: dict[str, Any], case: Case, hostile: bool = True) -> dict[Any, Any]:
    """Return a copy with a few tensors dropped, added, renamed, swapped, or of another shape, type or content."""
    found: dict[Any, Any] = dict(state)
    random = case.random
    for _ in range(0 if case.pristine else random.choice((1, 1, 2, 3))):
        names = list(found)
        if not names:
            break
        name, kind = random.choice(names), random.randrange(9)
        value = found[name]
        if kind == 0:
            del found[name]
        elif kind == 1:
            new = ("", "x", f"{name}.x", f"module.{name}", 5, None, "a" * 3000, "\ud800", f"{name}"[:-1])
            found[random.choice(new)] = value
        elif kind == 2:
            other = random.choice(names)
            found[name], found[other] = found[other], value
        elif kind == 3 and hostile:
            found[name] = hostile_object(case)
        elif kind == 4:
            found[name] = random.choice(OTHERS)
        elif torch.is_tensor(value) and value.numel() < 10**6:
            with suppress(RuntimeError):  # a tensor that was changed before
                found[name] = _another(value, random)
    return found


def _another(value: Tensor, random: Any) -> Tensor:
    """Return a tensor of another shape, type, layout or content."""
    kind = random.randrange(10)
    if kind < 2:
        return value.to(random.choice(DTYPES))
    if kind == 2:
        return value[None]
    if kind == 3:
        return value.flatten()[: random.choice((0, 1, 3))]
    if kind == 4:
        return value.transpose(0, -1) if value.ndim else value[None, None]
    if kind == 5 and value.is_floating_point():
        return torch.full_like(value, random.choice((float("nan"), float("inf"), -float("inf"), 1e30)))
    if kind == 6:
        return value[None].expand(random.choice((2, 10**6, 10**12)), *value.shape)
    if kind == 7 and value.element_size() > 1:
        return value.to_sparse() if value.ndim else value.to("meta")
    if kind == 8:
        return torch.nn.Parameter(value.float())
    return value.to(torch.complex64).conj()


def ordered(state: dict[Any, Any], case: Case) -> Any:
    """Return the state in another kind of container."""
    wrapped: tuple[Any, ...] = (state, collections.OrderedDict(state), {"state_dict": state}, [state], {"model": state})
    return state if case.pristine else case.random.choice(wrapped)


def as_arrays(value: Any) -> Any:
    """Return tensors as arrays; None for those that NumPy has no type for."""
    if isinstance(value, dict):
        return {name: as_arrays(inner) for name, inner in value.items()}
    if torch.is_tensor(value) and value.layout == torch.strided and not value.is_meta:
        try:
            return np.ascontiguousarray(value.detach().resolve_conj().numpy()) if value.numel() < 10**6 else None
        except (TypeError, RuntimeError):
            return None
    return None if torch.is_tensor(value) else value
