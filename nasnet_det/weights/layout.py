"""Conversion of named arrays to a state dict: a published format is a rule that names the layers of a network.

:func:`published_units` walks a network by its plan and genotype; a :class:`Format` gives the names of its layers and
tensors in the files; :func:`to_state_dict` looks each of them up, permutes its axes, and raises an error for missing,
left-over or misshapen tensors. No names are listed by hand, so the same rule reads any depth, width and number of
classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.models.network import NASNet
from nasnet_det.models.operations import ConvNorm, FactorizedReduction, SeparableConvNorm
from nasnet_det.models.plan import CellPlan, Stem, plan_cells
from nasnet_det.safe_io.values import format_names

Arrays = Mapping[str, Any]
NOTHING = r"(?!)"  # a pattern without matches
AUXILIARY = "aux_head."


class WeightsError(ValueError):
    """Unreadable weights, or weights of another network; the message names the tensor, the reason and the remedy."""


@contextmanager
def naming(source: Any) -> Iterator[None]:
    """Begin the errors of weights within the block with the source that the user named."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None


@dataclass(frozen=True)
class Unit:
    """A module with one name in published files: convolutions with their normalization, or a linear layer.

    Args:
        path: its name in the network.
        module: the module.
        role: ``stem``, ``current``, ``previous`` (projections of a cell's inputs), ``block``, ``concat``, ``auxiliary``
            or ``classifier``; ``other`` for modules that no published network has.
        cell: the cell that it is part of.
        number: its block's number, the concatenated state's number, or the normal cell below the auxiliary head.
        side: ``left`` or ``right`` in a block.
        step: the number of preceding units in the same operation.
        index: the number of preceding normal cells in the cell's stage.
    """

    path: str
    module: nn.Module
    role: str
    cell: CellPlan | None = None
    number: int = 0
    side: str = ""
    step: int = 0
    index: int = 0


@dataclass(frozen=True)
class Format:
    """The naming rule of one kind of published file.

    Args:
        title: its name in messages.
        marks: tensors that identify the format: its files have one of them.
        layer: maps a unit and the name of a layer inside it (``conv``, ``depthwise``, ``bn``, ...) to the name of that
            layer in the file; None if the format has no such layer.
        tensor: maps the kind of a layer (``conv``, ``depthwise``, ``pointwise``, ``norm``, ``linear``), its name in the
            file and the parameter's name in PyTorch to the tensor's name in the file.
        channels_last: whether weights have TensorFlow's axes: height, width, in, out.
        has_background: whether files may have one class more than the network: the background, first.
        of_cell: maps a cell and its index in its stage to a pattern of its tensors' names, so that the cells missing
            from a network can be skipped.
        ignored: a pattern of the names of tensors that are never read.
        auxiliary: a pattern of the auxiliary head's tensors, not read by a network without one.
        genotype: the only genotype whose layers have names in the format; None for any.
        prepare: selects and renames the file's tensors.
        units: lists the parts of a network that have names in the format.
    """

    title: str
    marks: tuple[str, ...]
    layer: Callable[[Unit, str], str | None]
    tensor: Callable[[str, str, str], str]
    channels_last: bool
    has_background: bool
    of_cell: Callable[[CellPlan, int], str]
    ignored: str = NOTHING
    auxiliary: str = NOTHING
    genotype: Genotype | None = None
    prepare: Callable[[Arrays], Arrays] = lambda arrays: arrays
    units: Callable[[NASNet], Iterator[Unit]] = lambda model: published_units(model)

    def classifier_tensor(self, parameter: str) -> str:
        """Return the name in the file of the classifier's ``weight`` or ``bias``."""
        unit = Unit("fc", nn.Linear(1, 1), "classifier")
        return self.tensor("linear", self.layer(unit, "") or "", parameter)

    def num_classes(self, arrays: Arrays) -> int:
        """Return the number of classes of a file's classifier, background included; 0 without a classifier."""
        return len(self.prepare(arrays).get(self.classifier_tensor("bias"), ()))

    def accepts_classes(self, classes: int, wanted: int) -> bool:
        """Return whether a network with ``wanted`` classes can read a classifier of ``classes``."""
        return classes in ((wanted, wanted + 1) if self.has_background else (wanted,))


@dataclass(frozen=True)
class _Target:
    """A tensor of the network and its name and axes in a file."""

    name: str
    source: str
    axes: tuple[int, ...] | None
    shape: tuple[int, ...]
    classes: bool

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The expected shape of the file's tensor."""
        if self.axes is None:
            return self.shape
        return tuple(self.shape[self.axes.index(axis)] for axis in range(len(self.shape)))

    def as_stored(self, shape: tuple[int, ...], fmt: Format) -> _Target:
        """Return a copy with the file's number of classes or image channels, if its shape depends on them."""
        if len(shape) != len(self.shape):
            return self
        stored = shape if self.axes is None else tuple(shape[axis] for axis in self.axes)
        if self.classes and not fmt.accepts_classes(stored[0], self.shape[0]):
            return replace(self, shape=(stored[0], *self.shape[1:]))
        if self.name == "stem.conv.weight":
            return replace(self, shape=(self.shape[0], stored[1], *self.shape[2:]))
        return self


#: The tensors whose first axis has one entry for each class.
_CLASSES = ("fc.weight", "fc.bias", "aux_head.fc.weight", "aux_head.fc.bias")

#: The file's axes in the network's order, for each kind of layer with channels last.
_AXES: dict[str, tuple[int, ...]] = {
    "conv": (3, 2, 0, 1),
    "pointwise": (3, 2, 0, 1),
    "depthwise": (2, 3, 0, 1),
    "linear": (1, 0),
}


def published_units(model: NASNet) -> Iterator[Unit]:
    """Yield the units of a network from bottom to top, the auxiliary head's and the classifier's last."""
    yield Unit("stem", model.stem, "stem")
    for plan in model.plan:
        yield from _cell_units(f"cells.{plan.name}", model.cells[plan.name], plan, _index(plan, model.stages))
    if model.aux_head is not None:
        below = sum(not plan.reduces for plan in model.plan[: model.cut()]) - 1
        yield Unit("aux_head", model.aux_head, "auxiliary", number=below)
    if isinstance(model.fc, nn.Linear):
        yield Unit("fc", model.fc, "classifier")


def is_imagenet_stem(stem: nn.Module) -> bool:
    """Return whether a stem's convolution has stride 2, as in the ImageNet networks."""
    return stem.get_submodule("conv").stride == (2, 2)


def to_state_dict(model: NASNet, arrays: Arrays, fmt: Format, as_stored: bool = False) -> dict[str, Tensor]:
    """Return the state dict of ``model`` from a file's tensors.

    The file's classifier must have the network's number of classes, or one more in formats with a background class,
    whose row 0 is then left out. A network without classifier (``num_classes=0``), without auxiliary head or with
    pruned cells reads the tensors of the parts that it has.

    Args:
        model: the network; its values are not used, so it may be on the meta device.
        arrays: the file's tensors by name, numpy arrays (or anything ``numpy.asarray`` takes).
        fmt: the file's format.
        as_stored: keep the file's number of classes and image channels, and accept a missing auxiliary head; the caller
            adapts these tensors.

    Raises:
        WeightsError: if a tensor is missing, left over, of another shape, or not finite.
    """
    if fmt.genotype is not None and model.genotype.cells != fmt.genotype.cells:
        raise WeightsError(
            f"a {fmt.title} contains the cells of {fmt.genotype.name}, but this network has those of "
            f"{model.genotype.name or 'another genotype'}"
        )
    arrays = fmt.prepare(arrays)
    auxiliary = model.aux_head is not None and not (as_stored and _lacks_auxiliary(arrays, fmt))
    targets = list(_targets(model, fmt, auxiliary))
    _check_names(model, arrays, fmt, targets, auxiliary)
    if as_stored:
        targets = [target.as_stored(np.shape(arrays[target.source]), fmt) for target in targets]
    state = {target.name: _read(arrays[target.source], target, fmt) for target in targets}
    for name, value in model.state_dict().items():
        if name.startswith(AUXILIARY) and not auxiliary:
            continue
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros((), dtype=torch.long)
        elif name not in state:
            raise WeightsError(f"a {fmt.title} has no tensor for {name}, whose shape is {tuple(value.shape)}")
    return state


def read_tensor(arrays: Arrays, source: str, name: str, like: Tensor, kind: str, fmt: Format) -> Tensor:
    """Return one tensor of a layer outside the network of cells.

    Args:
        arrays: the file's tensors by name.
        source: its name in the file.
        name: its name in the model, for messages.
        like: the model's tensor, for its shape.
        kind: the kind of layer, see :class:`Format`; empty for tensors stored with the model's own axes.
        fmt: the file's format.

    Raises:
        WeightsError: if it is missing, of another shape or type, or not finite.
    """
    if source not in arrays:
        raise WeightsError(f"this {fmt.title} lacks {source}, from which {name} is read: the file is incomplete")
    axes = _AXES.get(kind) if fmt.channels_last else None
    return _read(arrays[source], _Target(name, source, axes, tuple(like.shape), classes=False), fmt)


def _cell_units(path: str, cell: Any, plan: CellPlan, index: int) -> Iterator[Unit]:
    for i, projection in enumerate(cell.preprocess):
        if any(True for _ in projection.parameters()):
            role = "other" if cell.passes_all else ("current", "previous")[i]
            yield Unit(f"{path}.preprocess.{i}", projection, role, plan, i, index=index)
    for number, block in enumerate(cell.blocks):
        for side in ("left", "right"):
            operation = getattr(block, side)
            found = [(n, m) for n, m in operation.named_modules() if isinstance(m, (ConvNorm, SeparableConvNorm))]
            for step, (name, module) in enumerate(found):
                inner = f"{path}.blocks.{number}.{side}" + (f".{name}" if name else "")
                yield Unit(inner, module, "block", plan, number, side, step, index)
        yield Unit(f"{path}.blocks.{number}.combine", block.combine, "other", plan, number, index=index)
    for state, projection in cell.concat_proj.items():
        if isinstance(projection, (ConvNorm, FactorizedReduction)):
            yield Unit(f"{path}.concat_proj.{state}", projection, "concat", plan, int(state), index=index)


def _index(plan: CellPlan, stages: Sequence[int]) -> int:
    """Return the number of normal cells before a normal cell in its stage; 0 for a reduction."""
    return 0 if plan.reduces else int(plan.name.removeprefix("cell_")) - sum(stages[: plan.stage])


def _targets(model: NASNet, fmt: Format, auxiliary: bool) -> Iterator[_Target]:
    for unit in fmt.units(model):
        for leaf, module in unit.module.named_modules():
            for parameter, value in _own_tensors(module):
                name = ".".join(part for part in (unit.path, leaf, parameter) if part)
                if name.startswith(AUXILIARY) and not auxiliary:
                    continue
                layer = fmt.layer(unit, leaf)
                if layer is None:
                    raise WeightsError(
                        f"a {fmt.title} has no layer for {name} of this network, whose kind it does not store"
                    )
                kind = _kind(leaf, module)
                axes = _AXES.get(kind) if fmt.channels_last and parameter == "weight" else None
                source = fmt.tensor(kind, layer, parameter)
                yield _Target(name, source, axes, tuple(value.shape), name in _CLASSES)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the stored tensors of a module itself, without its children's and without the counter of batches."""
    for name, value in module.state_dict().items():
        if "." not in name and name != "num_batches_tracked":
            yield name, value


def _kind(leaf: str, module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return leaf if leaf in ("depthwise", "pointwise") else "conv"
    return "norm"


def _check_names(model: NASNet, arrays: Arrays, fmt: Format, targets: Sequence[_Target], auxiliary: bool) -> None:
    """Check that the file has every tensor of the network, and no other that is not deliberately skipped."""
    wanted = {target.source for target in targets}
    missing = [target for target in targets if target.source not in arrays]
    skipped = [re.compile(pattern) for pattern in _skipped(model, fmt, auxiliary)]
    left_over = [n for n in arrays if n not in wanted and not any(pattern.search(n) for pattern in skipped)]
    if missing:
        raise WeightsError(
            f"this {fmt.title} lacks {missing[0].source}{_more(missing)}, from which {missing[0].name} is read"
            f"{_instead(left_over)}; {_describe(model)}: name the network that the weights belong to; if it is "
            "this one, the file is incomplete"
        )
    if left_over:
        raise WeightsError(
            f"this {fmt.title} contains {format_names(left_over[:1])}{_more(left_over)}, which this network does not "
            f"have; {_describe(model)}: name the network that the weights belong to"
        )


def _read(value: Any, target: _Target, fmt: Format) -> Tensor:
    array = np.asarray(value)
    shape = target.source_shape
    where = f"{target.source} in this {fmt.title}"
    if target.classes and array.ndim == len(shape) and array.shape != shape:
        array = _without_background(array, target, fmt)
    if array.shape != shape:
        raise WeightsError(
            f"{where} has the shape {array.shape}, but {target.name} of this network needs {shape}: the weights belong "
            "to a network of another width, depth or number of channels"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise WeightsError(f"{where} contains {array.dtype} values, expected floating-point ones")
    if not np.isfinite(array).all():
        raise WeightsError(f"{where} contains values that are not finite: the file is damaged")
    if target.axes is not None:
        array = array.transpose(target.axes)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _without_background(array: np.ndarray, target: _Target, fmt: Format) -> np.ndarray:
    """Remove the background's row; raise an error for any other number of classes."""
    axis = array.ndim - 1 if fmt.channels_last else 0
    classes, wanted = array.shape[axis], target.source_shape[axis]
    if not fmt.accepts_classes(classes, wanted):
        raise WeightsError(f"{target.source} in this {fmt.title} {wrong_classes(classes, wanted)}")
    return array.take(range(classes - wanted, classes), axis=axis)


def wrong_classes(classes: int, wanted: int) -> str:
    """Return the message for a classifier with another number of classes than the network."""
    return (
        f"has {classes} classes, but the network has {wanted}: build it with num_classes={classes} to read this "
        "classifier, or load the weights without their classifier"
    )


def _lacks_auxiliary(arrays: Arrays, fmt: Format) -> bool:
    return not any(re.search(fmt.auxiliary, name) for name in arrays)


def _skipped(model: NASNet, fmt: Format, auxiliary: bool) -> Iterator[str]:
    """Yield patterns of tensors to skip: training's, and those of the auxiliary head, the classifier and pruned cells
    if this network lacks them."""
    yield fmt.ignored
    if not auxiliary:
        yield fmt.auxiliary
    if model.num_classes == 0:
        yield from (f"^{re.escape(fmt.classifier_tensor(parameter))}$" for parameter in ("weight", "bias"))
    stem: Stem = "imagenet" if is_imagenet_stem(model.stem) else "cifar"
    built = {plan.name for plan in model.plan}
    for plan in plan_cells(model.stages, model.num_filters, stem):
        if plan.name not in built:
            yield fmt.of_cell(plan, _index(plan, model.stages))


def _more(names: list[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _instead(names: list[str]) -> str:
    return f", and contains {format_names(names[:1])}{_more(names)}, which the network lacks" if names else ""


def _describe(model: NASNet) -> str:
    return f"the network has stages of {model.stages} normal cells, {model.num_filters} filters"
