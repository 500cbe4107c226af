"""Hooks of a training: moving average of the weights, validation with early stopping, checkpoint, progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import transforms
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from tqdm import tqdm

from nasnet_det.detection.data.mapper import DetectionMapper
from nasnet_det.detection.engine.loggers import Logger
from nasnet_det.safe_io.files import write_csv
from nasnet_det.safe_io.images import ImageError

#: The least rise of the AP, in percent, that counts as an improvement.
_BETTER = 0.05
#: Images that the validation loss is measured on, at most.
_LOSS_IMAGES = 200
#: Steps tried on each number of threads; the first of them also warms up.
_TRIALS = 3
#: Parts of detectron2's ROI heads that compute losses by their own mode.
_LOSS_HEADS = ("mask_head", "keypoint_head")
#: When, as a share of all steps, batch norms' statistics are fixed that started from random weights.
_FIXED_FROM = 0.4


class AverageWeights(HookBase):
    """A moving average of the weights and of the batch norms' statistics, which is what is evaluated and kept.

    Args:
        model: the model in training.
        decay: share of the average that a step keeps; in the first steps ``(1 + step) / (10 + step)`` where that is
            less (as ``tf.train.ExponentialMovingAverage``).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average towards the weights of this step."""
        step = self.trainer.iter
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averaged weights, and afterwards exactly its own."""
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        _copy(self.average, self.model)
        try:
            yield
        finally:
            _copy(own, self.model)

    def state_dict(self) -> dict[str, Tensor]:
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            self.average[name].copy_(value)


@torch.no_grad()
def _copy(state: dict[str, Tensor], model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        value.copy_(state[name])


class FixStatistics(HookBase):
    """From a step on, train with batch norms' running statistics, as inference does: batches of a few images differ too
    much from the mean of all.

    Args:
        steps: those of the whole training, of which the first 40 percent are as usual.
    """

    def __init__(self, steps: int) -> None:
        self.first = round(_FIXED_FROM * steps)

    def before_step(self) -> None:
        """Put batch norms in evaluation mode, which an evaluation in between undoes."""
        if self.trainer.iter >= self.first:
            for module in self.trainer.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()


class Periodic(HookBase):
    """A hook that acts every so many steps, and at the end.

    Args:
        period: those steps.
    """

    def __init__(self, period: int) -> None:
        self.period = period

    def is_due(self) -> bool:
        """Return whether to act after the present step."""
        done = self.trainer.iter + 1
        return done % self.period == 0 or done == self.trainer.max_iter


class Validate(Periodic):
    """Evaluation every so often, of the averaged weights: AP, validation loss, the best weights kept, early stopping.

    Args:
        period: steps between evaluations.
        patience: evaluations without a better AP, once there is one above 0, after which training ends.
        average: whose weights are evaluated.
        evaluate: returns the scores of the model, in percent by name, ``AP`` among them.
        validation_loss: returns the model's loss on the validation images.
        keep_best: called with the scores when they are the best so far.
        folder: where ``metrics.csv`` goes.

    Attributes:
        loggers: get the same numbers; none at first.
    """

    def __init__(
        self,
        period: int,
        patience: int,
        average: AverageWeights,
        evaluate: Callable[[], dict[str, float]],
        validation_loss: Callable[[], float],
        keep_best: Callable[[dict[str, float]], None],
        folder: Path,
    ) -> None:
        super().__init__(period)
        self.patience, self.average = patience, average
        self.evaluate, self.validation_loss, self.keep_best = evaluate, validation_loss, keep_best
        self.folder = folder
        self.loggers: Sequence[Logger] = ()
        #: A row for each evaluation, the sum of the training loss since the last, and evaluations without a better AP.
        self.state: dict[str, Any] = {
            "rows": [],
            "loss": 0.0,
            "steps": 0,
            "stale": 0,
            "best": -math.inf,
            "best_step": 0,
        }

    def after_step(self) -> None:
        """Add up the loss; evaluate when it is time."""
        state, trainer = self.state, self.trainer
        state["loss"] += float(trainer.storage.history("total_loss").latest())
        state["steps"] += 1
        if self.is_due():
            self._evaluate(trainer.iter + 1)

    def _evaluate(self, step: int) -> None:
        state, trainer = self.state, self.trainer
        with self.average.applied():
            loss, scores = self.validation_loss(), self.evaluate()
            # Before anything is found, and where nothing is annotated, the loss tells which weights are the best.
            found = scores["AP"] if scores["AP"] > _BETTER else -loss
            better = found > state["best"] + _BETTER
            if better:
                self.keep_best(scores)
        row = {
            "step": step,
            "learning_rate": trainer.optimizer.param_groups[0]["lr"],
            "train_loss": state["loss"] / state["steps"],
            "validation_loss": loss,
            **{name: value for name, value in scores.items() if "-" not in name},
        }
        stale = 0 if better or state["best"] <= 0 else state["stale"] + 1
        best = {"best": found, "best_step": step} if better else {}
        state.update(rows=[*state["rows"], row], loss=0.0, steps=0, stale=stale, **best)
        self._report(row)
        trainer.finished = self.is_over()

    def is_over(self) -> bool:
        """Return whether nothing has become better for long enough."""
        return self.state["stale"] >= self.patience

    def _report(self, row: dict[str, float]) -> None:
        rows = [[one.get(name, "") for name in row] for one in self.state["rows"]]
        write_csv(self.folder / "metrics.csv", [list(row), *rows])
        for logger in self.loggers:
            logger.log(int(row["step"]), {name: value for name, value in row.items() if name != "step"})
        tqdm.write(
            f"step {row['step']:5}: loss {row['train_loss']:.3f}, validation loss {row['validation_loss']:.3f}, "
            f"AP {row['AP']:.1f}, AP50 {row['AP50']:.1f}"
            + ("  (best)" if row["step"] == self.state["best_step"] else "")
        )

    def after_train(self) -> None:
        for logger in self.loggers:
            logger.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far and what early stopping knows."""
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


class KeepLast(Periodic):
    """One checkpoint to resume from, replaced after each evaluation."""

    def after_step(self) -> None:
        trainer = self.trainer
        if self.is_due() or trainer.finished:
            trainer.checkpointer.save(trainer.checkpoint_name(), iteration=trainer.iter)


class Progress(HookBase):
    """A progress bar with the loss."""

    def before_train(self) -> None:
        """Start the bar where the run starts."""
        trainer = self.trainer
        self.bar = tqdm(total=trainer.max_iter, initial=trainer.start_iter, unit="step", desc="training", disable=None)

    def after_step(self) -> None:
        self.bar.update()
        self.bar.set_postfix(loss=f"{self.trainer.storage.history('total_loss').latest():.3f}", refresh=False)

    def after_train(self) -> None:
        self.bar.close()


class ChooseThreads(HookBase):
    """The faster of all threads and one, measured on a few steps: on a machine that is busy with other things, threads
    that wait for each other can be ten times slower than one alone."""

    def before_train(self) -> None:
        threads = torch.get_num_threads()
        self.trials = [threads] * _TRIALS + [1] * _TRIALS if threads > 1 else []
        self.fastest: dict[int, float] = {}

    def before_step(self) -> None:
        """Set the threads of this step."""
        step = self.trainer.iter - self.trainer.start_iter
        if step < len(self.trials):
            torch.set_num_threads(self.trials[step])
        elif self.fastest:
            torch.set_num_threads(min(self.fastest, key=lambda threads: self.fastest[threads]))
            self.fastest = {}
        self.start = time.perf_counter()

    def after_step(self) -> None:
        """Keep the least time of each number."""
        step = self.trainer.iter - self.trainer.start_iter
        if step < len(self.trials):
            seconds = time.perf_counter() - self.start
            threads = self.trials[step]
            self.fastest[threads] = min(seconds, self.fastest.get(threads, seconds))


@torch.no_grad()
def validation_loss(model: nn.Module, cfg: CfgNode, records: Sequence[dict[str, Any]]) -> float:
    """Return the mean of the training loss on validation images: resized as in evaluation, neither flipped nor
    augmented, with the norms and without the drop paths of evaluation.

    Args:
        model: a detector; left in the mode in which it was.
        cfg: its config.
        records: detectron2's, annotated; at most 200 of them are used, evenly spaced, without those whose images are
            unusable, which the evaluation names.
    """
    resize = transforms.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    mapper = DetectionMapper(cfg, True, augmentations=[resize])
    chosen = records[:: max(1, math.ceil(len(records) / _LOSS_IMAGES))]
    losses: list[float] = []
    modes = {module: module.training for module in model.modules()}
    devices = [torch.cuda.current_device()] if cfg.MODEL.DEVICE.startswith("cuda") else []
    try:
        model.eval()
        heads = getattr(model, "roi_heads", None)
        others = (getattr(model, "proposal_generator", None), *(getattr(heads, name, None) for name in _LOSS_HEADS))
        for part in (model, heads, *others):
            if part is not None:
                part.training = True  # of this module alone: it then computes losses
        # A storage of its own, so that nothing of this shows among the training's numbers.
        with torch.random.fork_rng(devices), EventStorage():
            torch.manual_seed(0)  # samples of anchors and proposals
            for record in chosen:
                with suppress(ImageError):
                    losses.append(float(sum(model([mapper(record)]).values())))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return sum(losses) / len(losses) if losses else math.nan
