"""Errors of commands: one line and an exit status, instead of a traceback, for any mistake that a user can correct."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

from nasnet_det.safe_io.extras import outdated
from nasnet_det.safe_io.files import expand_home, protecting
from nasnet_det.training.processor import prepare_processor

#: Exit statuses: a mistake in the input; stopped by SIGINT, as a shell gives it; the reader of the output has left.
MISTAKE, STOPPED, BROKEN_PIPE = 2, 130, 141
#: With this variable set, an error shows its traceback.
TRACEBACK = "NASNET_DET_TRACEBACK"

_DETECTRON2 = (
    "'nasnet-det[detection]', then pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git@a59f0563'"
)
#: The argument of ``pip install`` that brings a module.
PIP = {
    "detectron2": _DETECTRON2,
    "fvcore": "fvcore",
    "iopath": "'nasnet-det[detection]'",
    "pycocotools": "'nasnet-det[detection]'",
    "faster_coco_eval": "'nasnet-det[fast-eval]'",
    "supervision": "'nasnet-det[data]'",
    "defusedxml": "'nasnet-det[data]'",
    "optuna": "'nasnet-det[search]'",
    "ray": "'nasnet-det[search]'",
    "tensorflow": "'nasnet-det[tensorflow]'",
    "tensorboard": "'nasnet-det[train]'",
    "wandb": "'nasnet-det[loggers]'",
    "mlflow": "'nasnet-det[loggers]'",
    "onnx": "'nasnet-det[export]'",
    "onnxscript": "'nasnet-det[export]'",
    "onnxruntime": "'nasnet-det[export]'",
    "openvino": "'nasnet-det[export,openvino]'",
}

Main = TypeVar("Main", bound=Callable[..., int])


def command(main: Main) -> Main:
    """Wrap the ``main`` of a command so that it prints an error in one line and returns an exit status, and so that it
    cannot write over the files that it reads (:mod:`nasnet_det.safe_io.files`). ``~`` at the beginning of a path is the
    home folder, also in ``--output=~/runs``, which shells leave.

    0 is success, 2 a mistake in the input, 130 Ctrl-C, 141 a closed output pipe. An error with an attribute
    ``exit_status`` returns that. An error that points to a bug of this package keeps its traceback.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        if argv is None:
            _know_all_names()
        prepare_processor()
        if isinstance(sys.stdout, io.TextIOWrapper):  # which may know few characters, as in a file on Windows
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                with protecting():
                    return main([expand_home(word) for word in (sys.argv[1:] if argv is None else argv)])
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # a full disk or closed pipe shows here, not at interpreter exit
        except KeyboardInterrupt as error:
            return exit_with(str(error) or "stopped", STOPPED)
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            status = getattr(error, "exit_status", MISTAKE)
            return exit_with(message if status == STOPPED else f"error: {message}", status)

    return cast(Main, guarded)


def _know_all_names() -> None:
    """Restart the command in UTF-8 mode where Python can name files in ASCII only: LC_ALL=C with PYTHONUTF8=0."""
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def needs() -> Iterator[None]:
    """Import optional dependencies; exit with the command that installs a missing one.

    detectron2 under a recent PyTorch warns about things a user cannot change, at import and at run time; these warnings
    are silenced.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        warnings.filterwarnings("ignore", "torch.meshgrid: ")
        logging.getLogger("torch.fx").setLevel(logging.ERROR)
    except ImportError as error:
        raise SystemExit(exit_with(f"error: {explain(error)}", MISTAKE)) from None
    except KeyboardInterrupt:
        raise SystemExit(exit_with("stopped", STOPPED)) from None


def explain(error: BaseException) -> str | None:
    """Return the message of an error that a user can correct; None for a bug, or if tracebacks are wanted."""
    if os.environ.get(TRACEBACK):
        return None
    if isinstance(error, ImportError):
        module = (error.name or "").partition(".")[0]
        missing = f"{module} is not installed: pip install {PIP[module]}" if module in PIP else str(error)
        return outdated(module) or missing
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; use a smaller batch or smaller images"
    own = type(error).__module__.partition(".")[0] == "nasnet_det"
    if isinstance(error, OSError) and not own:
        return _explain_os_error(error)
    return str(error) if own or isinstance(error, ValueError) else None


def _explain_os_error(error: OSError) -> str:
    names = " to ".join(str(name) for name in (error.filename, error.filename2) if name)
    words = f"{names}: {error.strerror}" if names and error.strerror else str(error)
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        words += "; expected a folder"
    if error.errno == errno.EISDIR:
        words += "; expected a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        words += "; existing files are unchanged: free some space and run the same command again"
    return words


def exit_with(message: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)
    return status
