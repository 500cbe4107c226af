"""The command line, ``nasnet-det VERB``, and what every tool does about a mistake of its user.

A verb is a module of this package; ``python tools/predict.py`` in a checkout is ``nasnet-det predict``. Nothing here
imports PyTorch, so that ``nasnet-det --help`` answers at once.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import errno
import functools
import importlib
import importlib.metadata
import logging
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, cast

#: What is wrong lies in what was given; stopped as a shell says it of SIGINT; the reader of the output went away.
MISTAKE, STOPPED, BROKEN_PIPE = 2, 130, 141
#: With this set, a mistake shows where it was noticed.
TRACEBACK = "NASNET_DET_TRACEBACK"

#: The verbs and the modules of tools/ behind them.
VERBS = {
    "Networks": {
        "table": "model_table",
        "build-backbone": "build_backbone",
        "convert": "convert_weights",
        "check-golden": "check_golden",
    },
    "Image classification": {
        "prepare-cifar10": "prepare_cifar10",
        "train-cifar": "train_cifar",
        "train-imagenet": "train_imagenet",
        "validate": "validate",
    },
    "Object detection": {
        "demo": "demo",
        "prepare-coco": "prepare_coco",
        "convert-detector": "convert_detector",
        "train": "train_net",
        "predict": "predict",
        "evaluate": "evaluate",
    },
    "Search": {
        "search": "search",
        "retrain": "retrain_cells",
        "report": "search_report",
        "export-cell": "export_cell",
    },
    "Pictures and other programs": {
        "draw": "draw_cell",
        "draw-accuracy": "draw_accuracy",
        "export": "export_model",
        "package": "package",
    },
}
TOOLS = {verb: tool for group in VERBS.values() for verb, tool in group.items()}

_DETECTRON2 = (
    "'nasnet-det[detection]', then pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git@a59f0563'"
)
#: What to give pip for a module that is not there.
PIP = {
    "detectron2": _DETECTRON2,
    "fvcore": "fvcore",
    "iopath": "'nasnet-det[detection]'",
    "pycocotools": "'nasnet-det[detection]'",
    "faster_coco_eval": "'nasnet-det[fast-eval]'",
    "optuna": "'nasnet-det[search]'",
    "ray": "'nasnet-det[search]'",
    "tensorflow": "'nasnet-det[tensorflow]'",
    "tensorboard": "'nasnet-det[train]'",
    "onnx": "'nasnet-det[export]'",
    "onnxscript": "'nasnet-det[export]'",
    "onnxruntime": "'nasnet-det[export]'",
}

Main = TypeVar("Main", bound=Callable[..., int])


def command(main: Main) -> Main:
    """Make a tool's ``main`` say what its user can put right in one line, and give an exit status instead of raising.

    0 is for success, 2 for a mistake, 130 for Ctrl-C, 141 where the reader of the output went away. An error with an
    ``exit_status`` of its own gives that. An error that can only be this package's own keeps its traceback.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        try:
            try:
                return main(argv)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # what cannot be written is noticed here, not while the interpreter ends
        except KeyboardInterrupt as error:
            return _say(str(error) or "stopped", STOPPED)
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            status = getattr(error, "exit_status", MISTAKE)
            return _say(message if status == STOPPED else f"error: {message}", status)

    return cast(Main, guarded)


@contextlib.contextmanager
def needs() -> Iterator[None]:
    """Import what an extra brings: where it is missing, the process ends with the command that installs it.

    detectron2 under a new PyTorch warns of what a user can do nothing about, when imported and when run; that is not
    shown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        warnings.filterwarnings("ignore", "torch.meshgrid: ")
        logging.getLogger("torch.fx").setLevel(logging.ERROR)
    except ImportError as error:
        raise SystemExit(_say(f"error: {explain(error)}", MISTAKE)) from None
    except KeyboardInterrupt:
        raise SystemExit(_say("stopped", STOPPED)) from None


def explain(error: BaseException) -> str | None:
    """What to tell a user of an error; None for one that can only be a fault of the program, or if all is to be
    shown."""
    if os.environ.get(TRACEBACK):
        return None
    if isinstance(error, ImportError):
        module = (error.name or "").partition(".")[0]
        return f"{module} is not installed: pip install {PIP[module]}" if module in PIP else str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "the device's memory does not suffice; give it less at once: a smaller batch, or smaller images"
    own = type(error).__module__.partition(".")[0] == "nasnet_det"
    if isinstance(error, OSError) and not own:
        return _explain_os_error(error)
    return str(error) if own or isinstance(error, ValueError) else None


def _explain_os_error(error: OSError) -> str:
    words = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        words += "; what was there before is whole: free some space and run the same command again"
    return words


def _say(message: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)
    return status


@command
def main(argv: Sequence[str] | None = None) -> int:
    """``nasnet-det``; returns the exit status."""
    verb, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if verb in ("-h", "--help", "help"):
        print(overview())
        return 0
    if verb == "--version":
        print(f"nasnet-det {importlib.metadata.version('nasnet-det')}")
        return 0
    if verb not in TOOLS:
        wanted = f"there is no verb {verb!r}{_suggestion(verb)}" if verb else "no verb was given"
        return _say(f"error: {wanted}; nasnet-det --help lists them", MISTAKE)
    sys.argv[0] = f"nasnet-det {verb}"  # what a tool's help calls it
    tool = importlib.import_module(f"nasnet_det.cli.{TOOLS[verb]}")
    return int(tool.main(rest))


def _suggestion(word: str) -> str:
    """The verb that may have been meant; the names of the tools behind them count as well."""
    known = {tool.replace("_", "-"): verb for verb, tool in TOOLS.items()} | {verb: verb for verb in TOOLS}
    near = difflib.get_close_matches(word.removesuffix(".py").replace("_", "-"), known, n=1)
    return f"; is {known[near[0]]!r} meant?" if near else ""


def overview() -> str:
    """What ``nasnet-det --help`` shows: a line of each verb, from the tools' own descriptions."""
    folder = Path(__file__).parent
    width = 2 + max(map(len, TOOLS))
    lines = ["usage: nasnet-det VERB ...", "       nasnet-det VERB --help", "       nasnet-det --version"]
    for title, group in VERBS.items():
        lines += ["", f"{title}:"]
        for verb, tool in group.items():
            lines += textwrap.wrap(
                summary(folder / f"{tool}.py"),
                max(shutil.get_terminal_size().columns - 2, 60),
                initial_indent=f"  {verb:{width}}",
                subsequent_indent=" " * (2 + width),
            )
    return "\n".join([*lines, "", f"With {TRACEBACK}=1 in the environment, an error shows where it was noticed."])


def summary(path: Path) -> str:
    """The first sentence of a tool's description, which is read, not run."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("``", "").rstrip(":.")


if __name__ == "__main__":
    sys.exit(main())
