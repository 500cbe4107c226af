"""Options that commands share, so that one thing has one name everywhere."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a docstring in its own format and takes options between arguments.

    What follows ``--`` is no option, but a path.
    """
    return _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_output(
    parser: argparse._ActionsContainer, meaning: str, default: Path | None = None, required: bool = False
) -> None:
    """Add ``--output PATH`` (``options.output``); ``--out`` is short for it."""
    parser.add_argument(
        "--output", "--out", type=Path, metavar="PATH", default=default, required=required, help=meaning
    )


def add_image_size(parser: argparse._ActionsContainer, meaning: str = "default: the model's") -> None:
    """Add ``--image-size H [W]`` (``options.image_size``: ``(height, width)`` or None), one side for a square."""
    parser.add_argument(
        *("--image-size", "--img-size"),
        type=whole(3, 16384, "pixels"),  # a first convolution of 3 x 3 without padding takes no less
        nargs="+",
        action=_ImageSize,
        metavar="SIDE",
        help=f"H [W], {meaning}",
    )


def add_settings(
    parser: argparse._ActionsContainer, meaning: str, option: str = "--set", metavar: str = "KEY=VALUE"
) -> None:
    """Add ``--set KEY=VALUE ...`` (``options.set``: a list of words), or another such option, which may be repeated.

    :func:`nasnet_det.safe_io.settings.parse_assignments` reads the words.
    """
    parser.add_argument(option, nargs="+", action="extend", default=[], metavar=metavar, help=meaning)


def settings_as_pairs(words: Sequence[str]) -> list[Any]:
    """Return the ``KEY=VALUE`` words of ``--set`` as detectron2's configs take them: ``KEY, VALUE`` in turn."""
    from nasnet_det.safe_io.settings import parse_assignments

    return [part for pair in parse_assignments(words).items() for part in pair]


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if "--" in words:  # which argparse loses here where no argument is before it
            end = words.index("--")
            words[end:] = [f"./{word}" if word.startswith("-") else word for word in words[end + 1 :]]
        if any(action.nargs == argparse.REMAINDER for action in self._actions):
            return super().parse_args(words, namespace)
        for before, word in zip(["", *words], words, strict=False):
            if not word or re.fullmatch(r"--[\w-]+=", word):
                where = word.rstrip("=") or before
                self.error(f"an empty word{f' after {where}' if where else ''}: is a variable of the shell not set?")
        return self.parse_intermixed_args(words, namespace)


class _ImageSize(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[int] | None,
        option_string: str | None = None,
    ) -> None:
        sides = [value for value in values or () if isinstance(value, int)]
        if len(sides) > 2:
            parser.error(f"{option_string} takes a height and a width in pixels, got {len(sides)} numbers")
        setattr(namespace, self.dest, (sides[0], sides[-1]))


def whole(least: int, most: float = math.inf, what: str = "a whole number") -> Callable[[str], int]:
    """Return the type of arguments that are whole numbers from ``least`` to ``most``; ``what`` names them in errors."""

    def read(text: str) -> int:
        number = int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else -1
        if not least <= number <= most:
            bound = "" if most == math.inf else f" to {most}"
            raise argparse.ArgumentTypeError(f"expected {what} from {least}{bound}, got {text!r}")
        return number

    return read


def amount(text: str) -> float:
    """Return an argument that is a finite number, 0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return value


#: The type of a command's seed.
seed = whole(0, 2**32 - 1)


def share(text: str) -> float:
    """Return a share of the images to validate on, from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to below 1, got {text!r}")
    return value
