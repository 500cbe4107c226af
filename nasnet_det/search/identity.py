"""The identity of a study: the settings that a search must not change once it has begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.study import StudyDirection

from nasnet_det.safe_io.settings import differences
from nasnet_det.search.limits import ACCURACY
from nasnet_det.search.storage import StudyError


def objectives_of(identity: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a study's objectives."""
    return tuple((identity.get("demands") or {}).get("objectives", (ACCURACY,)))


def directions_of(identity: Mapping[str, Any]) -> list[StudyDirection]:
    """Return whether Optuna maximizes or minimizes each objective."""
    larger, smaller = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    return [larger if name == ACCURACY else smaller for name in objectives_of(identity)]


def check_identity(study: str, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that the settings ``wanted`` are those recorded in a study.

    Raises:
        StudyError: otherwise; names ``study`` and up to four settings.
    """
    # What is recorded besides (pending tasks, architectures) is not wanted; within a setting nothing may be missing.
    kept = {key: value for key, value in recorded.items() if key in wanted}
    found = [
        f"{key} is {_short(there)} there and {_short(here)} here" for key, there, here in differences(kept, wanted)
    ]
    if found:
        raise StudyError(
            f"{study} is of another search: {'; '.join(found[:4])}. "
            "Give the settings it was made with, choose another folder, or delete the study (optuna delete-study)"
        )


def _short(value: Any) -> str:
    text = "the default" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
