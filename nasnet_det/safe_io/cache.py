"""The folder of what is downloaded or made once."""

from __future__ import annotations

import os
from pathlib import Path

import torch

#: The environment variable that names the cache's folder.
CACHE_VARIABLE = "NASNET_DET_CACHE"


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return the cache's folder: the given one, ``$NASNET_DET_CACHE``, or ``nasnet_det`` in PyTorch's hub folder.

    Raises:
        FileNotFoundError: if that is in the home folder and the user has none.
    """
    chosen = folder or os.environ.get(CACHE_VARIABLE) or Path(torch.hub.get_dir()) / "nasnet_det"
    try:
        return Path(chosen).expanduser()
    except RuntimeError:
        raise FileNotFoundError(f"no home folder for {chosen}; set {CACHE_VARIABLE} to a folder") from None
