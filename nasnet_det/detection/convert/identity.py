"""Refusal of checkpoints of another network, where detectron2 only warns and keeps random weights.

Two cells may differ and yet have weights of the same names and shapes (an average for a max pooling), so a network for
detection carries a digest of its genotype, which its checkpoints keep.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.models.network import NASNet

DIGEST = "genotype_digest"


class CheckpointError(ValueError):
    """A checkpoint that is damaged or of another network than the model's."""


def genotype_digest(genotype: Genotype) -> Tensor:
    """Return the 32 bytes of a hash of a genotype's cells, its name and source left out."""
    cells = {key: value for key, value in genotype.to_dict().items() if key not in ("name", "source")}
    for kind in genotype.cells:  # the key's name when digests were first stored
        cells[kind]["joined"] = cells[kind].pop("concat")
    return torch.tensor(list(hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).digest()), dtype=torch.uint8)


def remember_genotype(network: NASNet) -> None:
    """Register a genotype's digest as a buffer of its network, and a hook that refuses other networks' state dicts."""
    network.register_buffer(DIGEST, genotype_digest(network.genotype))
    network.register_load_state_dict_pre_hook(_check)


def _check(module: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: Any) -> None:
    """A load hook: every weight of ``module`` is there with its shape, none is left over, and the genotype is the same.

    Raises:
        CheckpointError: otherwise; nothing of the network is loaded then.
    """
    wanted = {prefix + name: value for name, value in module.state_dict().items()}
    wanted_digest = wanted.pop(prefix + DIGEST)
    digest = state_dict.setdefault(prefix + DIGEST, wanted_digest)
    given = {name: value for name, value in state_dict.items() if name.startswith(prefix)}
    given.pop(prefix + DIGEST)
    # Which norms count batches depends on whether they are frozen, not on the network.
    for name in [name for name in (*wanted, *given) if name.endswith("num_batches_tracked")]:
        wanted.pop(name, None)
        given.pop(name, None)
    problem = _difference(wanted, given)
    if problem is None and not torch.equal(digest.cpu(), wanted_digest.cpu()):
        problem = "its cells are other ones"
    if problem is not None:
        genotype = module.genotype.name or "the config's genotype"  # type: ignore[union-attr]
        raise CheckpointError(
            f"this checkpoint is of another network than the config's ({genotype}): {problem}. Set "
            "MODEL.NASNET.NETWORK, GENOTYPE, NUM_CELLS and NUM_FILTERS as they were in training (config.yaml in its "
            "OUTPUT_DIR), or give another MODEL.WEIGHTS"
        )


def _difference(wanted: dict[str, Any], given: dict[str, Any]) -> str | None:
    missing = [name for name in wanted if name not in given]
    left_over = [name for name in given if name not in wanted]
    if len(missing) == len(wanted):
        return (
            f"it holds none of the network's weights, such as {missing[0]} (those of a classification network are "
            "given as MODEL.NASNET.PRETRAINED)"
        )
    if missing or left_over:
        found = [f"{verb} {names[0]}" for verb, names in (("lacks", missing), ("holds", left_over)) if names]
        return f"it {' and '.join(found)}, or has it in another shape"
    for name, value in wanted.items():
        if tuple(value.shape) != tuple(given[name].shape):
            return f"{name} is {tuple(given[name].shape)} in it, {tuple(value.shape)} here"
    return None
