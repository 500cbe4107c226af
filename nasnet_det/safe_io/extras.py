"""Optional dependencies in versions that are too old: some of them give wrong results without an error."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement


@cache
def outdated(module: str) -> str:
    """Return what to do about an installed dependency that this package's metadata excludes; an empty text for others.

    Args:
        module: the name of its module.
    """
    name = module.partition(".")[0].replace("_", "-")
    try:
        needed = [wanted for text in requires("nasnet-det") or () if (wanted := Requirement(text)).name == name]
        found = version(name) if needed else ""
    except PackageNotFoundError:  # of this package, too: a checkout need not be installed
        return ""
    if all(wanted.specifier.contains(found, prereleases=True) for wanted in needed):
        return ""
    return f"{name} {found} is installed, expected {needed[0].specifier}: pip install '{name}{needed[0].specifier}'"


def refuse_outdated(module: str) -> None:
    """Refuse an installed dependency that this package's metadata excludes.

    Raises:
        ImportError: naming its version and the one needed.
    """
    if message := outdated(module):
        raise ImportError(message)
