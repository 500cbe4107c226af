"""Settings given by users: the ``KEY=VALUE`` grammar of every command, and dataclasses built from plain values.

A settings class is a frozen dataclass whose annotations say what is legal; ranges are pydantic's ``Field``::

    @dataclass(frozen=True)
    class Settings:
        minibatch: Annotated[int, Field(ge=1)] = 20
        optimizer: Literal["sgd", "adam"] = "sgd"

``build(Settings, {"minibatch": 7.5}, StudyError)`` raises ``StudyError("minibatch must be an int, got 7.5")``.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from nasnet_det.safe_io.values import format_names, format_value, parse_yaml

T = TypeVar("T")

#: YAML 1.1 reads numbers such as 5e-4, which lack a dot or the exponent's sign, as text.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_KINDS = {
    "int": "an int",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "a mapping",
    "list": "a list",
}


def parse_assignments(words: Iterable[str], error: type[ValueError] = ValueError) -> dict[str, Any]:
    """Return the settings of ``KEY=VALUE`` words, values read as YAML.

    Raises:
        ValueError: (``error``) for a word that is not ``KEY=VALUE``, or whose value is not YAML.
    """
    settings = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key.strip() and equals):
            raise error(f"expected KEY=VALUE, got {format_value(word)}")
        try:
            settings[key.strip()] = with_numbers(parse_yaml(text))
        except ValueError as cause:
            raise error(f"the value of {format_names([key.strip()])} is not YAML: {str(cause)[:300]}") from None
    return settings


def build(cls: type[T], values: Any, error: type[ValueError] = ValueError, what: str = "") -> T:
    """Return an instance of the settings dataclass ``cls`` made from plain values.

    Args:
        cls: a dataclass; its annotations are checked without conversions (a whole float is not an int).
        values: a mapping from setting to value; settings with a default may be missing.
        error: the exception class to raise.
        what: the origin of the values, for messages: a file, or the name of the thing they configure.

    Raises:
        ValueError: (``error``) naming the first setting that is unknown, missing, or of another type or range.
    """
    prefix = f"{what}: " if what else ""
    if not isinstance(values, Mapping):
        raise error(f"{prefix}expected a mapping of settings, got {format_value(values)}")
    known = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise error(f"{prefix}unknown setting {format_names([key])}; {hint}known: {', '.join(known) or 'none'}")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in known and field.name not in values and _is_required(field):
            raise error(f"{prefix}{field.name} is missing")
    kinds = get_type_hints(cls, include_extras=True)
    read = {key: read_value(kinds[key], key, value, error, what) for key, value in values.items()}
    try:
        return cls(**read)
    except ValueError as problem:  # from the class's own __post_init__
        raise error(f"{prefix}{problem}") from None


def read_value(kind: Any, name: str, value: Any, error: type[ValueError] = ValueError, what: str = "") -> Any:
    """Return a plain value of a type, with the only conversions of :func:`build`.

    Args:
        kind: the type, as an annotation.
        name: of the setting, for messages.
        value: what was given.
        error, what: as of :func:`build`.

    Raises:
        ValueError: (``error``) for a value of another type or range.
    """
    adapter = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
    try:
        # The only conversions of JSON's strict mode are a list to a tuple and an int to a float.
        return adapter.validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError, RecursionError) as problem:
        reason = _describe(problem) if isinstance(problem, ValidationError) else "must be of JSON's types"
        prefix = f"{what}: " if what else ""
        raise error(f"{prefix}{name} {reason}, got {format_value(value)}") from None


def _describe(problems: ValidationError) -> str:
    first = problems.errors(include_url=False)[0]
    kind = first["type"].partition("_")[0]
    if first["type"].endswith("_type") and kind in _KINDS:
        return f"must be {_KINDS[kind]}"
    return first["msg"].replace("Input should", "must", 1)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def differences(recorded: Any, wanted: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings that are recorded otherwise than wanted: the dotted path, and both values.

    A setting that is missing is one of None."""
    if isinstance(recorded, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*recorded, *wanted}, key=str):
            yield from differences(recorded.get(key), wanted.get(key), f"{where}.{key}" if where else str(key))
    elif recorded != wanted:
        yield where, recorded, wanted


def with_numbers(value: Any) -> Any:
    """Return YAML values with numbers such as 5e-4, which YAML 1.1 reads as text, as floats."""
    if isinstance(value, Mapping):
        return {key: with_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
