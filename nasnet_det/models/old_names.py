"""Names that release 0.1 gave to the tensors of a network."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_OLD_NAMES = re.compile(r"(^|\.)(cells\.\w+)\.(fits|joins)\.")
_NEW_NAMES = {"fits": "preprocess", "joins": "concat_proj"}


def current_name(name: str) -> str:
    """Return the present name of a tensor that release 0.1 may have stored under another one."""
    return _OLD_NAMES.sub(lambda match: f"{match[1]}{match[2]}.{_NEW_NAMES[match[3]]}.", name)


def rename_old_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Rename the tensors of a state dict of release 0.1: a hook of ``load_state_dict``."""
    del module, unused
    for key in [key for key in state_dict if key.startswith(f"{prefix}cells.")]:
        state_dict[current_name(key)] = state_dict.pop(key)
