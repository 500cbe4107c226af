"""Commands of the pages: run in this process, or checked without doing anything."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import PROJECT


class Parsed(BaseException):
    """Raised instead of a tool's work once its parser has accepted the words."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options


def run(script: str, words: Sequence[str]) -> int:
    """Run a script as ``python script words`` does; return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *words])
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as exit:
            return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    return 0


def check(script: str, words: Sequence[str]) -> None:
    """Let a script's own parser read the words, and check the configs and settings that they name.

    Raises:
        AssertionError: if the parser refuses them.
        ValueError: for a config key, a setting or a recipe that does not exist.
    """

    def parsed_by(real: Callable[..., Any]) -> Callable[..., Any]:
        def parse(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
            raise Parsed(real(parser, args, namespace))

        return parse

    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, parsed_by(getattr(argparse.ArgumentParser, name)))
        try:
            status = run(script, words)
        except Parsed as parsed:
            further = CHECKS.get(Path(script).stem)
            if further is not None:
                further(parsed.options)
            return
    raise AssertionError(f"{script} does not take {' '.join(words)}: exit status {status}")


def check_pip(words: Sequence[str]) -> None:
    """Check that the extras of this project in a ``pip install`` exist."""
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    existing = set(re.findall(r"^([\w-]+) = \[", text.partition("[project.optional-dependencies]")[2], re.MULTILINE))
    asked = [found[1] for word in words if (found := re.match(r"(?:\.|nasnet-det)\[(.+)\]$", word))]
    unknown = {extra for extras in asked for extra in extras.split(",")} - existing
    assert not unknown, f"no such extra: {unknown}"


def check_make(words: Sequence[str]) -> None:
    """Check that the Makefile has the targets."""
    targets = set(re.findall(r"^(\w+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(words) <= targets, f"no such target: {set(words) - targets}"


def torchrun(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the script that ``torchrun`` would start, and its words."""
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(list(words))
    return options.training_script, options.training_script_args


def _check_config(options: argparse.Namespace) -> None:
    from nasnet_det.detection.config import read_config

    if options.config_file is None or options.config_file.endswith(".py"):  # predict: its first input is the detector
        return
    # A config written by a training or a conversion has the keys of the paper's.
    made = options.config_file.split("/")[0] in ("output", "converted")
    read_config("configs/nasnet_frcnn.yaml" if made else options.config_file, options.opts)


def _check_recipe(data: str) -> Callable[[argparse.Namespace], None]:
    def check_recipe(options: argparse.Namespace) -> None:
        from nasnet_det.cli.shared.training_options import selected_recipe
        from nasnet_det.training.models import ModelChoice

        selected_recipe(options, data)
        if options.genotype is None and not options.model.startswith("local-dir:"):
            ModelChoice.named(options.model)

    return check_recipe


def _check_search(options: argparse.Namespace) -> None:
    from nasnet_det.cli.shared.search_options import space_asked
    from nasnet_det.safe_io.settings import parse_assignments
    from nasnet_det.search.command import child_config
    from nasnet_det.search.strategies.registry import DEFAULT, make_strategy

    child_config(options)
    name = DEFAULT if options.strategy == "default" else options.strategy
    make_strategy(name, space_asked(options).sizes, options.seed, parse_assignments(options.set))


#: Checks beyond the parser's, by the script's name.
CHECKS: dict[str, Callable[[argparse.Namespace], None]] = {
    "train_net": _check_config,
    "predict": _check_config,
    "lazyconfig_train_net": _check_config,
    "train_cifar": _check_recipe("cifar"),
    "train_imagenet": _check_recipe("imagenet"),
    "search": _check_search,
}
