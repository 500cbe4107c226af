"""Models as files that run without their code: ONNX, and ``torch.export`` packages."""

from __future__ import annotations

import io
import json
import logging
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasnet_det.export.operators import onnx_translations
from nasnet_det.safe_io.files import replacing
from nasnet_det.safe_io.values import first_line, parse_json

FORMATS = (".onnx", ".pt2")
#: Further than this from PyTorch's, relative to the largest value, an output counts as another one.
TOLERANCE = 1e-3
_DESCRIPTION = "nasnet_det.json"
#: Of a description, in bytes.
_LONGEST = 16 << 20
#: What reading a damaged package raises.
_MALFORMED = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
)


class ExportError(RuntimeError):
    """An exported file that does not give what the model gives, or cannot be read."""

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
        ModuleNotFoundError: if ONNX is wanted and ``onnxscript`` or ``onnxruntime`` is not installed.
        ExportError: if an output differs by more than :data:`TOLERANCE`; nothing is then written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: an exported model's path ends in {' or '.join(FORMATS)}")
    if path.suffix == ".onnx":
        for needed in ("onnxscript", "onnxruntime"):
            _imported(needed)  # what is missing is told before the work
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
    """A ``torch.export`` package as a module that runs. Detectors' need this package's operators: import it first.

    A package is a program: **load only what you or someone you trust has made.** Pickles in it, which PyTorch
    would run, are refused.

    Raises:
        ExportError: if it is none, or damaged.
    """
    _refuse_pickles(Path(path))
    try:
        with _quiet():
            return torch.export.load(Path(path)).module()
    except Exception as error:  # what PyTorch makes of a damaged one has no bounds
        raise _unreadable(path, error) from None


def description(path: str | Path) -> dict[str, Any]:
    """What was written beside an exported model.

    Raises:
        ExportError: if it cannot be read.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        onnx = _imported("onnx")
        try:
            entries = onnx.load(path, load_external_data=False).metadata_props
        except Exception as error:  # protobuf's and the system's
            raise _unreadable(path, error) from None
        text = next((entry.value for entry in entries if entry.key == _DESCRIPTION), "{}")
    else:
        with _opened(path) as archive:
            text = _member(archive, f"/extra/{_DESCRIPTION}").decode("utf-8", "replace")
    try:
        found = parse_json(text)
    except ValueError as error:
        raise _unreadable(path, error) from None
    if not isinstance(found, dict):
        raise ExportError(f"{path}: what stands beside the program is no description")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A package's archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _MALFORMED as error:
        raise _unreadable(path, error) from None


def _member(archive: zipfile.ZipFile, ending: str) -> bytes:
    """The one member whose path ends so."""
    names = [name for name in archive.namelist() if name.endswith(ending)]
    if len(names) != 1 or archive.getinfo(names[0]).file_size > _LONGEST:
        raise ValueError(f"it has no {ending}, or several, or a very long one")
    return archive.read(names[0])


def _refuse_pickles(path: Path) -> None:
    """Refuse a package with anything that PyTorch would unpickle freely: its own has tensors and nothing else so."""
    with _opened(path) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if name.endswith("_config.json"):
                payloads = parse_json(archive.read(name).decode())["config"].values()
                if any(payload["use_pickle"] for payload in payloads):
                    raise ValueError(f"{name} asks for pickles, which are not read")
            elif name.endswith(".pt"):
                torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
            elif parts[-1].startswith(("custom_obj_", "opaque_obj_")) or (parts[-1] == "version" and len(parts) == 1):
                raise ValueError(f"{name} is an object of its own or of an old form, which is not read")


def _imported(name: str) -> Any:
    """A module of the extra ``export``."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"ONNX needs {name}: pip install 'nasnet-det[export]'", name=error.name) from error


def _unreadable(path: str | Path, error: Exception) -> ExportError:
    reason = first_line(error)
    return ExportError(f"{path} cannot be read as an exported model ({type(error).__name__}: {reason})")


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
    onnxruntime = _imported("onnxruntime")
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
