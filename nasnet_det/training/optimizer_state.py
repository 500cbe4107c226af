"""Loading of an optimizer's state from a checkpoint, checked against the state that the same optimizer creates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nasnet_det.safe_io.values import format_value


def load_state(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], twin: torch.optim.Optimizer, steps: int
) -> None:
    """Load an optimizer's state and verify it; PyTorch itself would fail only at the next step.

    Args:
        optimizer: the optimizer to load into.
        state: an optimizer's ``state_dict()``, read from a file.
        twin: the same optimizer on a copy of the weights. It takes a step, which creates the state to compare with.
        steps: the number of steps after which the state was saved.

    Raises:
        ValueError, TypeError, LookupError, RuntimeError, AttributeError: if the state belongs to another optimizer or
            is damaged.
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
            raise ValueError("the optimizer's settings differ")
        _check_values({name: value for name, value in group.items() if name in moving}, after, steps)
    for number, values in found["state"].items():
        if number not in stepped["state"] or not stepped["state"][number].keys() <= values.keys():
            raise ValueError("the optimizer's state is incomplete")
        # State that only later steps create, such as Lookahead's, has the form of the weight.
        likeness = dict.fromkeys(values, weights[number]) | stepped["state"][number]
        _check_values(values, likeness, steps)


def _settings(group: Mapping[str, Any], moving: set[str]) -> dict[str, Any]:
    """Return the settings that no step changes, with their types, so that a tensor is never compared with a number."""
    return {name: (_form(value), value) for name, value in group.items() if name not in moving}


def _check_values(values: Mapping[str, Any], likeness: Mapping[str, Any], steps: int) -> None:
    for name, value in values.items():
        counts = "step" in str(name)
        if _form(value) != _form(likeness[name]) or (counts and not 0 <= float(value) <= steps):
            raise ValueError(f"the optimizer's {format_value(name)} has another type, shape or range")


def _form(value: Any) -> Any:
    """Return the type of a value, for a tensor with its shape; int counts as float."""
    if torch.is_tensor(value):
        return value.shape, value.dtype, value.layout, value.is_meta
    if isinstance(value, (list, tuple)):
        return [_form(item) for item in value]
    return float if type(value) is int else type(value)
