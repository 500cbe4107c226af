"""TF-slim checkpoints, and TF-slim's own code run side by side."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nasnet_det import NASNet
from nasnet_det.golden.classifier import CLASSIFIER_BOUND, classifier_end_points
from nasnet_det.golden.comparison import relative_error
from nasnet_det.models.plan import slim_stages
from nasnet_det.weights import WeightsError, read_arrays, read_state_dict
from nasnet_det.weights.formats.tf_slim import AVERAGE, preferred
from tests.helpers import assert_same
from tests.weights.slim_live import import_nasnet, run_slim
from tests.weights.stored import small, stored


def network(kind: str, config: Any, num_classes: int, **other: Any) -> NASNet:
    cifar = kind == "cifar"
    filters = config.num_conv_filters
    return NASNet(
        num_cells=slim_stages(config.num_cells),
        num_filters=filters,
        stem="cifar" if cifar else "imagenet",
        stem_channels=int((filters if cifar else 32) * config.stem_multiplier),
        skip_reduction_layer_input=bool(config.skip_reduction_layer_input),
        bn_eps=1e-5 if cifar else 1e-3,
        num_classes=num_classes,
        **other,
    ).eval()


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("kind", "size", "overrides"),
    [
        ("mobile", (97, 64), {"num_conv_filters": 10}),  # odd widths in the stem cells
        ("large", (32, 32), {}),
        ("cifar", (31, 46), {"num_cells": 4}),
        slow("mobile", (32, 32), {}),
        slow("mobile", (66, 131), {"num_cells": 5}),
        slow("large", (75, 75), {"num_conv_filters": 12}),
        slow("large", (100, 63), {"num_cells": 4}),
        slow("cifar", (32, 32), {}),
    ],
)
def test_equal_to_tf_slim_itself_at_any_size(kind: str, size: tuple[int, int], overrides: dict[str, int]) -> None:
    nasnet = import_nasnet()
    images = np.random.default_rng(1).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    numbers = {"num_cells": 3, "num_conv_filters": 8, **overrides}
    variables, expected, config = run_slim(nasnet, kind, images, 7, **numbers)
    model = network(kind, config, 7)
    model.load_state_dict(read_state_dict(model, variables))
    with torch.no_grad():
        found = classifier_end_points(model, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    assert set(expected) <= set(found)
    for name, reference in expected.items():
        value = found[name].permute(0, 2, 3, 1) if reference.ndim == 4 else found[name]
        assert value.shape == reference.shape, name
        assert relative_error(value.numpy(), reference) <= CLASSIFIER_BOUND, name


def test_the_auxiliary_head_in_training_is_tf_slims() -> None:
    """Both heads of a training step without dropped paths; batch statistics cost a digit of precision."""
    nasnet = import_nasnet()
    images = np.random.default_rng(1).uniform(-1, 1, (8, 96, 110, 3)).astype(np.float32)
    kept = {"drop_path_keep_prob": 1.0, "dense_dropout_keep_prob": 1.0}
    numbers = {"num_cells": 3, "num_conv_filters": 8, **kept}
    variables, expected, config = run_slim(nasnet, "mobile", images, 7, training=True, **numbers)
    model = network("mobile", config, 7, aux_head=True, img_size=(96, 110))
    model.load_state_dict(read_state_dict(model, variables))
    model.train()
    with torch.no_grad():
        logits, auxiliary = model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    assert relative_error(auxiliary.numpy(), expected["AuxLogits"]) <= 2e-5
    assert relative_error(logits.numpy(), expected["Logits"]) <= 2e-5


def checkpoint() -> dict[str, np.ndarray]:
    """Return the variables of a training run: raw values, their moving averages, slots and counters."""
    averages = stored(small(), "tf_slim")
    variables: dict[str, np.ndarray] = {"global_step": np.int64(7), "cell_0/comb_iter_0/left/global_step": np.int64(7)}
    for name, value in averages.items():
        variables[name] = value + 1 if value.ndim > 1 else value
        if value.ndim > 1:
            variables[name + AVERAGE] = value
            variables[f"{name}/RMSProp"] = variables[f"{name}/RMSProp_1"] = variables[f"{name}/Momentum"] = value
    return variables


def test_moving_averages_are_preferred_where_there_are_any() -> None:
    model = small()
    assert_same(read_state_dict(model, checkpoint()), model.state_dict())


def test_what_training_left_is_not_even_asked_for() -> None:
    names = preferred(checkpoint())
    assert names["conv0/weights"] == "conv0/weights" + AVERAGE
    assert names["conv0_bn/moving_mean"] == "conv0_bn/moving_mean"
    assert not any("RMSProp" in name or "Momentum" in name or "global_step" in name for name in names)


def test_the_names_of_released_checkpoints() -> None:
    names = stored(small(num_cells=4, aux_head=True, img_size=224), "tf_slim")
    for name, shape in {
        "conv0/weights": (3, 3, 3, 8),
        "cell_stem_0/comb_iter_0/right/separable_7x7_1/depthwise_weights": (7, 7, 8, 1),
        "cell_stem_1/path2_conv/weights": (1, 1, 8, 2),
        "cell_0/final_path_bn/moving_variance": (8,),
        "cell_3/prev_1x1/weights": (1, 1, 48, 8),
        "cell_11/comb_iter_4/left/bn_sep_3x3_2/beta": (32,),
        "reduction_cell_1/comb_iter_2/right/separable_5x5_2/pointwise_weights": (1, 1, 32, 32),
        "aux_7/aux_logits/proj/weights": (1, 1, 96, 128),
        "aux_7/aux_logits/Conv/weights": (4, 4, 128, 768),
        "aux_7/aux_logits/FC/biases": (7,),
        "final_layer/FC/weights": (192, 7),
    }.items():
        assert names[name].shape == shape
    cifar = stored(small(stem="cifar"), "tf_slim")
    assert {"l1_stem_3x3/weights", "l1_stem_bn/gamma"} <= cifar.keys()
    assert not any("stem_0" in name for name in cifar)


def test_other_genotypes_of_the_same_operations_have_names_too() -> None:
    model = small(genotype="pnasnet_5")
    names = stored(model, "tf_slim")
    assert "reduction_cell_0/comb_iter_4/right/1x1/weights" in names
    assert read_state_dict(model, names).keys() == model.state_dict().keys()


def test_a_frozen_graph_of_a_golden_checkpoint_gives_its_weights(golden: Path, tmp_path: Path) -> None:
    """As in ``nasnet_mobile_2018_04_27.tgz``: constants under the variables' names, and other constants beside them."""
    tf = pytest.importorskip("tensorflow").compat.v1
    expected = {name.removesuffix(AVERAGE): value for name, value in read_arrays(golden / "slim_large_thin").items()}
    with tf.Graph().as_default(), tf.Session() as session:
        variables = {name: tf.Variable(value, name=name) for name, value in expected.items()}
        outputs = [tf.add(variable, tf.constant(1.0, name=f"{name}/read/y")) for name, variable in variables.items()]
        session.run(tf.global_variables_initializer())
        names = [output.op.name for output in outputs]
        graph = tf.graph_util.convert_variables_to_constants(session, session.graph_def, names)
    path = tmp_path / "nasnet_large.pb"
    path.write_bytes(graph.SerializeToString())
    (tmp_path / "labels.txt").write_text("dog\n")
    archive = tmp_path / "nasnet_large.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(path, "nasnet_large.pb")
        tar.add(tmp_path / "labels.txt", "labels.txt")
    for file in (path, archive):
        found = read_arrays(file)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_a_damaged_graph_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    path = tmp_path / "graph.pb"
    path.write_bytes(b"\n\xff\xff\xff\xff")
    with pytest.raises(WeightsError, match=r"graph\.pb"):
        read_arrays(path)
