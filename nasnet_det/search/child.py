"""Child training: the validation accuracy of a sampled genotype (paper appendix A.1 and A.6).

:func:`train_child` trains a small network of the genotype's cells on part of the training images and measures it on
others. A failure *of the child* (its loss diverges, it does not fit into the device's memory, its code fails) is a
result like any other; a failure *of the search* (no data in the given folder) raises.
"""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.genotypes.published import as_genotype
from nasnet_det.models.network import NASNet
from nasnet_det.safe_io.values import first_line
from nasnet_det.search.child_config import ChildConfig, images_of, network_size
from nasnet_det.training.data.cifar10 import CLASSES
from nasnet_det.training.data.cifar_batches import CifarAugmentation, CifarBatches
from nasnet_det.training.engine import Batches, Diverged, Trainer
from nasnet_det.training.execution import Execution, choose_execution, excess_of
from nasnet_det.training.models import zero_classifiers
from nasnet_det.training.run import EpochReport, RunError, fit
from nasnet_det.training.seeds import own_randomness, seed_step

Status = Literal["ok", "diverged", "out_of_memory", "crashed", "stopped_early"]


@dataclass(frozen=True)
class ChildResult:
    """The measurements of a child.

    Args:
        status: ``ok``; ``stopped_early`` by a stop rule; or the reason why its accuracy is missing.
        reward: the last epoch's validation accuracy, 0 to 1; 0 for a child that diverged, did not fit or crashed.
        accuracies: the validation accuracy after each epoch.
        losses: the mean training loss of each epoch.
        num_params: trainable parameters; 0 if the network could not be built.
        seconds: the time that training and measuring took.
        device: the device that trained it.
        seed: the seed of its weights and batches.
        message: the failure in words; empty without one.
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
            raise ValueError(f"status must be one of {', '.join(get_args(Status))}, got {self.status!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "accuracies": list(self.accuracies), "losses": list(self.losses)}


@dataclass(frozen=True)
class Trained:
    """A child after training.

    Args:
        result: its measurements.
        checkpoint: from which its training continues to a later epoch; None where it ended.
    """

    result: ChildResult
    checkpoint: bytes | None = None


class DeviceLost(RuntimeError):
    """The device is unusable in this process through no fault of the child; another process must train it."""


def check_child_config(config: ChildConfig, device: str | torch.device | None = None) -> None:
    """Check data, settings and device before any child is trained.

    Raises:
        DataError: if the data are missing or incomplete, or have fewer images than requested.
        ValueError: for settings that are not a valid recipe, or a device that does not exist.
    """
    execution = _execution(config, device)
    data = batches_of(config, execution, seed=0)
    # Any network shows whether the recipe's optimizer and mixing can be made.
    Trainer(torch.nn.Linear(1, 1), config.recipe, data.steps_per_epoch, data.num_classes, execution)


def train_child(
    genotype: Genotype | Mapping[str, Any],
    config: ChildConfig,
    seed: int,
    device: str | torch.device | None = None,
    progress: Callable[[EpochReport], None] | None = None,
) -> ChildResult:
    """Train a child to its end and measure it; see :func:`train_to`."""
    return train_to(genotype, config, seed, device, progress=progress).result


def train_to(
    genotype: Genotype | Mapping[str, Any],
    config: ChildConfig,
    seed: int,
    device: str | torch.device | None = None,
    epochs: int | None = None,
    checkpoint: bytes | None = None,
    progress: Callable[[EpochReport], None] | None = None,
    tick: Callable[[int, float | None], None] = lambda step, loss: None,
) -> Trained:
    """Train a child for its first epochs and measure it.

    The same genotype, settings, seed and device give the same result, in one call or in several that continue from
    checkpoints: the learning rate follows the schedule of ``config.epochs``. The random numbers of the caller are not
    changed. The data are read once in a process and stay on the device for the next child.

    Args:
        genotype: its cells.
        config: how it is trained.
        seed: what the weights, the order of the images and their augmentation are drawn from.
        device: where to train; the GPU if there is one.
        epochs: how far to train it in all; None for its end.
        checkpoint: where an earlier call left it. One that is damaged or of another child is ignored, and the child is
            trained from the beginning.
        progress: called with every new epoch's report; what it raises ends the child and is raised again.
        tick: called after every step; see :func:`~nasnet_det.training.run.fit`.

    Raises:
        DataError, ValueError: as :func:`check_child_config`.
        DeviceLost: if the device failed for good.
    """
    execution = _execution(config, device)
    data = batches_of(config, execution, seed)
    child = _Child(config, execution, seed, progress, min(epochs or config.epochs, config.epochs), tick)
    with own_randomness(execution.device):
        try:
            status, message = child.train_from(checkpoint, as_genotype(genotype), data)
        except Diverged as error:
            status, message = "diverged", str(error)
        except torch.OutOfMemoryError as error:
            status, message = "out_of_memory", first_line(error)
        except _FromProgress as error:
            raise error.cause from None
        except Exception as error:  # any failure of a sampled network is a result of the search
            status, message = _judge(error, execution.device)
    trusted = status in ("ok", "stopped_early") and child.reports
    result = ChildResult(
        status=status,
        reward=child.reports[-1].top1 if trusted else 0.0,
        accuracies=tuple(report.top1 for report in child.reports),
        losses=tuple(report.train_loss for report in child.reports),
        num_params=child.num_params,
        seconds=child.seconds,
        device=str(execution.device),
        seed=seed,
        message=message,
    )
    return Trained(result, child.checkpoint() if status == "ok" and child.epochs < config.epochs else None)


def batches_of(config: ChildConfig, execution: Execution, seed: int) -> CifarBatches:
    """Return the images that a child trains and is measured on.

    Raises:
        DataError: as :func:`check_child_config`.
    """
    data, train, validation = images_of(config)
    augmentation = CifarAugmentation.from_mapping(config.recipe.augmentation)
    return CifarBatches(
        data, train, validation, config.batch_size, augmentation, execution.device, seed, epochs=config.epochs
    )


def child_network(genotype: Genotype, config: ChildConfig, num_classes: int = len(CLASSES)) -> NASNet:
    """Return the network of a child, with new weights."""
    network = network_size(config, num_classes).build(genotype)
    if config.recipe.zero_classifier:
        zero_classifiers(network)
    return network


class _Memory:
    """The last state of a child in training (:class:`~nasnet_det.training.run.Keeper`)."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.state = state

    def load(self) -> Mapping[str, Any] | None:
        return self.state

    def save(self, state: Mapping[str, Any]) -> None:
        self.state = state

    def log(self, history: list[EpochReport]) -> None:
        """Keep nothing: the history is part of the state."""


@dataclass
class _Child:
    """A child in training: what is known of it however it ends."""

    config: ChildConfig
    execution: Execution
    seed: int
    progress: Callable[[EpochReport], None] | None
    epochs: int
    tick: Callable[[int, float | None], None]
    num_params: int = 0
    reports: list[EpochReport] = field(default_factory=list)
    memory: _Memory = field(default_factory=_Memory)
    earlier_seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """The time of training so far, in this call and in those that it continues."""
        return self.earlier_seconds + time.monotonic() - self.began

    def train_from(self, checkpoint: bytes | None, genotype: Genotype, data: Batches) -> tuple[Status, str]:
        """Train from a checkpoint if it is of use, else from the beginning."""
        if checkpoint is not None and self._load(checkpoint):
            try:
                return self.train(genotype, data)
            except RunError:  # of another network
                self.memory, self.reports, self.earlier_seconds = _Memory(), [], 0.0
        return self.train(genotype, data)

    def _load(self, checkpoint: bytes) -> bool:
        try:
            state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
            reports = [EpochReport.from_dict(row) for row in state["history"]]
            seconds = float(state["seconds"])
            if state["seed"] != self.seed or len(reports) > self.epochs:
                return False
        except _MALFORMED:
            return False
        self.memory, self.reports, self.earlier_seconds = _Memory(state), reports, seconds
        return True

    def train(self, genotype: Genotype, data: Batches) -> tuple[Status, str]:
        parameters = network_size(self.config, data.num_classes).cost(genotype).params
        if excess := excess_of(parameters, self.execution.device, copies=3):  # with gradient and momentum
            raise MemoryError(excess)
        seed_step(self.seed, step=-1 % 2**32)
        network = child_network(genotype, self.config, data.num_classes)
        self.num_params = sum(p.numel() for p in network.parameters() if p.requires_grad)
        trainer = Trainer(network, self.config.recipe, data.steps_per_epoch, data.num_classes, self.execution)
        fit(trainer, data, self.seed, self.memory, self._report, self.tick, enough=self._enough)
        if self._hopeless(self.reports[-1]):
            return "stopped_early", f"below the stop rule of epoch {len(self.reports)}"
        return "ok", ""

    def checkpoint(self) -> bytes:
        """Return what its training continues from."""
        file = io.BytesIO()
        torch.save({**(self.memory.state or {}), "seconds": self.seconds, "seed": self.seed}, file)
        return file.getvalue()

    def _report(self, report: EpochReport) -> None:
        self.reports.append(report)
        if self.progress is not None:
            try:
                self.progress(report)
            except Exception as error:
                raise _FromProgress(error) from error

    def _enough(self, report: EpochReport) -> bool:
        return report.epoch >= self.epochs or self._hopeless(report)

    def _hopeless(self, report: EpochReport) -> bool:
        best = max(r.top1 for r in self.reports)
        return report.epoch < self.config.epochs and any(
            report.epoch == epoch and best < accuracy for epoch, accuracy in self.config.stop_rules
        )


#: What reading a damaged checkpoint raises.
_MALFORMED = (EOFError, KeyError, LookupError, OSError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError)


class _FromProgress(Exception):
    """An error that the caller's ``progress`` raised, which is not the child's failure."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _execution(config: ChildConfig, device: str | torch.device | None) -> Execution:
    return choose_execution(device, config.precision, config.channels_last, config.mode)


def _judge(error: Exception, device: torch.device) -> tuple[Status, str]:
    """Return the status and message of a child's failure.

    Raises:
        DeviceLost: if the failure is the device's.
    """
    words = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    # On a CPU, failed allocations raise a RuntimeError.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in words:
        return "out_of_memory", words
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except Exception as lost:  # every later call fails as well
            raise DeviceLost(f"{device}: {lost}") from error
    return "crashed", words
