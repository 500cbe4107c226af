"""Models as files that run without their code: ONNX, and ``torch.export`` packages."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasnet_det.export.operators import onnx_translations
from nasnet_det.files import replacing

FORMATS = (".onnx", ".pt2")
#: Further than this from PyTorch's, relative to the largest value, an output counts as another one.
TOLERANCE = 1e-3
_DESCRIPTION = "nasnet_det.json"


class ExportError(RuntimeError):
    """An exported file that does not give what the model gives."""

    #: It is no mistake of the user's, for whom 2 stands.
    exit_status = 1


@dataclass(frozen=True)
class Program:
    """A model and what is said of it.

    Args:
        model: in evaluation; it maps one tensor to one tensor, or to several.
        example: an input.
        outputs: the names of its outputs, in order.
        dynamic: the axes of the input whose size stays free; every other size is the example's.
        description: what goes into the file beside it, as text or numbers: how images are normalized, for one.
    """

    model: nn.Module
    example: Tensor
    outputs: Sequence[str]
    dynamic: Sequence[int] = ()
    description: dict[str, Any] = field(default_factory=dict)


def classifier_program(model: nn.Module, size: tuple[int, int] | None = None, dynamic: bool = False) -> Program:
    """A timm model's logits.

    Args:
        model: made by ``timm.create_model``.
        size: height and width of images; the model's own if None.
        dynamic: leave the number and the size of images free.
    """
    return Program(model.eval(), _example(model, size), ["logits"], (0, 2, 3) if dynamic else (), _describe(model))


def feature_program(model: nn.Module, size: tuple[int, int] | None = None, dynamic: bool = False) -> Program:
    """The maps of a timm model made with ``features_only=True``, named by their stride: ``stride_4`` and so on."""
    strides: Any = model.feature_info
    outputs = [f"stride_{stride}" for stride in strides.reduction()]
    return Program(model.eval(), _example(model, size), outputs, (0, 2, 3) if dynamic else (), _describe(model))


def save_program(program: Program, path: str | Path) -> dict[str, float]:
    """Write a model as ONNX (``.onnx``) or as a ``torch.export`` package (``.pt2``), by the path's ending.

    The file is read back and run on the example, ONNX in onnxruntime, before it takes its place.

    Returns:
        how far each output is from PyTorch's: the largest difference, relative to the largest value.

    Raises:
        ValueError: for a path of another ending.
        ImportError: if ONNX is wanted and ``onnx``, ``onnxscript`` or ``onnxruntime`` is not installed.
        ExportError: if an output differs by more than :data:`TOLERANCE`; nothing is then written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: an exported model's path ends in {' or '.join(FORMATS)}")
    if path.suffix == ".onnx":
        for needed in ("onnxscript", "onnxruntime"):
            import_module(needed)  # what is missing is told before the work
    save, run = (_save_onnx, _run_onnx) if path.suffix == ".onnx" else (_save_package, _run_package)
    with _quiet(), torch.no_grad(), replacing(path) as part:
        free: dict[int, Any] = dict.fromkeys(program.dynamic, torch.export.Dim.AUTO)
        # Free axes must not be 1 long in the example, which PyTorch would take for a constant.
        traced = torch.cat([program.example] * 2) if 0 in program.dynamic else program.example
        exported = torch.export.export(program.model, (traced,), dynamic_shapes=(free,))
        save(exported, program, part)
        errors = _differences(program, run(part, program.example))
        wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE}
        if wrong:
            raise ExportError(f"{path}: what was exported gives other outputs than PyTorch, off by {wrong}")
    return errors


def load_package(path: str | Path) -> nn.Module:
    """A ``torch.export`` package as a module that runs. Detectors' need this package's operators: import it first."""
    return torch.export.load(Path(path)).module()


def description(path: str | Path) -> dict[str, Any]:
    """What was written beside an exported model.

    Raises:
        OSError: if the file cannot be read.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        import onnx

        entries = onnx.load(path, load_external_data=False).metadata_props
        return next((json.loads(entry.value) for entry in entries if entry.key == _DESCRIPTION), {})
    extra = {_DESCRIPTION: ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra[_DESCRIPTION])


def _save_onnx(exported: Any, program: Program, path: Path) -> None:
    written: Any = torch.onnx.export(
        exported,
        dynamo=True,
        verbose=False,
        input_names=["image"],
        output_names=list(program.outputs),
        custom_translation_table=onnx_translations(),
    )
    written.model.metadata_props[_DESCRIPTION] = _described(program)
    written.save(path)


def _described(program: Program) -> str:
    return json.dumps({**program.description, "outputs": list(program.outputs)})


def _run_onnx(path: Path, example: Tensor) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [torch.as_tensor(output) for output in session.run(None, {"image": example.numpy()})]


def _save_package(exported: Any, program: Program, path: Path) -> None:
    buffer = io.BytesIO()
    torch.export.save(exported, buffer, extra_files={_DESCRIPTION: _described(program)})
    path.write_bytes(buffer.getbuffer())


def _run_package(path: Path, example: Tensor) -> list[Tensor]:
    return _as_list(load_package(path)(example))


def _differences(program: Program, found: Sequence[Tensor]) -> dict[str, float]:
    errors = {}
    for name, output, expected in zip(program.outputs, found, _as_list(program.model(program.example)), strict=True):
        largest = expected.double().abs().max().clamp(min=1e-30)
        errors[name] = float((output.double() - expected.double()).abs().max() / largest)
    return errors


def _as_list(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _example(model: Any, size: tuple[int, int] | None) -> Tensor:
    channels, *own = model.pretrained_cfg["input_size"]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, *(size or own), generator=generator)


def _describe(model: Any) -> dict[str, Any]:
    cfg = model.pretrained_cfg
    network = getattr(model, "model", model)
    keys = ("mean", "std", "interpolation")
    return {
        "model": cfg["architecture"],
        "genotype": network.genotype.to_dict(),
        "num_classes": network.num_classes,
        **{key: cfg[key] for key in keys},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' talk about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
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
