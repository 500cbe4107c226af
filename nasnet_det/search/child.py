"""Child training: what one sampled genotype is worth (paper appendix A.1 and A.6).

:func:`train_child` trains a small CIFAR network of the genotype's cells on part of CIFAR-10's training images and
measures it on the rest. Whatever goes wrong *with the child* (its loss diverges, it does not fit into the device's
memory, its code fails) is a result like any other; what is wrong with the *search* (no data at the given place) raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Status = Literal["ok", "diverged", "out_of_memory", "crashed", "stopped_early"]


@dataclass(frozen=True)
class ChildConfig:
    """How a child is trained. The defaults are the paper's and, where it is silent, TF-slim's ``cifar_config`` notes.

    A cheap proxy sets fewer ``epochs``, ``train_images``, ``validation_images`` or ``num_filters``.

    Args:
        data: the folder of CIFAR-10's official batches (``tools/prepare_cifar10.py`` makes it).
        num_cells: N, the normal cells of each of three stages.
        num_filters: F of the first stage.
        epochs: passes over the training images, with a single-period cosine over all of them.
        batch_size: images a step.
        learning_rate: the cosine's start; it ends at 0.
        momentum: of SGD.
        weight_decay: L2, on convolution and linear weights.
        clip_gradient_norm: the largest global norm of the gradient; 0 for no clipping.
        train_images, validation_images: how many of the training set's 50,000 images to train and to measure on. The
            two never overlap, and a smaller number takes a part of what a larger one takes.
        split_seed: the seed of that split; the same for every child of a search.
        whitening: ``channel`` (mean and deviation of the data set) or ``image`` (of each image).
        stop_rules: ``(epoch, accuracy)`` pairs: a child whose best validation accuracy after that many epochs is lower
            is stopped.
        precision: ``auto`` (bfloat16 where the device gains), ``float32`` or ``bfloat16``.
    """

    data: str
    num_cells: int = 2
    num_filters: int = 32
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_gradient_norm: float = 5.0
    train_images: int = 45_000
    validation_images: int = 5_000
    split_seed: int = 0
    whitening: Literal["channel", "image"] = "channel"
    stop_rules: tuple[tuple[int, float], ...] = ()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "stop_rules": [list(rule) for rule in self.stop_rules]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChildConfig:
        """Read what :meth:`to_dict` gave.

        Raises:
            ValueError: for a setting that does not exist.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"no such child setting: {', '.join(unknown)}; known: {', '.join(known)}")
        rules = tuple((int(epoch), float(accuracy)) for epoch, accuracy in data.get("stop_rules", ()))
        return cls(**{**data, "stop_rules": rules})


@dataclass(frozen=True)
class ChildResult:
    """What came of a child.

    Args:
        status: ``ok``; ``stopped_early`` by a stop rule; or why there is no accuracy to trust.
        reward: the last validation accuracy, 0 to 1; 0 for a child that diverged, did not fit or crashed.
        accuracies: the validation accuracy after each epoch.
        losses: the mean training loss of each epoch.
        num_params: trainable parameters; 0 if the network could not be built.
        seconds: how long it took.
        device: where it ran.
        seed: what its weights and batches were drawn from.
        message: what went wrong, in words; empty if nothing did.
    """

    status: Status
    reward: float
    accuracies: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    num_params: int = 0
    seconds: float = 0.0
    device: str = "cpu"
    seed: int = 0
    message: str = ""

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"status is one of {', '.join(get_args(Status))}, not {self.status!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "accuracies": list(self.accuracies), "losses": list(self.losses)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChildResult:
        """Read what :meth:`to_dict` gave."""
        return cls(**{**data, "accuracies": tuple(data["accuracies"]), "losses": tuple(data["losses"])})
