"""From named arrays to a state dict: every published format is a rule that names a network's layers, nothing more.

:func:`published_units` walks a network by its plan and genotype; a :class:`Format` says what its files call each layer
and tensor; :func:`to_state_dict` looks every one up, turns its axes, and refuses what is missing, left over or of
another shape. Nothing is listed by hand, so any depth, width and number of classes is read by the same rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
NOTHING = r"(?!)"  # matches no name
AUXILIARY = "aux_head."


class WeightsError(ValueError):
    """Weights that do not fit a network, or a file that holds none: says which tensor, why, and the way out."""


def one_line(error: BaseException) -> str:
    """The first line of another library's error, for a message of one's own."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@dataclass(frozen=True)
class Unit:
    """A module that published files name as one: convolutions and their normalization, or a linear layer.

    Args:
        path: its name in the network.
        module: the module.
        place: ``stem``, ``current``, ``previous`` (a cell's inputs made to fit), ``block``, ``join``, ``auxiliary`` or
            ``classifier``; ``other`` for what no published network has.
        cell: the cell that it is part of.
        number: its block's number, the joined state's number, or the normal cell below the auxiliary head.
        side: ``left`` or ``right`` in a block.
        step: how many units of the same operation come before it.
        index: how many normal cells of the same stage come before its cell.
    """

    path: str
    module: nn.Module
    place: str
    cell: CellPlan | None = None
    number: int = 0
    side: str = ""
    step: int = 0
    index: int = 0


@dataclass(frozen=True)
class Format:
    """What one kind of published file calls things.

    Args:
        title: its name in messages.
        marks: tensors of which a file of this kind has one.
        layer: maps a unit and the name of a layer inside it (``conv``, ``depthwise``, ``bn``, ...) to the file's name
            of that layer; None where the format has no such layer.
        tensor: maps the kind of a layer (``conv``, ``depthwise``, ``pointwise``, ``norm``, ``linear``), the file's name
            of it and the parameter's name in PyTorch to the file's name of the tensor.
        channels_last: whether axes are TensorFlow's: height, width, in, out.
        has_background: whether a file may have one class more than the network, the background, as its first.
        of_cell: maps a cell and its index in its stage to what its tensors' names match, so that cells which a network
            leaves out can be skipped.
        ignored: what the names of tensors match that are deliberately never read.
        auxiliary: the same for the auxiliary head's tensors, not read by a network without one.
        genotype: the only genotype whose layers the format can name; None for any.
        prepare: chooses and renames what is read of a file's tensors.
        units: the parts of a network that the format names.
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
        """The file's name of the classifier's ``weight`` or ``bias``."""
        unit = Unit("fc", nn.Linear(1, 1), "classifier")
        return self.tensor("linear", self.layer(unit, "") or "", parameter)

    def num_classes(self, arrays: Arrays) -> int:
        """The classes of a file's classifier, the background among them; 0 if it has no classifier."""
        return len(self.prepare(arrays).get(self.classifier_tensor("bias"), ()))

    def preprocess(self, classes: int, wanted: int) -> bool:
        """Whether a file's classifier of ``classes`` can be read by a network of ``wanted``."""
        return classes in ((wanted, wanted + 1) if self.has_background else (wanted,))


@dataclass(frozen=True)
class _Target:
    """A tensor of the network and where a file keeps it."""

    name: str
    source: str
    axes: tuple[int, ...] | None
    shape: tuple[int, ...]
    classes: bool

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape that the file's tensor must have."""
        if self.axes is None:
            return self.shape
        return tuple(self.shape[self.axes.index(axis)] for axis in range(len(self.shape)))

    def as_stored(self, shape: tuple[int, ...], fmt: Format) -> _Target:
        """The same with the file's number of classes or image channels, where it depends on them."""
        if len(shape) != len(self.shape):
            return self
        stored = shape if self.axes is None else tuple(shape[axis] for axis in self.axes)
        if self.classes and not fmt.preprocess(stored[0], self.shape[0]):
            return replace(self, shape=(stored[0], *self.shape[1:]))
        if self.name == "stem.conv.weight":
            return replace(self, shape=(self.shape[0], stored[1], *self.shape[2:]))
        return self


#: The tensors whose first axis is the classes.
_CLASSES = ("fc.weight", "fc.bias", "aux_head.fc.weight", "aux_head.fc.bias")

#: For each kind of layer with channels last, the file's axes in the network's order.
_AXES: dict[str, tuple[int, ...]] = {
    "conv": (3, 2, 0, 1),
    "pointwise": (3, 2, 0, 1),
    "depthwise": (2, 3, 0, 1),
    "linear": (1, 0),
}


def published_units(model: NASNet) -> Iterator[Unit]:
    """The units of a network, bottom up; the auxiliary head's and the classifier's last."""
    yield Unit("stem", model.stem, "stem")
    for plan in model.plan:
        yield from _cell_units(f"cells.{plan.name}", model.cells[plan.name], plan, _index(plan, model.stages))
    if model.aux_head is not None:
        below = sum(not plan.reduces for plan in model.plan[: model.cut]) - 1
        yield Unit("aux_head", model.aux_head, "auxiliary", number=below)
    if isinstance(model.fc, nn.Linear):
        yield Unit("fc", model.fc, "classifier")


def is_imagenet_stem(stem: nn.Module) -> bool:
    """Whether a stem unit's convolution is the ImageNet networks', of stride 2."""
    return stem.get_submodule("conv").stride == (2, 2)


def to_state_dict(model: NASNet, arrays: Arrays, fmt: Format, as_stored: bool = False) -> dict[str, Tensor]:
    """The state dict of ``model`` from a file's tensors.

    The file's classifier must have the network's number of classes; where the format knows a background class, one more
    is right too, and its row 0 is left out. A network without classifier (``num_classes=0``), without auxiliary head or
    with fewer cells than its ``stages`` say takes what it has.

    Args:
        model: the network; its values are not touched, so it may be on the meta device.
        arrays: the file's tensors by name, numpy arrays (or anything ``numpy.asarray`` takes).
        fmt: the file's format.
        as_stored: read what depends on the data more than on the network as the file has it: another number of classes
            or image channels, no auxiliary head. The caller makes it fit.

    Raises:
        WeightsError: if a tensor is missing, left over, of another shape, or not finite.
    """
    if fmt.genotype is not None and model.genotype.cells != fmt.genotype.cells:
        raise WeightsError(
            f"a {fmt.title} holds the cells of {fmt.genotype.name}, but this network is made of "
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
    """One tensor of a layer that no network of cells has.

    Args:
        arrays: the file's tensors by name.
        source: its name in the file.
        name: its name in the model, for messages.
        like: the model's tensor, for its shape.
        kind: of layer, see :class:`Format`; empty for what is stored with the model's own axes.
        fmt: the file's format.

    Raises:
        WeightsError: if it is missing, of another shape or type, or not finite.
    """
    if source not in arrays:
        raise WeightsError(f"this {fmt.title} lacks {source}, which {name} is read from: the file is not whole")
    axes = _AXES.get(kind) if fmt.channels_last else None
    return _read(arrays[source], _Target(name, source, axes, tuple(like.shape), classes=False), fmt)


def _cell_units(path: str, cell: Any, plan: CellPlan, index: int) -> Iterator[Unit]:
    for i, fit in enumerate(cell.preprocess):
        if any(True for _ in fit.parameters()):
            place = "other" if cell.passes_all else ("current", "previous")[i]
            yield Unit(f"{path}.preprocess.{i}", fit, place, plan, i, index=index)
    for number, block in enumerate(cell.blocks):
        for side in ("left", "right"):
            operation = getattr(block, side)
            found = [(n, m) for n, m in operation.named_modules() if isinstance(m, (ConvNorm, SeparableConvNorm))]
            for step, (name, module) in enumerate(found):
                inner = f"{path}.blocks.{number}.{side}" + (f".{name}" if name else "")
                yield Unit(inner, module, "block", plan, number, side, step, index)
        yield Unit(f"{path}.blocks.{number}.combine", block.combine, "other", plan, number, index=index)
    for state, join in cell.concat_proj.items():
        if isinstance(join, (ConvNorm, FactorizedReduction)):
            yield Unit(f"{path}.concat_proj.{state}", join, "join", plan, int(state), index=index)


def _index(plan: CellPlan, stages: Sequence[int]) -> int:
    """How many normal cells of its stage come before a normal cell; 0 for a reduction."""
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
                    raise WeightsError(f"a {fmt.title} has no layer for this network's {name}: it holds other networks")
                kind = _kind(leaf, module)
                axes = _AXES.get(kind) if fmt.channels_last and parameter == "weight" else None
                source = fmt.tensor(kind, layer, parameter)
                yield _Target(name, source, axes, tuple(value.shape), name in _CLASSES)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's own tensors that a checkpoint keeps, not its parts'; the counter of batches left out."""
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
    """Every tensor of the network is in the file, and every tensor of the file is read or left out on purpose."""
    wanted = {target.source for target in targets}
    missing = [target for target in targets if target.source not in arrays]
    on_purpose = [re.compile(pattern) for pattern in _left_out(model, fmt, auxiliary)]
    left_over = [n for n in arrays if n not in wanted and not any(pattern.search(n) for pattern in on_purpose)]
    if missing:
        raise WeightsError(
            f"this {fmt.title} lacks {missing[0].source}{_more(missing)}, which {missing[0].name} is read from"
            f"{_instead(left_over)}; {_describe(model)}: name the network that the weights were made for; if this is "
            "it, the file is not whole"
        )
    if left_over:
        raise WeightsError(
            f"this {fmt.title} holds {format_names(left_over[:1])}{_more(left_over)}, which this network has no place "
            "for; "
            f"{_describe(model)}: name the network that the weights were made for"
        )


def _read(value: Any, target: _Target, fmt: Format) -> Tensor:
    array = np.asarray(value)
    shape = target.source_shape
    where = f"{target.source} in this {fmt.title}"
    if target.classes and array.ndim == len(shape) and array.shape != shape:
        array = _fit_classes(array, target, fmt)
    if array.shape != shape:
        raise WeightsError(
            f"{where} has the shape {array.shape}, but {target.name} of this network needs {shape}: the weights belong "
            "to a network of another width, depth or number of channels"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise WeightsError(f"{where} holds {array.dtype} values, expected floating-point ones")
    if not np.isfinite(array).all():
        raise WeightsError(f"{where} holds values that are not finite: the file is damaged")
    if target.axes is not None:
        array = array.transpose(target.axes)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _fit_classes(array: np.ndarray, target: _Target, fmt: Format) -> np.ndarray:
    """Leave out the background's row; refuse any other number of classes."""
    axis = array.ndim - 1 if fmt.channels_last else 0
    classes, wanted = array.shape[axis], target.source_shape[axis]
    if not fmt.preprocess(classes, wanted):
        raise WeightsError(
            f"{target.source} in this {fmt.title} has {classes} classes, but {wrong_classes(classes, wanted)}"
        )
    return array.take(range(classes - wanted, classes), axis=axis)


def wrong_classes(classes: int, wanted: int) -> str:
    """What to say of a classifier that is not the network's."""
    return (
        f"the network has {wanted}: make it with num_classes={classes} to read this classifier, or load the weights "
        "without their classifier"
    )


def _lacks_auxiliary(arrays: Arrays, fmt: Format) -> bool:
    return not any(re.search(fmt.auxiliary, name) for name in arrays)


def _left_out(model: NASNet, fmt: Format, auxiliary: bool) -> Iterator[str]:
    """What the names of tensors match that are not read on purpose: training's, and those of parts that this network
    does not have: the auxiliary head, the classifier, cells that it was made or pruned without."""
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
    return f", and holds {format_names(names[:1])}{_more(names)}, which the network has no place for" if names else ""


def _describe(model: NASNet) -> str:
    return f"the network has stages of {model.stages} normal cells, {model.num_filters} filters"
