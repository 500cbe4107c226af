"""Quiet libraries, for commands that print a few lines of their own."""

from __future__ import annotations

import logging
import warnings


def quiet() -> None:
    """Keep the notices of detectron2, fvcore and torch.fx out of a command's output; warnings of this package stay."""
    warnings.filterwarnings("ignore")
    for name in ("fvcore", "torch.fx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    chatty = logging.getLogger("detectron2")
    chatty.setLevel(logging.INFO)  # below that its trainer sets up logging of its own
    chatty.propagate = False
    chatty.addHandler(logging.NullHandler())
