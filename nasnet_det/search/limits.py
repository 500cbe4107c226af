"""Limits and objectives of a search besides accuracy, as a user writes them.

``params=1.5M``, ``macs=200M`` and ``latency=20ms@224`` are limits; ``accuracy``, ``params``, ``macs`` and
``latency@224`` are objectives. ``@224`` is the height and width of the image that latency is measured on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasnet_det.safe_io.values import format_value

ACCURACY = "accuracy"
#: Every measure with its units, the first being the one that it is recorded in.
UNITS: dict[str, dict[str, float]] = {
    "params": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9},
    "macs": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9},
    "latency": {"ms": 1, "s": 1e3, "us": 1e-3},
}
_LIMIT = re.compile(
    r"(?P<name>\w+)=(?P<number>(\d+(_\d+)*(\.\d*)?|\.\d+)([eE][+-]?\d+)?) ?(?P<unit>[A-Za-z]*)(@(?P<size>\d+))?",
    re.ASCII,
)
_OBJECTIVE = re.compile(r"(?P<name>\w+)(@(?P<size>\d+))?", re.ASCII)
_LARGEST_IMAGE = 4096
#: The cost of a candidate that fails while it is measured, in candidates that are refused without being measured.
_FAILURE = 20


@dataclass(frozen=True)
class Limit:
    """The largest value of a measure that a candidate may have.

    Args:
        name: ``params``, ``macs`` or ``latency``.
        value: in parameters, multiply-adds or milliseconds.
        problem: why it cannot be measured of a candidate, which is then refused; else empty.
    """

    name: str
    value: float
    problem: str = ""

    def effort(self, value: float) -> float:
        """Return the cost of refusing a candidate of this value: larger where it is measured and far from the limit."""
        if self.problem:
            return _FAILURE
        return 10 * min(value / self.value, 10) if self.name == "latency" else 1

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name} that can be measured ({self.problem})"
        return f"{self.name}={format_measure(self.name, self.value)}"


@dataclass(frozen=True)
class Demands:
    """The demands of a search on its candidates besides their accuracy.

    Args:
        limits: each of another measure.
        objectives: ``accuracy`` first.
        image_size: what latency is measured on; None for the image size of the measured network.
    """

    limits: tuple[Limit, ...] = ()
    objectives: tuple[str, ...] = (ACCURACY,)
    image_size: int | None = None

    @property
    def measures_latency(self) -> bool:
        """True if candidates must be timed."""
        return "latency" in self.objectives or any(limit.name == "latency" for limit in self.limits)

    def exceeded(self, measures: Mapping[str, float]) -> Limit | None:
        """Return the first limit that one of these measures exceeds."""
        return next((limit for limit in self.limits if measures.get(limit.name, 0.0) > limit.value), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "limits": {limit.name: limit.value for limit in self.limits},
            "objectives": list(self.objectives),
            "image_size": self.image_size,
        }


def parse_demands(limits: Sequence[str] = (), objectives: Sequence[str] = (ACCURACY,)) -> Demands:
    """Read limits and objectives.

    Raises:
        ValueError: for a word that is neither, a measure named twice, objectives without ``accuracy``,
            or latencies of different image sizes.
    """
    read = [_parse_limit(word) for word in limits]
    named = [_parse_objective(word) for word in objectives]
    names = [name for name, _ in named]
    if ACCURACY not in names:
        raise ValueError(f"accuracy is one of the objectives, got {format_value(' '.join(objectives))}")
    names.sort(key=lambda name: name != ACCURACY)
    for what, given in (("limit", [limit.name for limit, _ in read]), ("objective", names)):
        if twice := [name for name in given if given.count(name) > 1]:
            raise ValueError(f"{what} {twice[0]} is given twice")
    sizes = {size for _, size in [*read, *named] if size is not None}
    if len(sizes) > 1:
        raise ValueError(f"latency is measured at one image size, got {' and '.join(map(str, sorted(sizes)))}")
    return Demands(tuple(limit for limit, _ in read), tuple(names), next(iter(sizes), None))


def format_measure(name: str, value: float) -> str:
    """Return a measure with its unit: ``1.53M``, ``20.1ms``, ``0.4123`` for an accuracy."""
    if name == ACCURACY:
        return f"{value:.4f}"
    if name == "latency":
        return f"{value:.3g}ms"
    unit = next((unit for unit in ("G", "M", "k") if value >= UNITS[name][unit]), "")
    return f"{value / UNITS[name][unit]:.3g}{unit}"


def oriented(objectives: Sequence[str], values: Sequence[float]) -> tuple[float, ...]:
    """Return objectives' values so that larger is better."""
    return tuple(v if name == ACCURACY else -v for name, v in zip(objectives, values, strict=True))


def _parse_limit(word: str) -> tuple[Limit, int | None]:
    match = _LIMIT.fullmatch(word)
    if match is None or match["name"] not in UNITS:
        examples = "params=1.5M, macs=200M or latency=20ms@224"
        raise ValueError(f"a limit is written as {examples}, got {format_value(word)}")
    name, units = match["name"], UNITS[match["name"]]
    unit = match["unit"] if match["unit"] in units else match["unit"].lower()
    if unit not in units:
        known = ", ".join(unit or "none" for unit in units)
        raise ValueError(f"limit {name} has one of the units {known}, got {format_value(word)}")
    value = float(match["number"]) * units[unit]
    if not 0 < value < math.inf:
        raise ValueError(f"limit {name} must be positive and finite, got {format_value(word)}")
    return Limit(name, value), _image_size(name, match["size"], word)


def _parse_objective(word: str) -> tuple[str, int | None]:
    match = _OBJECTIVE.fullmatch(word)
    if match is None or match["name"] not in (ACCURACY, *UNITS):
        raise ValueError(f"an objective is accuracy, params, macs or latency@SIZE, got {format_value(word)}")
    return match["name"], _image_size(match["name"], match["size"], word)


def _image_size(name: str, digits: str | None, word: str) -> int | None:
    if digits is None:
        return None
    size = int(digits[:9])
    if name != "latency" or not 8 <= size <= _LARGEST_IMAGE:
        raise ValueError(f"only latency has an image size, from 8 to {_LARGEST_IMAGE}, got {format_value(word)}")
    return size
