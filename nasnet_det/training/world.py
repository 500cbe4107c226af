"""The processes of a distributed training started by torchrun; a single process without it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """The rank of this process, the number of processes, and the rank on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main_process(self) -> bool:
        """True for the process that writes files and logs."""
        return self.rank == 0

    @classmethod
    def join(cls) -> World:
        """Initialize the process group if torchrun started this process; otherwise return a single process."""
        if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available():
            torch.cuda.set_device(local)
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size(), local)

    def leave(self) -> None:
        """Destroy the process group."""
        if self.size > 1:
            distributed.destroy_process_group()

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network with its gradients averaged over all processes."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes; ``values`` is overwritten with it."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return true if the flag is set in any process."""
        if self.size == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=device)) > 0)
