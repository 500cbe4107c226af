"""Programs, which are models with an example input, and their export as ONNX and by ``torch.export``."""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from nasnet_det.export.operators import onnx_translations
from nasnet_det.models.stem import least_side
from nasnet_det.safe_io.extras import refuse_outdated
from nasnet_det.safe_io.files import replacing

FORMATS = (".onnx", ".pt2")
#: The largest accepted difference from PyTorch's outputs, relative to the largest value.
TOLERANCE = 1e-3
#: The most elements of a constant that is computed when a program is exported.
_FOLDED = 1 << 22
#: The name of the description inside an exported file.
DESCRIPTION = "nasnet_det.json"
#: The least side of an example whose size stays free: the size of a map of one position, of stride 64 at most, would be
#: taken for a constant.
_LEAST_SIDE = 128
#: The sizes, by axis, of a smaller example on which outputs are compared where they stay free: on small maps runtimes
#: choose other algorithms (OpenVINO 2026.4 adds another map to a convolution of one channel wrongly there). Detectors
#: take sides so many times larger, to find something.
_SMALL, _TO_FIND = {0: 1, 2: 33, 3: 45}, 3


class ExportError(RuntimeError):
    """An exported file that is not readable, or whose outputs differ from the model's."""

    #: It is not a mistake of the user, for which commands return 2.
    exit_status = 1


@dataclass(frozen=True)
class Program:
    """A model to be exported and its description.

    Args:
        model: in evaluation mode; it maps one tensor to one tensor, or to several.
        example: an input; repeated where its size stays free and is small.
        outputs: the names of the outputs, in order.
        dynamic: the axes of the input whose size stays free; every other size is the example's.
        description: text and numbers stored in the file, for example how images are normalized.
        align: called with the model's and a runtime's outputs; returns the latter in the order of the former, where
            rounding may change it.
    """

    model: nn.Module
    example: Tensor
    outputs: Sequence[str]
    dynamic: Sequence[int] = ()
    description: dict[str, Any] = field(default_factory=dict)
    align: Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]] = lambda _, found: found

    def __post_init__(self) -> None:
        sizes = enumerate(self.example.shape)
        times = [math.ceil(_LEAST_SIDE / size) if axis in self.dynamic and axis > 1 else 1 for axis, size in sizes]
        object.__setattr__(self, "example", self.example.repeat(times))

    @property
    def is_detector(self) -> bool:
        """True for a program that maps images to detections."""
        return self.description.get("kind") == "detector"

    def described(self, **more: Any) -> str:
        """Return the description as JSON, with the outputs, the input's size (0 where it is free) and ``more``."""
        size = [0 if axis in self.dynamic else side for axis, side in enumerate(self.example.shape)]
        return json.dumps({**self.description, "outputs": list(self.outputs), "input_size": size, **more})

    def export(self) -> torch.export.ExportedProgram:
        """Trace the model with ``torch.export``."""
        free: dict[int, Any] = dict.fromkeys(self.dynamic, torch.export.Dim.AUTO)
        # A free axis of size 1 would be taken for a constant.
        example = torch.cat([self.example] * 2) if 0 in self.dynamic and len(self.example) == 1 else self.example
        with quiet(), torch.no_grad():
            return torch.export.export(self.model, (example,), dynamic_shapes=(free,))

    def differences(self, run: Callable[[Tensor], Any]) -> dict[str, float]:
        """Return each output's error on the example, and on a smaller one where its size stays free: the largest
        difference from PyTorch's, relative to the largest value.

        Args:
            run: the exported model.
        """
        small, times = self.example, _TO_FIND if self.is_detector else 1
        for axis in self.dynamic:
            size = small.shape[axis]
            kept = torch.linspace(0, size - 1, min(size, _SMALL[axis] * (times if axis else 1))).long()
            small = small.index_select(axis, kept)
        errors: list[list[Tensor]] = [[] for _ in self.outputs]
        with torch.no_grad():
            for images in (self.example,) if small.shape == self.example.shape else (self.example, small):
                expected = as_list(self.model(images))
                found = self.align(expected, as_list(run(images)))
                for own, output, wanted in zip(errors, found, expected, strict=True):
                    largest = wanted.double().abs().max().clamp(min=1e-30)
                    own.append((output.double() - wanted.double()).abs().max() / largest)
        return {name: float(torch.stack(own).max()) for name, own in zip(self.outputs, errors, strict=True)}


def classifier_program(
    model: nn.Module, size: tuple[int, int] | None = None, dynamic: bool | Sequence[int] = False, batch_size: int = 1
) -> Program:
    """Return the program of a timm model's logits.

    Args:
        model: made by ``timm.create_model``, of float32 on the CPU; what ``torch.compile``, DDP or timm's averages wrap
            around it is left out.
        size: height and width of images; the model's own if None.
        dynamic: leave the number and the size of images free, or only the given axes of ``(N, 3, H, W)``.
        batch_size: images of the example.

    Raises:
        ValueError: for a model of another package, data type or device.
    """
    model = unwrap_model(model)
    described = _describe(model)
    return Program(model.eval(), _example(model, size, batch_size), ["logits"], _axes(dynamic), described)


def feature_program(
    model: nn.Module, size: tuple[int, int] | None = None, dynamic: bool | Sequence[int] = False, batch_size: int = 1
) -> Program:
    """Return the program of a timm model made with ``features_only=True``; its maps are named by their stride, as
    ``stride_4``. See :func:`classifier_program` for the arguments."""
    model = unwrap_model(model)
    described = _describe(model)
    strides: Any = model.feature_info
    outputs = [f"stride_{stride}" for stride in strides.reduction()]
    return Program(model.eval(), _example(model, size, batch_size), outputs, _axes(dynamic), described)


def save_program(program: Program, path: str | Path) -> dict[str, float]:
    """Write a model as ONNX (``.onnx``) or as a ``torch.export`` program (``.pt2``), by the path's suffix.

    The file is read back and run on the example, ONNX in ONNX Runtime, before it replaces an existing file.

    Returns:
        how far each output is from PyTorch's: the largest difference, relative to the largest value.

    Raises:
        ValueError: for a path with another suffix.
        ModuleNotFoundError: if ONNX is wanted and ``onnxscript`` or ``onnxruntime`` is not installed.
        ExportError: if an output differs by more than :data:`TOLERANCE`; nothing is written then.
    """
    from nasnet_det.export.runtimes import load_package

    path = Path(path)
    check_format(path)
    with replacing(path) as part:
        (write_onnx if path.suffix == ".onnx" else write_torch_export)(program, part)
        return check(program, load_package(part), path)


def check_format(path: Path) -> None:
    """Refuse a path that :func:`save_program` would refuse.

    Raises:
        ValueError: for a path with another suffix than those of :data:`FORMATS`.
        ModuleNotFoundError: if ONNX is wanted and ``onnxscript`` or ``onnxruntime`` is not installed.
        OverwriteError: for a file that is not an exported model of this package, or is an input.
    """
    from nasnet_det.export.package_files import check_replaceable

    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: the path of an exported model must end in {' or '.join(FORMATS)}")
    for needed in ("onnxscript", "onnxruntime") if path.suffix == ".onnx" else ():
        imported(needed)
    check_replaceable(path)


def check(
    program: Program, run: Callable[[Tensor], Any], name: object, tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Return the differences of outputs from PyTorch's.

    Args:
        run: the exported model.
        name: what an error calls the exported model.

    Raises:
        ExportError: if one exceeds ``tolerance``.
    """
    errors = program.differences(run)
    wrong = {output: error for output, error in errors.items() if not error <= tolerance}
    if wrong:
        raise ExportError(f"{name}: the exported model's outputs differ from PyTorch's by {wrong}")
    return errors


def write_onnx(program: Program, path: Path, **more: Any) -> None:
    """Write a program as ONNX, its description with ``more`` in the metadata."""
    imported("onnxscript")  # or the error that says how to install it
    exported = program.export()
    with quiet(), torch.no_grad():  # scanning over chunks of proposals is traced without its backward pass
        written: Any = torch.onnx.export(
            exported,
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=list(program.outputs),
            custom_translation_table=onnx_translations(),
            optimize=False,
        )
    _simplify(written.model)
    written.model.metadata_props[DESCRIPTION] = program.described(**more)
    written.save(path)


def _simplify(model: Any) -> None:
    """Do what ``onnxscript.optimizer.optimize`` does, but with few of its rules that rewrite nodes.

    One of the others compares all pairs of nodes, which takes minutes for a detector; runtimes have such rules too.
    """
    optimizer, rewriter = imported("onnxscript.optimizer"), imported("onnxscript.rewriter")
    rules, passes = imported("onnxscript.rewriter.rules.common"), imported("onnx_ir.passes.common")
    optimizer.inline(model)
    # Larger constants than by default: what is left of an average pool's divisor, a pool of a constant, OpenVINO does
    # not compile in bfloat16.
    optimizer.fold_constants(model, onnx_shape_inference=True, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    # ONNX Runtime's quantization gives copies of equal biases, such as zeros, names that others may have.
    biases = [rules.remove_optional_bias_from_conv_rule, rules.remove_optional_bias_from_gemm_rule]
    rewriter.rewrite(model, [rules.fuse_batchnorm_into_conv_rule, *biases])
    for simplify in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        simplify(model)


def write_torch_export(program: Program, path: Path) -> None:
    """Write a program with ``torch.export.save``, its description as an extra file."""
    buffer = io.BytesIO()
    torch.export.save(program.export(), buffer, extra_files={DESCRIPTION: program.described()})
    path.write_bytes(buffer.getbuffer())


def imported(name: str) -> Any:
    """Import a module of the extras ``export`` and ``openvino``."""
    refuse_outdated(name)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        extras = "export,openvino" if name == "openvino" else "export"
        missing = error.name or name  # perhaps what it needs itself
        raise ModuleNotFoundError(
            f"{missing} is not installed: pip install 'nasnet-det[{extras}]'", name=error.name
        ) from error


def as_list(outputs: Any) -> list[Tensor]:
    """Return a model's outputs as a list, also those of timm's features by index."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return list(outputs.values() if isinstance(outputs, dict) else outputs)


def _axes(dynamic: bool | Sequence[int]) -> tuple[int, ...]:
    if isinstance(dynamic, bool):
        return (0, 2, 3) if dynamic else ()
    return tuple(dynamic)


def _example(model: Any, size: tuple[int, int] | None, batch_size: int) -> Tensor:
    channels, *own = _data_config(model)["input_size"]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, channels, *(size or own), generator=generator)


def _data_config(model: Any) -> dict[str, Any]:
    """Return timm's configuration of a model for the channels that it was built with, as timm's loaders adapt it."""
    cfg = dict(model.pretrained_cfg)
    channels = getattr(getattr(model, "model", model), "in_chans", cfg["input_size"][0])
    for key in ("mean", "std"):
        if len(cfg[key]) != channels:
            cfg[key] = (sum(cfg[key]) / len(cfg[key]),) * channels
    return {**cfg, "input_size": (channels, *cfg["input_size"][1:])}


def _describe(model: Any) -> dict[str, Any]:
    network = getattr(model, "model", model)
    if not hasattr(network, "genotype"):
        name = getattr(network, "pretrained_cfg", {}).get("architecture", type(network).__name__)
        raise ValueError(f"{name} has no cell: only NASNets are exported here, as timm.create_model makes them")
    kinds = {f"{weight.dtype} on {weight.device.type}" for weight in network.parameters()}
    if kinds != {"torch.float32 on cpu"}:
        raise ValueError(f"a model is exported as model.float().cpu(), got {', '.join(sorted(kinds))}")
    cfg = _data_config(model)
    labels = cfg.get("label_names") or ()
    keys = ("mean", "std", "interpolation", "crop_pct")
    return {
        "kind": "classifier" if model is network else "features",
        "model": cfg["architecture"],
        "genotype": network.genotype.to_dict(),
        "num_classes": network.num_classes,
        **({"label_names": list(labels)} if len(labels) == network.num_classes else {}),
        "image_size": list(cfg["input_size"]),
        "least_side": least_side(network),
        **{key: cfg[key] for key in keys if key in cfg},
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' own logging and warnings."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch.utils.cpp_extension")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
