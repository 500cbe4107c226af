"""What a training checkpoint keeps of an optimizer, held against what a step of that optimizer makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nasnet_det.safe_io.values import format_value


def load_state(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], twin: torch.optim.Optimizer, steps: int
) -> None:
    """Load an optimizer's state and see that it is one of such an optimizer: PyTorch would notice at the next step.

    Args:
        optimizer: takes up the state.
        state: an optimizer's ``state_dict()``, read from a file.
        twin: the same optimizer, of a copy of the weights; it takes a step, which shows what one makes.
        steps: the steps after which the state was kept.

    Raises:
        ValueError, TypeError, LookupError, RuntimeError, AttributeError: if it is of another optimizer, or damaged.
    """
    weights = [weight for group in twin.param_groups for weight in group["params"]]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    fresh = twin.state_dict()["param_groups"]
    twin.step()
    optimizer.load_state_dict(dict(state))
    found, stepped = optimizer.state_dict(), twin.state_dict()
    groups = zip(found["param_groups"], state["param_groups"], fresh, stepped["param_groups"], strict=True)
    for group, given, before, after in groups:
        moving = {"lr", *(name for name in after if after[name] != before.get(name))}
        if str(given["params"]) != str(after["params"]) or _settings(group, moving) != _settings(after, moving):
            raise ValueError("its optimizer has other settings")
        _check_values({name: value for name, value in group.items() if name in moving}, after, steps)
    for number, values in found["state"].items():
        if number not in stepped["state"] or not stepped["state"][number].keys() <= values.keys():
            raise ValueError("its optimizer's state is not whole")
        # What later steps make, as Lookahead's do, is like the weight.
        likeness = dict.fromkeys(values, weights[number]) | stepped["state"][number]
        _check_values(values, likeness, steps)


def _settings(group: Mapping[str, Any], moving: set[str]) -> dict[str, Any]:
    """The settings that no step changes, with their types: a tensor is never compared with a number."""
    return {name: (_form(value), value) for name, value in group.items() if name not in moving}


def _check_values(values: Mapping[str, Any], likeness: Mapping[str, Any], steps: int) -> None:
    for name, value in values.items():
        counts = "step" in str(name)
        if _form(value) != _form(likeness[name]) or (counts and not 0 <= float(value) <= steps):
            raise ValueError(f"its optimizer's {format_value(name)} does not fit")


def _form(value: Any) -> Any:
    """The type, of a tensor with its shape; whole numbers are counted among the others."""
    if torch.is_tensor(value):
        return value.shape, value.dtype, value.layout, value.is_meta
    if isinstance(value, (list, tuple)):
        return [_form(item) for item in value]
    return float if type(value) is int else type(value)
