"""Comparison of a classifier's training steps with those of TF-slim, in float64 on the CPU.

A folder holds ``meta.json`` (network, optimizer and loss), ``model.ckpt`` (the variables before the first step),
``batches.npz`` (``images`` ``(steps, batch, H, W, C)``, ``labels`` ``(steps, batch)``) and ``outputs.npz``: the losses
of every step, ``grad/NAME`` of the first step's whole loss, ``after/NAME`` the variables after all steps and perhaps
``average/NAME`` their moving averages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nasnet_det.golden.classifier import classifier_of
from nasnet_det.golden.comparison import Comparison, GoldenError, arrays_of, relative_error
from nasnet_det.models.network import NASNet
from nasnet_det.safe_io.settings import build
from nasnet_det.safe_io.values import first_line
from nasnet_det.training.engine import Trainer
from nasnet_det.training.execution import Execution
from nasnet_det.training.recipe import Recipe, RecipeError
from nasnet_det.weights.arrays import read_arrays
from nasnet_det.weights.formats import read_state_dict
from nasnet_det.weights.layout import Arrays, WeightsError, naming

#: Largest relative errors of a loss, of the gradient, and of weights relative to how far they moved.
LOSS_BOUND, GRADIENT_BOUND, WEIGHTS_BOUND = 1e-9, 1e-6, 1e-4

#: timm's optimizer and its options for each of TensorFlow's, from ``meta.json``.
_OPTIMIZERS: dict[str, tuple[str, dict[str, str]]] = {
    "sgd": ("momentum", {}),
    "momentum": ("momentum", {"momentum": "momentum"}),
    "rmsprop": ("rmsproptf", {"alpha": "rmsprop_decay", "momentum": "momentum", "eps": "rmsprop_epsilon"}),
}
#: Which part of a network's state each line compares.
_STATISTICS = {"running mean": "running_mean", "running variance": "running_var"}


def compare_training(folder: Path, meta: Mapping[str, Any]) -> Iterator[Comparison]:
    """Take a folder's training steps and compare losses, gradient, weights, statistics and moving averages.

    Raises:
        GoldenError: if a file or an entry is missing, of another shape, or describes no training that is done here.
        WeightsError: if the checkpoint is damaged or of another network.
    """
    batches, outputs = arrays_of(folder / "batches.npz"), arrays_of(folder / "outputs.npz")
    arrays = read_arrays(folder / "model.ckpt")
    try:
        with naming(folder):
            yield from _compare(meta, batches, outputs, arrays)
    except KeyError as error:
        raise GoldenError(f"{folder}: meta.json, batches.npz or outputs.npz lacks {error}") from None
    except (GoldenError, WeightsError):
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise GoldenError(f"{folder}: meta.json, batches.npz and outputs.npz disagree ({first_line(error)})") from None


def _compare(
    meta: Mapping[str, Any], batches: Arrays, outputs: Mapping[str, np.ndarray], arrays: Arrays
) -> Iterator[Comparison]:
    model = _model(meta)
    before = read_state_dict(model, arrays)
    model.load_state_dict(before)
    steps = _Steps(model, meta)
    for images, labels in zip(batches["images"], batches["labels"], strict=True):
        steps.take(images, labels)
    note = f"{len(batches['images'])} steps"
    for name, found in steps.losses.items():
        if found:
            errors = [relative_error(np.array(a), np.array(b)) for a, b in zip(found, outputs[name], strict=True)]
            yield Comparison(name, max(errors), LOSS_BOUND, f"largest of {note}")

    def stored(kind: str) -> dict[str, Tensor]:
        """The network's state with the stored values of one kind in it."""
        changed = {n.removeprefix(f"{kind}/"): value for n, value in outputs.items() if n.startswith(f"{kind}/")}
        return read_state_dict(model, {**arrays, **changed})

    gradient = stored("grad")
    yield Comparison("gradient", _error(steps.gradient, gradient, {}), GRADIENT_BOUND, "of the first step")
    weights = [name for name, _ in model.named_parameters()]
    names = {"weights": weights}
    for title, ending in _STATISTICS.items():
        names[title] = [name for name in before if name.endswith(f".{ending}")]
    after = stored("after")
    for title, keys in names.items():
        error = _error({key: model.state_dict()[key] for key in keys}, after, before)
        yield Comparison(title, error, WEIGHTS_BOUND, "relative to how far they moved")
    if steps.trainer.average is not None:
        keys = [key for group in names.values() for key in group]
        average = steps.trainer.average.state_dict()
        error = _error({key: average[key] for key in keys}, stored("average"), before)
        yield Comparison("moving average", error, WEIGHTS_BOUND, "relative to how far it moved")


class _Steps:
    """The steps of a training, with what the original code reports of each."""

    def __init__(self, model: NASNet, meta: Mapping[str, Any]) -> None:
        if meta.get("running_variance") == "biased":
            _keep_biased_variances(model)
        execution = Execution(torch.device("cpu"))
        try:
            self.trainer = Trainer(model, _recipe(meta), 1, meta["num_classes"], execution)
        except RecipeError as error:
            raise GoldenError(f"meta.json: {error}") from None
        self.losses: dict[str, list[float]] = {"loss_main": [], "loss_aux_weighted": [], "loss_l2": []}
        self.gradient: dict[str, Tensor] = {}
        self.trainer.optimizer.register_step_pre_hook(lambda *_: self._before_update())
        model.register_forward_hook(lambda module, inputs, outputs: self._after_forward(outputs))
        self._labels = torch.empty(0)

    def take(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Take a step on images ``(batch, H, W, C)`` and labels ``(batch,)``."""
        self._labels = torch.from_numpy(labels).long()
        self.trainer.step(torch.from_numpy(images).double().permute(0, 3, 1, 2).contiguous(), self._labels)

    def _after_forward(self, outputs: Tensor | tuple[Tensor, Tensor]) -> None:
        logits = outputs if isinstance(outputs, tuple) else (outputs,)
        weights = {"loss_main": 1.0, "loss_aux_weighted": self.trainer.recipe.aux_weight}
        for (name, weight), values in zip(weights.items(), logits, strict=False):
            self.losses[name].append(weight * self.trainer.criterion(values, self._labels).item())

    def _before_update(self) -> None:
        """Note the gradient with the L2 term, which PyTorch adds in the optimizer, and the L2 loss."""
        decays = {p: group["weight_decay"] for group in self.trainer.optimizer.param_groups for p in group["params"]}
        self.losses["loss_l2"].append(sum(decay / 2 * p.detach().square().sum().item() for p, decay in decays.items()))
        if not self.gradient:
            for name, parameter in self.trainer.model.named_parameters():
                if parameter.grad is None:
                    raise GoldenError(f"{name} has no gradient")
                self.gradient[name] = parameter.grad + decays[parameter] * parameter.detach()


def _model(meta: Mapping[str, Any]) -> NASNet:
    """Build the network of a folder with its auxiliary head, in float64 and with TF-slim's batch norm decay."""
    hparams = meta.get("hparams", {})
    for name in ("drop_path_keep_prob", "dense_dropout_keep_prob"):
        if hparams.get(name, 1.0) != 1.0:
            raise GoldenError(
                f"meta.json: hparams.{name} must be 1.0 for steps that can be compared, got {hparams[name]}"
            )
    auxiliary = bool(hparams.get("use_aux_head", 0))
    model = classifier_of(meta, aux_head=auxiliary, img_size=meta["input_size"]).double()
    decay = meta.get("batch_norm_decay", 0.9 if "l1_stem_3x3/weights" in meta["variables"] else 0.9997)
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            norm.momentum = 1 - decay
    return model


def _recipe(meta: Mapping[str, Any]) -> Recipe:
    if meta["optimizer"] not in _OPTIMIZERS:
        raise GoldenError(
            f"meta.json: optimizer must be one of {', '.join(_OPTIMIZERS)}, got {meta['optimizer']!r:.60}"
        )
    optimizer, options = _OPTIMIZERS[meta["optimizer"]]
    values = {
        "name": "golden",
        "data": "imagenet",
        "epochs": meta["steps"],
        "batch_size": meta["batch"],
        "learning_rate": meta["learning_rate"],
        "schedule": "exponential",
        "decay_epochs": 1e9,
        "optimizer": optimizer,
        "optimizer_options": {ours: meta[theirs] for ours, theirs in options.items()},
        "weight_decay": meta["weight_decay"],
        "label_smoothing": meta["label_smoothing"],
        "aux_weight": meta["aux_weight"],
        "ema_decay": meta["ema_decay"],
    }
    return build(Recipe, values, GoldenError, "meta.json")


def _keep_biased_variances(model: nn.Module) -> None:
    """Let running variances average the biased variance, as TF's batch norm for float64 does; PyTorch's and TF's fused
    one average the unbiased."""

    def before(norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        norm.variance_before = norm.running_var.clone()  # type: ignore[union-attr]

    def after(norm: _BatchNorm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        count = inputs[0].numel() // inputs[0].shape[1]
        added = norm.running_var - (1 - norm.momentum) * norm.variance_before  # type: ignore[operator]
        # ``data``: autograd holds on to the statistics, which the backward pass of a training step does not read.
        norm.running_var.data.sub_(added / count)  # type: ignore[union-attr]

    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            norm.register_forward_pre_hook(before)
            norm.register_forward_hook(after)


def _error(found: Mapping[str, Tensor], reference: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """Return the relative error of all tensors of ``found`` together, as movements from ``start`` (or from zero).

    They are first rounded to the type that the reference is stored in: a running statistic may move by little more than
    that rounding.
    """

    def moved(values: Mapping[str, Tensor]) -> np.ndarray:
        rounded = {name: values[name].detach().to(reference[name].dtype).double() for name in found}
        return torch.cat([(rounded[n] - start.get(n, torch.zeros(()))).flatten() for n in found]).numpy()

    return relative_error(moved(found), moved(reference))
