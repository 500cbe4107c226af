"""Every format by the same rule: every name and shape checked, what is left out left out on purpose."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
import torch

from nasnet_det import NASNet
from nasnet_det.weights import FORMATS, WeightsError, detect, read_state_dict, to_state_dict
from tests.helpers import assert_same
from tests.weights.stored import small as new
from tests.weights.stored import stored

NAMES = list(FORMATS)
#: A network that no test changes.
small = functools.cache(new)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("numbers", [{}, {"skip_reduction_layer_input": True, "num_cells": 3, "num_filters": 12}])
def test_every_tensor_comes_back(name: str, numbers: dict[str, Any]) -> None:
    model = small(**numbers)
    arrays = stored(model, name)
    assert detect(arrays) is FORMATS[name]
    assert_same(read_state_dict(model, arrays), model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_the_network_may_be_on_the_meta_device(name: str) -> None:
    model = small()
    twin = NASNet(num_cells=1, num_filters=8, stem_channels=8, num_classes=7, device="meta")
    assert_same(read_state_dict(twin, stored(model, name)), model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tensor_is_named(name: str) -> None:
    model = small()
    arrays = stored(model, name)
    lost = list(arrays)[len(arrays) // 2]
    del arrays[lost]
    with pytest.raises(WeightsError, match="running_mean") as caught:
        read_state_dict(model, arrays)
    assert lost in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_without_a_place_is_named(name: str) -> None:
    model = small()
    with pytest.raises(WeightsError, match="something_else"):
        read_state_dict(model, {**stored(model, name), "something_else": np.zeros(3, np.float32)})


@pytest.mark.parametrize("name", NAMES)
def test_another_width_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=r"\(.*\)"):
        read_state_dict(small(num_filters=12), stored(small(), name))


@pytest.mark.parametrize("name", NAMES)
def test_another_depth_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=r"cell_1.*\(2, 2, 2\)"):
        read_state_dict(small(num_cells=2), stored(small(), name))
    with pytest.raises(WeightsError, match="cell_"):
        read_state_dict(small(), stored(small(num_cells=2), name))


@pytest.mark.parametrize("name", NAMES)
def test_other_classes_are_refused_with_both_numbers(name: str) -> None:
    with pytest.raises(WeightsError, match=r"7 classes.*3.*num_classes=7"):
        read_state_dict(small(num_classes=3), stored(small(), name))


@pytest.mark.parametrize("name", ["tf_slim", "timm"])
def test_the_background_is_left_out_or_kept(name: str) -> None:
    arrays = stored(small(), name)
    kept = read_state_dict(small(), arrays)
    left_out = read_state_dict(small(num_classes=6), arrays)
    assert torch.equal(left_out["fc.weight"], kept["fc.weight"][1:])
    assert torch.equal(left_out["fc.bias"], kept["fc.bias"][1:])


@pytest.mark.parametrize("name", ["keras", "own"])
def test_a_format_without_background_drops_no_class(name: str) -> None:
    with pytest.raises(WeightsError, match=r"7 classes.*6"):
        read_state_dict(small(num_classes=6), stored(small(), name))


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_classifier_reads_the_rest(name: str) -> None:
    model = small(num_classes=0)
    found = read_state_dict(model, stored(small(), name))
    assert found.keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("last", range(5))
def test_a_pruned_network_reads_what_it_has(name: str, last: int) -> None:
    whole = small(num_cells=2)
    model = new(num_cells=2)
    model.prune_intermediate_layers([last])
    assert_same(read_state_dict(model, stored(whole, name)), model.state_dict())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [lambda x: x * np.nan, lambda x: x.astype(np.int32)])
def test_values_that_are_no_weights_are_refused(name: str, damage: Any) -> None:
    arrays = stored(small(), name)
    source = list(arrays)[3]
    with pytest.raises(WeightsError, match=re.escape(source)):
        read_state_dict(small(), {**arrays, source: damage(arrays[source])})


def test_byte_order_and_precision_of_the_file_do_not_matter() -> None:
    model = small()
    arrays = {name: value.astype(">f8") for name, value in stored(model, "keras").items()}
    assert_same(read_state_dict(model, arrays), model.state_dict())


@pytest.mark.parametrize("name", ["keras", "timm"])
def test_a_format_of_one_genotype_says_so(name: str) -> None:
    with pytest.raises(WeightsError, match=r"nasnet_a.*pnasnet_5"):
        read_state_dict(small(genotype="pnasnet_5"), stored(small(), name))


def test_tf_slim_names_have_no_place_for_other_operations() -> None:
    with pytest.raises(WeightsError, match="cell_"):
        read_state_dict(small(genotype="amoebanet_b"), stored(small(), "tf_slim"))


def test_own_files_hold_any_genotype() -> None:
    cell = {"blocks": [[0, 1, "sep_conv_3x3", "conv_3x3", "add_layer_norm"]], "concat": [2]}
    for genotype in ("amoebanet_b", "enas", {"normal": cell, "reduction": cell}):
        model = new(genotype=genotype)
        assert_same(read_state_dict(model, model.state_dict()), model.state_dict())


def test_names_of_no_known_network_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"layer1\.weight"):
        read_state_dict(small(), {"layer1.weight": np.zeros(3)})


@pytest.mark.parametrize("name", ["tf_slim", "own"])
def test_the_auxiliary_head_is_read_by_who_has_one(name: str) -> None:
    with_head = small(aux_head=True, img_size=96)
    arrays = stored(with_head, name)
    assert_same(read_state_dict(with_head, arrays), with_head.state_dict())
    expected = {key: value for key, value in with_head.state_dict().items() if key in small().state_dict()}
    assert_same(read_state_dict(small(), arrays), expected)
    with pytest.raises(WeightsError, match="aux_"):
        read_state_dict(with_head, stored(small(), name))


@pytest.mark.parametrize("name", ["keras", "timm"])
def test_a_format_without_auxiliary_head_says_so(name: str) -> None:
    with pytest.raises(WeightsError, match="aux_head"):
        read_state_dict(small(aux_head=True, img_size=96), stored(small(), name))


@pytest.mark.parametrize("name", NAMES)
def test_as_stored_gives_the_files_classes_channels_and_heads(name: str) -> None:
    arrays = stored(small(in_chans=4), name)
    found = to_state_dict(small(num_classes=3, aux_head=True, img_size=96), arrays, FORMATS[name], as_stored=True)
    assert found["fc.weight"].shape[0] == found["fc.bias"].shape[0] == 7
    assert found["stem.conv.weight"].shape[1] == 4
    assert not any(key.startswith("aux_head") for key in found)
