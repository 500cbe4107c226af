"""The command line ``nasnet-det VERB``.

A verb is a module of this package with a function ``main(argv)``: ``nasnet-det train-net`` is ``train_net.py``, and
``python tools/train_net.py`` in a checkout. Neither this module nor the top level of a verb's module imports PyTorch,
so that help is shown at once.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import MISTAKE, TRACEBACK, command, exit_with

#: The verbs in the groups of the help text.
VERBS = {
    "Networks": ("model-table", "build-backbone", "convert-weights", "check-golden"),
    "Image classification": ("prepare-cifar10", "train-cifar", "train-imagenet", "validate"),
    "Object detection": (
        *("demo", "check-data", "finetune", "prepare-coco", "convert-detector", "train-net", "predict", "evaluate"),
    ),
    "Search": ("search", "retrain-cells", "search-report", "export-cell"),
    "Pictures and other programs": ("draw-cell", "draw-accuracy", "export-model", "package"),
}
#: Shorter names, from the first release.
ALIASES = {
    "table": "model-table",
    "convert": "convert-weights",
    "train": "train-net",
    "retrain": "retrain-cells",
    "report": "search-report",
    "draw": "draw-cell",
    "export": "export-model",
}
#: The module of each verb and alias.
TOOLS = {verb: verb.replace("-", "_") for group in VERBS.values() for verb in group}
TOOLS |= {alias: TOOLS[verb] for alias, verb in ALIASES.items()}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``nasnet-det``; return the exit status."""
    verb, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if verb in ("-h", "--help", "help"):
        print(overview())
        return 0
    if verb == "--version":
        print(f"nasnet-det {importlib.metadata.version('nasnet-det')}")
        return 0
    if verb not in TOOLS:
        problem = f"unknown verb {verb!r}{_suggestion(verb)}" if verb else "a verb is missing"
        return exit_with(f"error: {problem}; nasnet-det --help lists the verbs", MISTAKE)
    sys.argv[0] = f"nasnet-det {verb}"  # the program's name in the verb's help
    module = importlib.import_module(f"nasnet_det.cli.{TOOLS[verb]}")
    return int(module.main(rest))


def overview() -> str:
    """Return the text of ``nasnet-det --help``: a line for each verb, from the modules' docstrings."""
    verbs = [verb for group in VERBS.values() for verb in group]
    width = 2 + max(map(len, verbs))
    lines = ["usage: nasnet-det VERB ...", "       nasnet-det VERB --help", "       nasnet-det --version"]
    for title, group in VERBS.items():
        lines += ["", f"{title}:"]
        for verb in group:
            lines += textwrap.wrap(
                summary(Path(__file__).with_name(f"{TOOLS[verb]}.py")),
                max(shutil.get_terminal_size().columns - 2, 60),
                initial_indent=f"  {verb:{width}}",
                subsequent_indent=" " * (2 + width),
            )
    return "\n".join([*lines, "", f"Set {TRACEBACK}=1 in the environment to see the traceback of an error."])


def summary(path: Path) -> str:
    """Return the first paragraph of a module's docstring in one line, without importing the module."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).rstrip(":.")


def _suggestion(word: str) -> str:
    near = difflib.get_close_matches(word.removesuffix(".py").replace("_", "-"), TOOLS, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


if __name__ == "__main__":
    sys.exit(main())
