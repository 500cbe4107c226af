"""timm's interface, over every registered model, as in timm's own test suite.

Every name is built at its full size on the meta device; what needs numbers runs on each cell and stem with one cell a
stage and few filters. ``run_timm_tests.py`` runs timm's own tests.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import get_norm_layer
from timm.models import get_notrace_functions, get_notrace_modules, get_pretrained_cfg, load_checkpoint
from timm.models._hub import save_for_hf
from timm.models._manipulate import reinit_non_persistent_buffers
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn
from torch.export import Dim
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from nasnet_det import FAMILY, Genotype, as_genotype
from nasnet_det.models.network import NASNet
from tests.helpers import randomize

NAMES = [*FAMILY, "nasnet"]
#: One name of each cell and stem: the others differ in size only, or in a shortcut that is among these too.
WIRINGS = [*{(FAMILY[name].genotype, FAMILY[name].stem): name for name in reversed(FAMILY)}.values(), "nasnet"]
FEW = ["nasnet_a_large", "nasnet_a_cifar_6_at_768", "amoebanet_c"]
TINY: dict[str, Any] = {"num_cells": 1, "num_filters": 8}


def is_cifar(name: str) -> bool:
    return name in FAMILY and FAMILY[name].stem == "cifar"


def tiny(name: str, **kwargs: Any) -> NASNet:
    """Return the network of ``name`` with one cell a stage and 8 filters."""
    return timm.create_model(name, **{**TINY, **kwargs})


def images(name: str, batch: int = 2, channels: int = 3) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(batch, channels, *((16, 24) if is_cifar(name) else (64, 96)))


def test_every_name_is_registered() -> None:
    assert set(NAMES) <= set(timm.list_models("*", module="timm_models"))


@pytest.mark.parametrize("name", NAMES)
def test_full_size(name: str) -> None:
    """Each at its own input size: shapes of logits and features, what its config says."""
    model = timm.create_model(name, device="meta")
    config = model.default_cfg
    x = torch.empty(1, *config["input_size"], device="meta")
    features = model.forward_features(x)
    assert model.forward_head(features).shape == (1, config["num_classes"])
    assert features.shape[1] == model.num_features == model.feature_info[-1]["num_chs"]
    assert features.shape[2:] == config["pool_size"]
    assert model.in_chans == config["input_size"][0]
    assert isinstance(model.get_submodule(config["classifier"]), nn.Linear)
    assert model.get_submodule(config["first_conv"]).in_channels == 3


@pytest.mark.parametrize("name", WIRINGS)
def test_training_step(name: str) -> None:
    model = tiny(name, drop_rate=0.2, drop_path_rate=0.2).train()
    model(images(name)).square().mean().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize("name", WIRINGS)
def test_classifier(name: str) -> None:
    """num_classes, in_chans, global_pool, reset_classifier, get_classifier."""
    x = images(name, channels=5)
    model = tiny(name, num_classes=7, in_chans=5).eval()
    assert model(x).shape == (2, 7)
    assert model.get_classifier() is model.fc
    model.reset_classifier(3, "max")
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))
    assert tiny(name, in_chans=5, num_classes=4, global_pool="catavgmax")(x).shape == (2, 4)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape[1] == model.num_features


@pytest.mark.parametrize("name", FEW)
def test_reset_classifier_keeps_device_dtype_and_mode(name: str) -> None:
    model = tiny(name, device="meta", aux_head=True).to(torch.float64).eval()
    model.reset_classifier(0)
    model.reset_classifier(2)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}
    assert not any(module.training for module in model.modules())
    model.requires_grad_(False).reset_classifier(0, "")
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(TypeError, match="not_an_argument"):
        tiny(name, not_an_argument=1)


@pytest.mark.parametrize("name", WIRINGS)
def test_features_only(name: str) -> None:
    """Channels and strides as announced, for all taps and for some; nothing is kept above the last one."""
    x = images(name)
    features = tiny(name, features_only=True).eval()
    maps = features(x)
    assert [m.shape[1] for m in maps] == features.feature_info.channels()
    for m, reduction in zip(maps, features.feature_info.reduction(), strict=True):
        # The VALID stem makes a map up to one pixel smaller than size / stride.
        assert all(0 <= -(-side // reduction) - got <= 1 for side, got in zip(x.shape[-2:], m.shape[-2:], strict=True))
    some = tiny(name, features_only=True, out_indices=(0, 1)).eval()
    assert len(some.model.cells) == tiny(name).feature_ends[1]
    some.load_state_dict({k: v for k, v in features.state_dict().items() if k in some.state_dict()})
    for got, expected in zip(some(x), maps, strict=False):
        torch.testing.assert_close(got, expected)
    negative = tiny(name, features_only=True, out_indices=(-1,))
    assert negative.feature_info.channels() == [maps[-1].shape[1]]


@pytest.mark.parametrize("name", FEW)
def test_torchscript(name: str) -> None:
    """``torch.jit.script`` compiles the network that torch.fx traces: the same numbers at any size, the same names."""
    model = randomize(tiny(name, num_cells=(1, 1))).double()
    scripted = torch.jit.script(model)
    assert scripted.state_dict().keys() == model.state_dict().keys()
    x = images(name).double()
    for inputs in (x, x[:1, :, 1:, 3:]):
        torch.testing.assert_close(scripted(inputs), model(inputs))


@pytest.mark.parametrize("name", FEW)
def test_fx_feature_extraction(name: str) -> None:
    """As timm's tests extract features by torchvision: forward in evaluation, gradients in training, and scripted."""
    model = tiny(name, num_classes=4, num_cells=(1, 1)).double()
    options = {"leaf_modules": get_notrace_modules(), "autowrap_functions": get_notrace_functions()}
    nodes = [names[-1:] for names in get_graph_node_names(model, tracer_kwargs=options)]
    traced = create_feature_extractor(
        model, train_return_nodes=nodes[0], eval_return_nodes=nodes[1], tracer_kwargs=options
    )
    x = images(name).double()
    (logits,) = traced.train()(x).values()
    logits.mean().backward()
    assert all(parameter.grad is not None for parameter in traced.parameters())
    expected = model.eval()(x)
    for extractor in (traced.eval(), torch.jit.script(traced)):
        (logits,) = extractor(x).values()
        torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("feature_cls", ["fx", "hook"])
@pytest.mark.parametrize("name", FEW)
def test_features_by_graph_and_hooks(name: str, feature_cls: str) -> None:
    """timm's FeatureGraphNet and FeatureHookNet give what its FeatureGetterNet gives."""
    getter = randomize(tiny(name, features_only=True, num_cells=(1, 1))).double()
    other = tiny(name, features_only=True, feature_cls=feature_cls, num_cells=(1, 1)).eval().double()
    weights = {key.removeprefix("model."): value for key, value in getter.state_dict().items()}
    other.load_state_dict({key: weights[key.partition(".")[2]] for key in other.state_dict()})
    x = images(name).double()
    torch.testing.assert_close(list(other(x)), list(getter(x)))


@pytest.mark.parametrize("feature_cls", ["list", "dict"])
def test_features_by_timms_other_names(feature_cls: str) -> None:
    """timm's own classes of these names run modules one after the other, as cells are not."""
    name = "nasnet_a_cifar_6_at_768"
    getter, other = (
        tiny(name, features_only=True, out_indices=(0, -1), **of).eval() for of in ({}, {"feature_cls": feature_cls})
    )
    other.load_state_dict(getter.state_dict())
    x = images(name)
    maps, expected = other(x), getter(x)
    torch.testing.assert_close(
        maps, expected if feature_cls == "list" else dict(zip(["0", "2"], expected, strict=True))
    )


@pytest.mark.parametrize("name", WIRINGS)
def test_forward_intermediates(name: str) -> None:
    x = images(name)
    model = randomize(tiny(name))
    last, maps = model.forward_intermediates(x)
    assert len(maps) == len(model.feature_info)
    torch.testing.assert_close(last, model.forward_features(x))
    torch.testing.assert_close(maps[-1], last)
    only = model.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    torch.testing.assert_close(only, [maps[0], maps[2]])
    early, _ = model.forward_intermediates(x, indices=[1], stop_early=True)
    torch.testing.assert_close(early, maps[1])
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.parametrize("name", FEW)
def test_pruning_at_every_tap(name: str) -> None:
    """The features end at the tap, and every parameter that is left is used."""
    model, x = randomize(tiny(name)), images(name)
    maps = model.forward_intermediates(x, intermediates_only=True)
    whole = copy.deepcopy(model)
    whole.prune_intermediate_layers([len(maps) - 1], prune_head=False)
    assert torch.equal(whole(x), model(x))
    for index, expected in enumerate(maps):
        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([index]) == [index]
        features = pruned.forward_features(x)
        torch.testing.assert_close(features, expected)
        features.sum().backward()
        assert all(p.grad is not None for p in pruned.parameters())


@pytest.mark.parametrize("name", [name for name in WIRINGS if not is_cifar(name)])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_output_stride(name: str, output_stride: int) -> None:
    features = tiny(name, features_only=True, output_stride=output_stride)
    assert features.feature_info.reduction() == [min(2**i, output_stride) for i in range(1, 6)]
    x = images(name)
    side = x.shape[-1] // output_stride
    assert 0 <= side - features.eval()(x)[-1].shape[-1] <= 1
    assert tiny(name, output_stride=output_stride, num_classes=3)(x).shape == (2, 3)


@pytest.mark.parametrize("name", WIRINGS)
def test_layer_decay_groups_every_parameter(name: str) -> None:
    model = tiny(name)
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scales[id(model.fc.weight)] == 1.0
    chain = [model.stem.conv.weight, model.cells["cell_0"].preprocess[0].conv.weight]
    chain += [model.cells["cell_2"].preprocess[0].conv.weight, model.fc.weight]
    assert sorted(scales[id(p)] for p in chain) == [scales[id(p)] for p in chain]
    assert len({scales[id(p)] for p in chain}) == 4
    create_optimizer_v2(model, "sgd", lr=0.1, layer_decay=0.9)


@pytest.mark.parametrize("name", WIRINGS)
def test_memory_formats_and_dtypes(name: str) -> None:
    x = images(name)
    model = randomize(tiny(name))
    expected = model(x)
    last = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    half = tiny(name, dtype=torch.bfloat16).eval()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    half.load_state_dict(model.state_dict())
    error = (half(x.bfloat16()).float() - expected).norm() / expected.norm()
    assert error < 0.1


@pytest.mark.parametrize("name", WIRINGS)
def test_gradient_checkpointing(name: str) -> None:
    model = tiny(name).train()
    model.set_grad_checkpointing()
    model(images(name)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_compiled_gradient_checkpointing() -> None:
    """The gradients and running statistics of a step without either."""
    model = tiny("nasnet_a_cifar_6_at_768", num_cells=(1, 1)).double().train()
    compiled = copy.deepcopy(model)
    compiled.set_grad_checkpointing()
    x = images("nasnet_a_cifar_6_at_768").double()
    for network in (model, torch.compile(compiled, backend="aot_eager")):
        network(x).square().mean().backward()
    for one, other in zip(model.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)
    torch.testing.assert_close(compiled.state_dict(), model.state_dict())


@pytest.mark.parametrize("norm", ["batchnorm2d", "groupnorm1", "layernorm2d", "frozenbatchnorm2d"])
def test_norm_layer_by_its_name_in_timm(norm: str) -> None:
    model = tiny("nasnet", norm_layer=norm, bn_eps=0.5)
    assert isinstance(model.stem.bn, get_norm_layer(norm)) and model.stem.bn.eps == 0.5
    assert model(images("nasnet")).shape == (2, 1000)


@pytest.mark.parametrize("name", FEW)
def test_a_network_made_on_the_meta_device(name: str) -> None:
    """``to_empty`` leaves what was in memory: ``init_weights`` sets all of it, and a state dict with timm's
    ``reinit_non_persistent_buffers`` as well."""
    model = tiny(name, device="meta", dtype=torch.float64, drop_path_rate=0.5).to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().fill_(-7)
    other = copy.deepcopy(model)
    model.init_weights()
    assert torch.isfinite(model(images(name).double())).all()
    assert not any((tensor == -7).any() for tensor in (*model.parameters(), *model.buffers()))
    other.load_state_dict(model.state_dict())
    reinit_non_persistent_buffers(other)
    torch.testing.assert_close(dict(other.named_buffers()), dict(model.named_buffers()))


@pytest.mark.parametrize("name", WIRINGS)
def test_checkpoint_path(name: str, tmp_path: Path) -> None:
    model = randomize(tiny(name))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    loaded = tiny(name, checkpoint_path=str(tmp_path / "model.pth")).eval()
    x = images(name)
    assert torch.equal(loaded(x), model(x))
    other = tiny(name)
    load_checkpoint(other, str(tmp_path / "model.pth"))
    assert torch.equal(other.eval()(x), model(x))


@pytest.mark.parametrize("name", WIRINGS)
def test_hub_folder_round_trip(name: str, tmp_path: Path) -> None:
    """timm's ``local-dir:`` brings back the network and its weights."""
    model = randomize(tiny(name, num_classes=4))
    save_for_hf(model, str(tmp_path), safe_serialization=True, model_args=dict(model._model_args))
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = images(name)
    assert torch.equal(loaded(x), model(x))
    fresh = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=9)
    assert fresh(x).shape == (2, 9)


def test_a_found_genotype_travels_inside_the_saved_config(tmp_path: Path) -> None:
    genotype = Genotype.from_dict({**as_genotype("darts_v2").to_dict(), "name": "found", "source": "a search"})
    genotype.save(tmp_path / "cell.json")
    model = timm.create_model("nasnet", genotype=str(tmp_path / "cell.json"), **TINY)
    save_for_hf(model, str(tmp_path / "hub"), safe_serialization=True, model_args=dict(model._model_args))
    (tmp_path / "cell.json").unlink()
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert Genotype.from_dict(config["model_args"]["genotype"]) == genotype
    loaded = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True)
    assert loaded.genotype == genotype


def test_trace_and_compile() -> None:
    name = "nasnet_a_large"
    x = images(name)
    model = randomize(tiny(name, num_cells=(1, 1)))
    expected = model(x)
    torch.testing.assert_close(torch.jit.trace(model, x, check_trace=False)(x), expected)  # this line is the check
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), expected)
    torch.jit.trace(tiny(name, num_cells=(1,)), x, check_trace=False)


def _dynamic(name: str) -> dict[int, Dim]:
    least = 16 if is_cifar(name) else 64
    return {0: Dim("batch"), 2: Dim("height", min=least, max=2048), 3: Dim("width", min=least, max=2048)}


@pytest.mark.parametrize("name", FEW[1:])
def test_export_with_dynamic_batch_height_and_width(name: str, tmp_path: Path) -> None:
    """torch.export, and for one name ONNX made of it, at the exported and at other sizes."""
    model = randomize(tiny(name, num_cells=(1, 1)))
    x = torch.randn(2, 3, 96, 100)
    exported = torch.export.export(model, (x,), dynamic_shapes=(_dynamic(name),))
    others = (x, torch.randn(1, 3, 65, 70), torch.randn(3, 3, 75, 131))
    for y in others:
        torch.testing.assert_close(exported.module()(y), model(y))
    if not is_cifar(name):  # of others: tests/export
        return
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(exported, f=path, dynamo=True, input_names=["x"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for y in others:
        (logits,) = session.run(None, {"x": y.numpy()})
        expected = model(y).detach().numpy()
        assert np.linalg.norm(logits - expected) / np.linalg.norm(expected) < 1e-5


def test_weights_of_other_channels_and_classes_are_adapted(tmp_path: Path) -> None:
    """timm adapts weights to other ``in_chans`` and ``num_classes`` when it loads them."""
    source = randomize(tiny("nasnet", num_classes=1000))
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    one = tiny("nasnet", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=5)
    torch.testing.assert_close(one.stem.conv.weight, source.stem.conv.weight.sum(1, keepdim=True))
    assert torch.equal(one.cells["cell_1"].preprocess[0].conv.weight, source.cells["cell_1"].preprocess[0].conv.weight)


def test_locations_of_the_released_weights() -> None:
    assert get_pretrained_cfg("nasnet_a_large").hf_hub_id == "timm/nasnetalarge.tf_in1k"
    assert get_pretrained_cfg("nasnet_a_mobile").url.endswith("NASNet-mobile.h5")
    for name in ("nasnet_a_large", "nasnet_a_mobile"):
        assert get_pretrained_cfg(name).mean == (0.5, 0.5, 0.5)
