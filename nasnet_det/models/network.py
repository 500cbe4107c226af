"""The network: a stem, stages of normal cells with a reduction cell between them, a classifier.

Its wiring is data (``plan.py``). Sources: paper figure 2; TF-slim ``nets/nasnet/nasnet.py`` decides the details.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from timm.layers import create_classifier
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.genotypes.published import as_genotype
from nasnet_det.models.cells import Cell, Results, States, StateShape, join, project_together
from nasnet_det.models.checkpointing import checkpointed
from nasnet_det.models.eager_training import has_hooks, is_training_eagerly
from nasnet_det.models.old_names import rename_old_keys
from nasnet_det.models.operations import LayerSettings, Scale, norm_by_name
from nasnet_det.models.plan import CellPlan, Stem, check_size, plan_cells
from nasnet_det.models.stem import AuxiliaryHead, StemConv, initialize

#: Outputs by number, each as the maps that its channels are divided into.
Outputs = dict[int, tuple[Tensor, ...]]


class NASNet(nn.Module):
    """A network of any genotype, with timm's interface.

    Args:
        genotype: a :class:`Genotype`, its JSON form, a published name, or a JSON file's path.
        num_cells: N, the normal cells of each of three stages; or the normal cells of every stage, one by one.
        num_filters: F of the first stage. In the paper's ``N @ P`` notation F = P / 24 for NASNet-A.
        stem: ``imagenet`` (3x3 stride 2 VALID convolution, then two reduction cells) or ``cifar`` (3x3 convolution).
        stem_channels: channels of the first convolution.
        skip_reduction_layer_input: see :func:`plan_cells`.
        bn_eps: batch norm's epsilon; 1e-3 in the ImageNet networks, 1e-5 in the CIFAR ones.
        bn_momentum: PyTorch's momentum, 1 - TF's decay.
        norm_layer: another normalization layer: timm's name of it, or what builds it, ``norm_layer(channels)``.
        num_classes: classes of the classifier; 0 for none.
        in_chans: channels of the image.
        global_pool: timm's name of the global pooling; ``''`` for none.
        output_stride: the largest stride; reductions beyond it are replaced by dilation. None for no limit.
        drop_rate: dropout before the classifier.
        drop_path_rate: 1 - ScheduledDropPath's final keep probability.
        aux_head: whether the model has the auxiliary head; in training it then returns ``(logits, aux_logits)``.
        img_size: the training size, on which the auxiliary head's last convolution depends.
        device, dtype: of the parameters.

    Raises:
        GenotypeError: for an illegal genotype.
        ValueError: naming an argument that is out of range.
    """

    def __init__(
        self,
        genotype: Genotype | Mapping[str, Any] | str | Path = "nasnet_a",
        num_cells: int | Sequence[int] = 4,
        num_filters: int = 44,
        stem: Stem = "imagenet",
        stem_channels: int = 32,
        skip_reduction_layer_input: bool = False,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.0003,
        norm_layer: str | Callable[[int], nn.Module] | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        output_stride: int | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        aux_head: bool = False,
        img_size: int | tuple[int, int] = 224,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.genotype = as_genotype(genotype)
        self.stages = tuple(num_cells) if isinstance(num_cells, Iterable) else (num_cells,) * 3
        _check_counts(stem_channels=(stem_channels, 1), num_classes=(num_classes, 0), in_chans=(in_chans, 1))
        check_size(self.stages, num_filters, stem, output_stride)
        self.max_stride = output_stride
        self.num_classes, self.num_filters, self.in_chans = num_classes, num_filters, in_chans
        self.grad_checkpointing = False

        if norm_layer is None:
            norm_layer = partial(nn.BatchNorm2d, eps=bn_eps, momentum=bn_momentum, device=device, dtype=dtype)
        elif isinstance(norm_layer, str):
            place = {key: value for key, value in (("device", device), ("dtype", dtype)) if value is not None}
            norm_layer = partial(norm_by_name(norm_layer), eps=bn_eps, **place)  # some of timm's take neither
        settings = LayerSettings(norm_layer, device, dtype)
        self.plan = plan_cells(self.stages, num_filters, stem, skip_reduction_layer_input)
        strided = stem == "imagenet"
        self.stem: nn.Module = StemConv(in_chans, stem_channels, settings, stride=2 if strided else 1, valid=strided)
        width = self.genotype.num_inputs if self.genotype.passes_all else 1
        #: The shapes of every output: the stem convolution's, then each cell's.
        self.out_shapes: list[tuple[StateShape, ...]] = [(StateShape(stem_channels, int(strided)),) * width]
        self.cells = nn.ModuleDict()
        for number, plan in enumerate(self.plan, start=1):
            cell = self._build_cell(plan, settings, drop_prob=drop_path_rate * number / len(self.plan))
            self.cells[plan.name] = cell
            self.out_shapes.append(cell.out_shapes)

        #: timm's description of the tapped outputs: the stem's two lowest, and the end of every stage.
        self.feature_ends = [*([0, 1] if strided else []), *self._stage_ends()]
        self.feature_info = [self._feature_info(end) for end in self.feature_ends]
        self.num_features = self._channels(len(self.plan))
        self.act = nn.ReLU()
        self.global_pool, self.head_drop, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, device=device, dtype=dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.aux_head: AuxiliaryHead | None = None
        if aux_head:
            self.aux_output = self.cut()
            size = self._map_size(img_size, self.aux_output)
            self.aux_head = AuxiliaryHead(self._channels(self.aux_output), num_classes, size, settings)
        initialize(self)
        self.register_load_state_dict_pre_hook(rename_old_keys)

    @property
    def _model_args(self) -> dict[str, Any]:
        """Arguments that timm writes into a saved model's config, with the genotype by value instead of by path."""
        return self.__dict__.get("_arguments", {})

    @_model_args.setter
    def _model_args(self, arguments: Mapping[str, Any]) -> None:
        travels = {"genotype": self.genotype.to_dict()} if "genotype" in arguments else {}
        self.__dict__["_arguments"] = {**arguments, **travels}

    def cut(self) -> int:
        """Return the number of the output before the last reduction, which the auxiliary head reads and at which a
        detector cuts the network (section 4 of the paper; TF Object Detection API ``faster_rcnn_nas``).

        Raises:
            ValueError: for a network with one stage.
        """
        reductions = [i for i, plan in enumerate(self.plan) if plan.reduces and plan.stage > 0]
        if not reductions:
            raise ValueError("a network with one stage has no reduction at which it could be cut")
        return reductions[-1]

    def run_cells(self, outputs: Outputs, start: int, stop: int) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Run cells ``start`` to ``stop - 1``, yielding each one's output number and output (perhaps as several maps).

        Args:
            outputs: earlier outputs that those cells read, by number. An output is removed as soon as no later cell of
                the network reads it.
        """
        shared: dict[int, Results] = {}
        for plan in self.plan:
            if not start <= plan.current < stop:
                continue
            outputs[plan.output] = self._run_cell(plan, outputs, shared, stop)
            for number in [n for n in outputs if n < plan.output and not self._is_read(n, after=plan)]:
                del outputs[number]
                shared.pop(number, None)
            yield plan.output, outputs[plan.output]

    def forward_stem(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map an image ``(N, in_chans, H, W)`` in [-1, 1] to output 0, repeated for each input of the first cell."""
        return (self.stem(x),) * len(self.out_shapes[0])

    def forward_features(self, x: Tensor) -> Tensor:
        """Map ``(N, in_chans, H, W)`` to the activated last map ``(N, num_features, H/32, W/32)``."""
        return self._forward_maps(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the last feature map to logits ``(N, num_classes)``, or to the pooled features before them."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map ``(N, in_chans, H, W)`` to logits ``(N, num_classes)``; in training with an auxiliary head, to logits and
        auxiliary logits."""
        features, auxiliary = self._forward_maps(x)
        logits = self.forward_head(features)
        if auxiliary is None or self.aux_head is None:
            return logits
        return logits, self.aux_head(auxiliary)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the activated feature maps (``feature_info``), as the next cell reads them.

        Index 0 of an ImageNet network is the stem convolution's output, without activation, as in timm's
        ``nasnetalarge``.

        Args:
            x: images ``(N, in_chans, H, W)``.
            indices: the last n maps if a number, all if None.
            norm: unused; the network does not end with a normalization.
            stop_early: skip the cells after the last map requested.
            output_fmt: only ``NCHW``.
            intermediates_only: return only the list of maps, not the pair of the last map and that list.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, got {output_fmt!r}")
        take, max_index = feature_take_indices(len(self.feature_ends), indices)
        ends = [self.feature_ends[i] for i in take]
        outputs = {0: self.forward_stem(x)}
        maps = {0: outputs[0][0]} if 0 in ends else {}
        stop = self.feature_ends[max_index] if stop_early else len(self.plan)
        for number, _ in self.run_cells(outputs, 0, stop):
            if number in ends:
                maps[number] = self.act(self._joined(outputs, number))
        intermediates = [maps[end] for end in ends]
        if intermediates_only:
            return intermediates
        return (self.act(self._joined(outputs, stop)) if stop else outputs[0][0]), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the cells after the last map requested, and the head."""
        take, max_index = feature_take_indices(len(self.feature_ends), indices)
        keep = self.feature_ends[max_index]
        pruned = keep < len(self.plan)
        for plan in self.plan[keep:]:
            del self.cells[plan.name]
        self.plan = self.plan[:keep]
        if prune_head or pruned:
            self.num_features = self._channels(keep)
            self.aux_head = None
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the auxiliary one with it; 0 classes for none."""
        self.num_classes = num_classes
        parameter = next(self.parameters())
        place: dict[str, Any] = {"device": parameter.device, "dtype": parameter.dtype}
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool, **place)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        created = [self.global_pool, self.fc]
        if self.aux_head is not None:
            self.aux_head.reset_classifier(num_classes, **place)
            created.append(self.aux_head.fc)
        for module in created:
            initialize(module.train(self.training))

    def __prepare_scriptable__(self) -> torch.fx.GraphModule:
        """Return what ``torch.jit.script`` compiles: the network traced by torch.fx, with the same parameters.

        The trace is of the present mode, training or evaluation."""
        return torch.fx.symbolic_trace(self)

    def init_weights(self) -> None:
        """Set all parameters and buffers as a new network has them, as after ``to_empty`` of one on the meta device."""
        for module in self.modules():
            for name in ("reset_parameters", "init_non_persistent_buffers"):
                getattr(module, name, lambda: None)()
        initialize(self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the cells' outputs in training and recompute the rest in the backward pass."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's layer groups for layer-wise learning rates: the stem, then each cell (or stage, if coarse)."""
        order = {plan.name: (plan.stage if coarse else i) for i, plan in enumerate(self.plan)}
        stem = [name for name in order if name.startswith("cell_stem")]
        return {
            "stem": "|".join([r"^stem\.", *(rf"^cells\.{name}\." for name in stem)]),
            "blocks": [(rf"^cells\.{name}\.", (i,)) for name, i in order.items() if name not in stem],
        }

    def _build_cell(self, plan: CellPlan, settings: LayerSettings, drop_prob: float) -> Cell:
        inputs = self._inputs(plan, self.out_shapes)
        genotype = self.genotype.reduction if plan.reduces else self.genotype.normal
        scale = self._scale(inputs[0], plan.reduces)
        return Cell(genotype, inputs, plan.filters, scale, settings, drop_prob, self.genotype.passes_all)

    def _stage_ends(self) -> list[int]:
        """Return the numbers of the last output of every stage."""
        following = [plan.stage for plan in self.plan[1:]] + [len(self.stages)]
        return [plan.output for plan, stage in zip(self.plan, following, strict=True) if 0 <= plan.stage < stage]

    def _forward_maps(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the activated last map, and the auxiliary head's input in training."""
        outputs, auxiliary, stop = {0: self.forward_stem(x)}, None, len(self.plan)
        for number, _ in self.run_cells(outputs, 0, stop):
            if self.training and self.aux_head is not None and number == self.aux_output:
                auxiliary = self._joined(outputs, number)
        return (self.act(self._joined(outputs, stop)) if stop else outputs[0][0]), auxiliary

    def _run_cell(self, plan: CellPlan, outputs: Outputs, shared: dict[int, Results], stop: int) -> tuple[Tensor, ...]:
        """Run a cell; in training, what all cells before ``stop`` compute of an output is computed once, in
        ``shared``: its ReLU, and its projections where they can be computed as one. The states that make an output are
        concatenated only if something else reads it."""
        cell: Any = self.cells[plan.name]
        checkpoints = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        is_plain = type(cell) is Cell and not has_hooks(cell) and self.training and not self.genotype.passes_all
        read = [plan.current, plan.current if plan.previous is None else plan.previous]
        if checkpoints or not (is_plain and is_training_eagerly(outputs[plan.current][0])):
            for number in read if not self.genotype.passes_all else ():
                self._joined(outputs, number)
            inputs = self._inputs(plan, outputs)
            return checkpointed(cell, inputs) if checkpoints else cell(*inputs)
        projected = []
        for number, project in zip(read, cell.preprocess, strict=True):
            if number not in shared:
                readers = [plan for plan in self.plan if plan.current < stop]
                shared[number] = project_together(number, outputs[number], readers, self.cells)
            if project not in shared[number]:
                below = States([self._joined(outputs, number)], [shared[number]])
                shared[number][project] = below.apply(project, 0)
            projected.append(shared[number][project])
        return cell.create(projected, joins=False)

    def _inputs(self, plan: CellPlan, outputs: Mapping[int, tuple[Any, ...]] | Sequence[tuple[Any, ...]]) -> tuple:
        """Return the outputs that a cell reads: the current and the previous one, or all states of the current one."""
        if self.genotype.passes_all or plan.previous is None:
            return outputs[plan.current]
        return outputs[plan.current][0], outputs[plan.previous][0]

    def _is_read(self, number: int, after: CellPlan) -> bool:
        """Return True if a cell above ``after`` reads output ``number``."""
        return any(number in (plan.current, plan.previous) for plan in self.plan if plan.current > after.current)

    def _scale(self, state: StateShape, reduces: bool) -> Scale:
        if not reduces:
            return Scale(1, state.dilation, state.dilation)
        if self.max_stride is not None and 2 ** (state.level + 1) > self.max_stride:
            return Scale(1, state.dilation, 2 * state.dilation)
        return Scale(2)

    def _channels(self, output: int) -> int:
        shapes = self.out_shapes[output]
        return sum(shape.channels for shape in shapes) if output else shapes[0].channels

    def _feature_info(self, output: int) -> dict[str, Any]:
        """Return timm's entry of a tapped output, with the module whose output is what the next cell reads of it."""
        shape = self.out_shapes[output][0]
        if output == 0:
            module = "stem"
        elif output == len(self.plan):
            module = "act"
        else:
            module = f"cells.{self.plan[output].name}.preprocess.0.act"
        return {"num_chs": self._channels(output), "reduction": 2**shape.level // shape.dilation, "module": module}

    def _map_size(self, img_size: int | tuple[int, int], output: int) -> tuple[int, int]:
        """Return height and width of an output: the VALID stem, then halves rounded up."""
        sides = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
        shape, first = self.out_shapes[output][0], self.out_shapes[0][0]
        stride = 2 ** (shape.level - first.level) // shape.dilation
        sides = [(side - 1) // 2 if first.level else side for side in sides]
        height, width = (math.ceil(side / stride) for side in sides)
        return height, width

    def _joined(self, outputs: Outputs, number: int) -> Tensor:
        """Return an output as one tensor, which all that read it as one are given from now on."""
        joined = join(outputs[number], self.training)
        if not self.genotype.passes_all:
            outputs[number] = (joined,)
        return joined


# torch.fx copies the annotations of a traced forward into its code, and TorchScript reads no annotations in strings.
NASNet.forward.__annotations__ = {"x": Tensor}


def _check_counts(**counts: tuple[int, int]) -> None:
    """Refuse a number that is not whole or below the least, given as ``name=(number, least)``."""
    for name, (number, least) in counts.items():
        if not isinstance(number, Integral) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} is a whole number of at least {least}, not {number!r:.60}")
