"""Helpers of the search commands: settings from options, workers, and progress."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from nasnet_det.models.plan import IMAGENET_STEM_CELLS
from nasnet_det.safe_io.settings import build, parse_assignments
from nasnet_det.search.candidates import SpaceCandidates
from nasnet_det.search.child_config import ChildConfig, has_own_images, images_of, network_size, num_classes_of
from nasnet_det.search.costs import NetworkSize
from nasnet_det.search.driver import Progress
from nasnet_det.search.image_data import TORCHVISION, Found, inspect_images
from nasnet_det.search.latency import LatencyMeter
from nasnet_det.search.limits import Demands, format_measure, parse_demands
from nasnet_det.search.records import MEASURED
from nasnet_det.search.space import Space
from nasnet_det.search.workers import ChildEvaluator, InProcess, Workers, WorkersError

#: Child settings that studies of earlier releases do not record.
_NEW_SETTINGS = ("image_size", "stem", "recipe_settings", "split")


def child_config(options: argparse.Namespace, defaults: Mapping[str, Any] | None = None) -> ChildConfig:
    """Return the children's settings: those found out from the data, then ``defaults``, then the options'.

    Raises:
        DataError: if the data cannot be used.
        ValueError: for an unknown setting, or a value of another type or range.
    """
    changes = parse_assignments(options.child)
    if "data" in changes:
        raise ValueError("the data are given by --data")
    data = data_asked(options.data)
    asked, settings = ChildConfig.from_dict({"data": data, **changes}), dict[str, Any](data=data)
    if has_own_images(data):
        found = inspect_images(data)
        settings |= {name: getattr(found, name) for name in ("train_images", "validation_images", "image_size", "stem")}
        settings["split"] = "random" if found.has_split else "stratified"
        if "validation_images" in changes and "train_images" not in changes and not found.has_split:
            spare = found.validation_images - asked.validation_images
            settings["train_images"] = max(found.train_images + spare, 1)
    settings |= {name: value for name, value in (defaults or {}).items() if value is not None}
    return ChildConfig.from_dict({**settings, **changes})


def data_asked(text: str) -> str:
    """Return the ``data`` of a child's settings: ``torchvision:NAME@FOLDER`` for torchvision's names, in any letter
    case, else a folder."""
    name, _, folder = text.removeprefix(TORCHVISION).partition("@")
    prefixed = text.startswith(TORCHVISION)
    if not prefixed and (Path(text).exists() or not name.isidentifier() or not find_spec("torchvision")):
        return text
    from torchvision import datasets

    known = {known.lower(): known for known in datasets.__all__}
    known_name = known.get(name.lower(), name if prefixed else None)
    return text if known_name is None else f"{TORCHVISION}{known_name}@{folder or 'datasets'}"


def describe_data(config: ChildConfig) -> str:
    """Read own images, and return in words what was found out about them."""
    found, (images, train, validation) = inspect_images(config.data), images_of(config)
    classes = ", ".join(found.classes[:5]) + (", ..." if len(found.classes) > 5 else "")
    split = "their own split" if found.has_split else f"a {config.split} split"
    mean, std = (" ".join(f"{value:.3f}" for value in values) for values in (images.mean, images.std))
    return (
        f"{found.name}: {len(train)} training and {len(validation)} validation images ({split}) of "
        f"{len(found.classes)} classes ({classes})\n"
        f"children see {config.image_size} x {config.image_size} pixels, mean {mean}, deviation {std}, "
        f"through the {config.stem} stem"
    )


def data_identity(config: ChildConfig) -> dict[str, Any] | None:
    """Return what a study records of own images; None for CIFAR-10."""
    if not has_own_images(config.data):
        return None
    found: Found = inspect_images(config.data)
    images = found.train_images + found.validation_images
    return {"classes": list(found.classes), "images": images, "files": found.digest}


def recipe_of(config: ChildConfig) -> dict[str, Any]:
    """Return what must not change of the children's settings during a search: all except where the data are."""
    defaults = ChildConfig("")
    recipe = {key: value for key, value in config.to_dict().items() if key != "data"}
    return recipe | {key: None for key in _NEW_SETTINGS if recipe[key] == getattr(defaults, key)}


def rungs_asked(options: argparse.Namespace, config: ChildConfig) -> tuple[tuple[int, ...], ChildConfig]:
    """Return the rungs, the last of which is the children's end, and the children's settings with that end.

    Raises:
        ValueError: for a rung beyond the end, or a stop rule that is not before it.
    """
    rungs = tuple(options.rungs)
    if rungs and "epochs" not in parse_assignments(options.child):
        config = replace(config, epochs=max(rungs))
    if max(rungs, default=0) > config.epochs:
        raise ValueError(f"rung {max(rungs)} is beyond the children's last epoch, {config.epochs}")
    if late := [epoch for epoch, _ in config.stop_rules if epoch >= config.epochs]:
        raise ValueError(f"the stop rule of epoch {late[0]} is not before the children's last epoch, {config.epochs}")
    if not rungs:
        return (), config
    return (rungs if max(rungs) == config.epochs else (*rungs, config.epochs)), config


def candidates_asked(
    options: argparse.Namespace, space: Space, config: ChildConfig
) -> tuple[SpaceCandidates, Demands, dict[str, Any] | None]:
    """Return the candidates, the demands on them, and what a study records of these (None where nothing is demanded).

    Raises:
        ValueError: for a limit, objective or network that cannot be read.
    """
    demands = parse_demands(options.limit, options.objectives)
    child = network_size(config, num_classes_of(config))
    if child.stem == "imagenet" and child.num_filters < 2 * 2**IMAGENET_STEM_CELLS:
        raise ValueError(
            f"child: num_filters must be at least {2 * 2**IMAGENET_STEM_CELLS} with the ImageNet stem, got "
            f"{child.num_filters}: in the first cell of many a candidate a layer would have no channel"
        )
    changes = parse_assignments(options.measured_network)
    if unknown := set(changes) - {field.name for field in fields(NetworkSize)}:
        raise ValueError(f"--measured-network has no setting {min(unknown)}")
    size = build(NetworkSize, {**asdict(child), **changes}, what="--measured-network")
    meter = LatencyMeter(demands.image_size or size.image_size, options.latency_runtime, options.device or "cpu")
    candidates = SpaceCandidates(space, size, demands, meter, child)
    if not demands.limits and len(demands.objectives) == 1:
        return candidates, demands, None
    runtime = options.latency_runtime if demands.measures_latency else None
    # Studies of earlier releases do not record the device.
    device = meter.device if runtime in ("eager", "fused") and meter.device != "cpu" else None
    return candidates, demands, {**demands.to_dict(), "network": asdict(size), "runtime": runtime, "device": device}


def count_workers(options: argparse.Namespace) -> int | None:
    """Return how many workers to start; 0 for this process, None for as many as a cluster has room for."""
    if options.workers is not None:
        if options.ray and options.workers == 0:
            raise ValueError("--workers 0 is this process alone: leave --ray out")
        return int(options.workers)
    if options.ray:
        return None
    gpus = torch.cuda.device_count()
    share = options.gpus_per_worker or 1.0
    count = int(gpus / share + 1e-9)
    return count if count > 1 else 0


def make_workers(options: argparse.Namespace, config: ChildConfig) -> Workers:
    """Start the workers asked for and let them find out whether children can be trained.

    Raises:
        WorkersError, DataError, ValueError: if they cannot.
    """
    count, log = count_workers(options), partial(print, flush=True)
    workers: Workers
    if count == 0:
        workers = InProcess(ChildEvaluator(config, options.device, log))
    else:
        try:
            from nasnet_det.search.ray_workers import RayWorkers
        except ImportError as error:
            raise WorkersError(
                f"Ray is not installed ({error}): pip install 'nasnet-det[search]', or --workers 0"
            ) from None
        gpus = options.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if torch.cuda.device_count() or options.ray else 0.0
        evaluator = ChildEvaluator(config, options.device)
        workers = RayWorkers(evaluator, count, options.ray, gpus, options.cpus_per_worker, log)
    try:
        workers.check()
    except BaseException:
        workers.close()
        raise
    return workers


class ShowProgress:
    """Prints a line for every result of a child.

    Args:
        what: what a child is called.
        epochs: the epochs of a child that is trained to its end, where children are judged before; else None.
    """

    def __init__(self, what: str = "trial", epochs: int | None = None) -> None:
        self.what, self.epochs = what, epochs
        self._began = time.monotonic()
        self._first = 0

    def __call__(self, progress: Progress) -> None:
        if progress.result is None:
            self._first = progress.finished
            self._began = time.monotonic()
            if progress.finished:
                print(f"{progress.finished} of {progress.total} {self.what}s were done before", flush=True)
            return
        result = progress.result
        words = f"{result.reward:.4f}" if result.status in MEASURED else result.status
        if self.epochs:
            words += f"  epoch {len(result.accuracies):2}/{self.epochs}"
        best = ""
        if progress.best is not None:
            epochs = f" at epoch {progress.best.epochs}" if self.epochs else ""
            best = f"best {progress.best.reward:.4f}{epochs} ({self.what} {progress.best.number})"
        left = ""
        if done := progress.finished - self._first:
            seconds = (time.monotonic() - self._began) / done
            left = f"  {_duration(seconds * (progress.total - progress.finished))} left"
        note = f"  {shorten(result.message, 160, placeholder=' ...')}" if result.message else ""
        print(
            f"{self.what} {progress.number:5}  {words:>13}  {progress.finished}/{progress.total}  {best}  "
            f"{format_measure('params', result.num_params)} parameters, {result.seconds:.0f} s{left}{note}",
            flush=True,
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
