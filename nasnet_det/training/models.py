"""Selection of the network to train, and saving it as a timm ``local-dir`` model.

Such a model is a folder with ``config.json`` and ``model.safetensors``. ``timm.create_model("local-dir:FOLDER",
pretrained=True)`` builds it from the folder alone, including a genotype that no published name has.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import nn

import nasnet_det.timm_models  # noqa: F401 - registers the family
from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.models.family import FAMILY
from nasnet_det.models.plan import Stem
from nasnet_det.models.presets import PRESETS, stem_channels
from nasnet_det.safe_io.values import first_line, format_value, one_line, parse_json, reason
from nasnet_det.training.execution import excess_of

LOCAL = "local-dir:"
_AUXILIARY = "aux_head."


class ModelError(ValueError):
    """A network that does not exist or that fails to build, load or save."""


@dataclass(frozen=True)
class ModelChoice:
    """A timm architecture and its arguments, all plain values.

    Args:
        architecture: a name registered with timm.
        arguments: the arguments of its entry point.
        folder: the ``local-dir`` model it was read from, which has the initial weights.
    """

    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    folder: str | None = None

    @classmethod
    def named(cls, name: str, **arguments: Any) -> ModelChoice:
        """Select a registered model, or ``local-dir:FOLDER``.

        Raises:
            ModelError: if the model does not exist.
        """
        if name.startswith(LOCAL):
            config = read_config(Path(name.removeprefix(LOCAL)))
            saved = {**config["model_args"], "num_classes": config.get("num_classes", 1000)}
            return cls(config["architecture"], {**saved, **arguments}, name.removeprefix(LOCAL))
        if not timm.is_model(name):
            raise ModelError(f"no model {name!r} is registered with timm; timm.list_models('*nasnet*') lists NASNets")
        return cls(name, arguments)

    @classmethod
    def of_genotype(cls, genotype: Genotype, num_cells: int, num_filters: int, stem: Stem, **more: Any) -> ModelChoice:
        """Select a network of any genotype, with TF-slim's settings for its stem: those of ``cifar_config`` or
        ``mobile_imagenet_config``."""
        arguments = {
            "genotype": genotype.to_dict(),
            "num_cells": num_cells,
            "num_filters": num_filters,
            "stem": stem,
            "stem_channels": stem_channels(stem, num_filters),
            **PRESETS[stem].norm_arguments(),
        }
        return cls("nasnet", {**arguments, **more})

    def build(self, **arguments: Any) -> nn.Module:
        """Build the network, randomly initialized.

        Raises:
            ModelError: if the architecture refuses its arguments.
        """
        given = {**self.arguments, **arguments}
        try:
            return timm.create_model(self.architecture, **given)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"{format_value(self.architecture)[1:-1]}: invalid arguments ({one_line(error)})"
            ) from None

    def build_for_training(
        self, num_classes: int, image_size: int, drop_rate: float, drop_path_rate: float, auxiliary: bool
    ) -> nn.Module:
        """Build the network for training. Only networks of this project have ScheduledDropPath and, if ``auxiliary``,
        the auxiliary head."""
        arguments: dict[str, Any] = {"num_classes": num_classes, "drop_rate": drop_rate}
        if self.is_ours:
            arguments |= {"drop_path_rate": drop_path_rate, "aux_head": auxiliary, "img_size": image_size}
        return self.build(**arguments)

    def count_parameters(self, num_classes: int, device: torch.device, copies: int = 1) -> int:
        """Return the number of parameters; the network is built without memory for them.

        Args:
            num_classes: the number of classes.
            device: where the network is to be.
            copies: how many numbers it keeps there for each parameter, 4 bytes each.

        Raises:
            ModelError: if they do not fit into the device's memory.
        """
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in self.build(num_classes=num_classes).parameters())
        if excess := excess_of(count, device, copies):
            raise ModelError(f"{self.architecture} has {excess}")
        return count

    def data_config(self) -> dict[str, Any]:
        """Return timm's description of the model's input: the saved model's, or the registered one's."""
        if self.folder is not None:
            return read_config(Path(self.folder))["pretrained_cfg"]
        config = timm.get_pretrained_cfg(self.architecture)
        return config.to_dict() if config is not None else {}

    def input_config(self, image_size: int) -> dict[str, Any]:
        """Return timm's description of the input of a new network of this project: standardized with CIFAR-10's
        statistics for a CIFAR stem, else scaled to [-1, 1]."""
        stem: Stem = "cifar" if self.arguments.get("stem") == "cifar" else "imagenet"
        return {"input_size": (3, image_size, image_size), **PRESETS[stem].data_config()}

    @property
    def is_ours(self) -> bool:
        """True for a network of this project."""
        return self.architecture == "nasnet" or self.architecture in FAMILY

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"architecture": self.architecture, "arguments": dict(self.arguments)}


def zero_classifiers(network: Any) -> None:
    """Set the weights of a timm network's classifier, and of its auxiliary head's if it has one, to zero."""
    auxiliary = getattr(network, "aux_head", None)
    for classifier in (network.get_classifier(), None if auxiliary is None else auxiliary.fc):
        for parameter in [] if classifier is None else classifier.parameters():
            nn.init.zeros_(parameter)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a ``local-dir`` model.

    Raises:
        ModelError: if the file is missing, unreadable or without an architecture.
    """
    path = folder / "config.json"
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; expected a saved timm model") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not readable ({reason(error)})") from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise ModelError(f"{path} has no architecture; expected a saved timm model")
    for key in ("model_args", "pretrained_cfg"):
        if not isinstance(config.setdefault(key, {}), dict):
            raise ModelError(f"{path}: {key} must be a mapping, got {format_value(config[key])}")
    return config


def save_local_dir(
    choice: ModelChoice,
    weights: Mapping[str, torch.Tensor],
    folder: Path,
    num_classes: int,
    data_config: Mapping[str, Any],
    label_names: Sequence[str] = (),
) -> None:
    """Save a ``local-dir`` model, without the auxiliary head, which only training uses.

    Args:
        choice: the network.
        weights: the trained network's state dict.
        folder: the target folder. A model in it is replaced once the new one is complete.
        num_classes: the number of classes.
        data_config: timm's description of the input: ``input_size``, ``mean``, ``std``, ``interpolation``,
            ``crop_pct``.
        label_names: the names of the classes in the order of their labels; not stored if empty.

    Raises:
        OSError: if the folder is not writable or the disk is full.
    """
    network = choice.build(num_classes=num_classes)
    network.load_state_dict({k: v.cpu() for k, v in weights.items() if not k.startswith(_AUXILIARY)})
    described = {"architecture": choice.architecture, **{k: v for k, v in data_config.items() if v is not None}}
    labels = {"label_names": list(label_names)} if label_names else {}
    arguments = {**choice.arguments, "num_classes": num_classes}
    write_timm_folder(network, folder, arguments, {"pretrained_cfg": described, **labels})


def write_timm_folder(
    network: nn.Module,
    folder: Path,
    arguments: Mapping[str, Any],
    config: dict[str, Any] | None = None,
    add: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a network as a folder for ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

    Args:
        network: the network, with timm's ``pretrained_cfg``.
        folder: the target; its files are replaced once all new ones are complete.
        arguments: the arguments of ``timm.create_model`` that build the network.
        config: further entries of ``config.json``.
        add: called with a folder to write further files into.

    Raises:
        OSError: if the folder is not writable or the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        try:
            save_for_hf(network, scratch, model_config=config, model_args=dict(arguments), safe_serialization=True)
        except SafetensorError as error:  # safetensors' error for a full disk
            raise OSError(f"{folder}: writing the model failed ({error})") from None
        _name_classes_once(Path(scratch) / "config.json")
        with suppress(OSError):  # safetensors writes a file that only its owner reads
            Path(scratch, "model.safetensors").chmod(Path(scratch, "config.json").stat().st_mode)
        add(Path(scratch))
        folder.mkdir(exist_ok=True)
        for file in sorted(Path(scratch).iterdir(), reverse=True):  # the weights before the config that describes them
            file.replace(folder / file.name)


def _name_classes_once(path: Path) -> None:
    """Remove the number of classes from the arguments in timm's config, which has it beside them, too.

    transformers' ``TimmWrapperForImageClassification`` would pass it twice.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_args"].pop("num_classes", None)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def load_weights(network: nn.Module, name: str) -> None:
    """Load the pretrained weights of a timm model, or of a ``local-dir`` one, into a network to train.

    The classifiers of another number of classes are new ones. In a network of this project their weights are zero:
    TF-slim's are so large for a few classes that the loss would begin far above that of guessing (18.8 for ten, where
    guessing has 2.3).

    Raises:
        ModelError: if the weights are not available, or belong to another network.
    """
    choice = ModelChoice.named(name)
    try:
        source: Any = timm.create_model(name, pretrained=True, num_classes=network.num_classes)
        missing, unexpected = network.load_state_dict(source.state_dict(), strict=False)
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError(f"loading the weights of {name} failed: {first_line(error)}") from None
    if unexpected or any(not key.startswith(_AUXILIARY) for key in missing):
        raise ModelError(f"the weights of {name} have other tensors than {choice.architecture} in training")
    if choice.is_ours and source.pretrained_cfg["num_classes"] != network.num_classes:
        zero_classifiers(network)
