"""In which order a strategy is asked and told, so that a search can be killed at any moment.

Trial n is asked for when exactly the results of trials 0 to n - P have been told, in this order; P is the number of
trials *pending*. What a strategy does then follows from its seed and the children's rewards alone: not from which
worker was faster, nor from how often the search was killed. With P = 1 every result is known before the next trial is
chosen; W workers are kept busy by P = 2 W, unless one child takes as long as all the others' next.

The strategy's state lies in a file beside the study. It is written before anything is recorded that follows from new
arithmetic; what came after it is found again by asking and telling as the study says it was done. Without the file all
is found again that way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nasnet_det.safe_io.files import replacing
from nasnet_det.safe_io.values import format_value, parse_json
from nasnet_det.search.strategies.base import Decisions, Strategy
from nasnet_det.search.study import Record, StudyError

#: Trials after which the state is written though nothing forces it: so that a restart need not repeat more.
_SAVE_EVERY = 200
#: What reading and taking on a damaged state raises.
_MALFORMED = (SafetensorError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError)


class Schedule:
    """A strategy, asked and told in order.

    Args:
        strategy: fresh, as its seed makes it.
        pending: P.
        path: the file of its state; None to keep none.
    """

    def __init__(self, strategy: Strategy[Any], pending: int, path: Path | None = None) -> None:
        if pending < 1:
            raise ValueError(f"at least 1 trial is pending, not {pending}")
        self.strategy, self.pending, self.path = strategy, pending, path
        self.asked = self.told = 0
        self._decisions: dict[int, Decisions] = {}
        self._rewards: dict[int, float] = {}
        self._saved = (0, 0)

    @property
    def ready(self) -> bool:
        """Whether the results are in that the next trial waits for."""
        return all(number in self._rewards for number in range(self.told, self._due))

    @property
    def _due(self) -> int:
        """How many results are to be told before the next ask."""
        return max(self.told, self.asked - self.pending + 1)

    def ask(self) -> tuple[int, Decisions]:
        """The next trial: its number and architecture.

        Raises:
            StudyError: if the state cannot be written.
        """
        while self.told < self._due:
            self.strategy.tell(self._decisions.pop(self.told), self._rewards.pop(self.told))
            self.told += 1
        number, decisions = self.asked, self.strategy.ask()
        self._decisions[number] = decisions
        self.asked += 1
        if self._saved[0] != self.strategy.updates or self.asked >= self._saved[1] + _SAVE_EVERY:
            self.save()
        return number, decisions

    def result(self, number: int, reward: float) -> None:
        """The reward of a trial, to be told when its turn comes."""
        self._rewards[number] = reward

    def save(self) -> None:
        """Write the state.

        Raises:
            StudyError: if that fails.
        """
        self._saved = (self.strategy.updates, self.asked)
        if self.path is not None:
            content = {"asked": self.asked, "told": self.told, "strategy": self.strategy.state_dict()}
            try:
                write_state(self.path, content)
            except OSError as error:
                raise StudyError(
                    f"the strategy's state {self.path} cannot be written: {error.strerror or error}; "
                    "make room, then give the same command"
                ) from None

    def restore(self, records: Sequence[Record]) -> list[tuple[int, Decisions]]:
        """Bring a fresh strategy to where the study is; gives the trials that were asked for but not recorded.

        Raises:
            StudyError: if the study holds other architectures than this strategy asks for.
        """
        for record in records:
            if record.reward is not None:
                self._rewards[record.number] = record.reward
        missing = self._load(records)
        for record in records[self.asked :]:
            if not self.ready:
                raise StudyError(f"trial {record.number} was made before the results that it follows from")
            _, decisions = self.ask()
            if decisions != record.decisions:
                raise StudyError(
                    f"trial {record.number} is not what this strategy would have tried: the study was made by another "
                    f"version of it, or with other numerical libraries and {self.path} is lost"
                )
        self._rewards = {number: reward for number, reward in self._rewards.items() if number >= self.told}
        return missing

    def _load(self, records: Sequence[Record]) -> list[tuple[int, Decisions]]:
        """Take on the saved state if the study has got at least as far, and say which trials it lacks."""
        state = None if self.path is None else read_state(self.path)
        if state is None or self.path is None:
            return []
        try:
            return self._take_on(state, records, self.path)
        except _MALFORMED as error:
            raise _damaged(self.path, error) from None

    def _take_on(self, state: Any, records: Sequence[Record], path: Path) -> list[tuple[int, Decisions]]:
        waiting = [tuple(decisions) for decisions in state["strategy"]["asked"]]
        asked, told = state["asked"], state["told"]
        # After a power failure the study may lack what the file has seen: then all is done again from the beginning.
        if told > len(records) or any(record.reward is None for record in records[:told]):
            return []
        if any(r.decisions != d for r, d in zip(records[told:], waiting, strict=False)):
            raise StudyError(f"{path} is not of this study; remove it, and its content is worked out again")
        self.strategy.load_state_dict(state["strategy"])
        self.asked, self.told = asked, told
        self._decisions = dict(enumerate(waiting, start=told))
        self._saved = (self.strategy.updates, asked)
        return [(number, self._decisions[number]) for number in range(len(records), asked)]


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested plain values and NumPy arrays as safetensors; arrays by their path, the rest as JSON beside them."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_without_arrays(state, arrays, ""))
    with replacing(path) as part:
        save_file(arrays, part, metadata={"state": text, "sha256": _digest(text, arrays)})


def read_state(path: Path) -> dict[str, Any] | None:
    """What :func:`write_state` wrote, or None where there is no such file.

    Raises:
        StudyError: if it is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        text = metadata["state"]
        if metadata.get("sha256", _digest(text, arrays)) != _digest(text, arrays):
            raise ValueError("it was changed since it was written")
        state: dict[str, Any] = parse_json(text)
        for name, array in arrays.items():
            *parents, last = name.split("/")
            inner = state
            for parent in parents:
                inner = inner[parent]
            inner[last] = array
    except _MALFORMED as error:
        raise _damaged(path, error) from None
    return state


def _damaged(path: Path, error: Exception) -> StudyError:
    return StudyError(f"{path} is damaged ({format_value(str(error))}); remove it, and its content is worked out again")


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    content = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype} {array.shape}".encode("utf-8", "surrogatepass"))
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def _without_arrays(value: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    if isinstance(value, np.ndarray):
        arrays[where] = value
        return None
    if isinstance(value, Mapping):
        return {key: _without_arrays(v, arrays, f"{where}/{key}" if where else key) for key, v in value.items()}
    return value
