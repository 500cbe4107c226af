"""The paper's optimizer is TensorFlow's RMSProp: shown on updates that TensorFlow computed."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import RMSpropTF
from torch import nn

from nasnet_det.training.engine import Trainer
from nasnet_det.training.execution import Execution
from nasnet_det.training.recipe import load_recipe

RECORDING = Path(__file__).parent / "data" / "rmsprop_tensorflow.json"
SETTINGS = {"decay": 0.9, "momentum": 0.9, "epsilon": 1.0}
RATES = [2.0, 2.0, 1.94, 1.94, 1.8818, 0.5]


def record() -> dict[str, Any]:
    """Return gradients and the weights after every step of ``tf.compat.v1.train.RMSPropOptimizer``."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    start = random.normal(size=(2, 3)).astype(np.float32)
    # From gradients that vanish beside epsilon to some far above it.
    gradients = [(random.normal(size=(2, 3)) * 10.0**power).astype(np.float32) for power in (-2, -1, 0, 1, 0, -1)]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        weight = tf.compat.v1.get_variable("weight", initializer=start)
        gradient = tf.compat.v1.placeholder(tf.float32, (2, 3))
        rate = tf.compat.v1.placeholder(tf.float32, ())
        optimizer = tf.compat.v1.train.RMSPropOptimizer(rate, **SETTINGS)
        step = optimizer.apply_gradients([(gradient, weight)])
        session.run(tf.compat.v1.global_variables_initializer())
        weights = []
        for value, number in zip(gradients, RATES, strict=True):
            session.run(step, {gradient: value, rate: number})
            weights.append(session.run(weight).tolist())
    return {"start": start.tolist(), "gradients": [g.tolist() for g in gradients], "weights": weights}


class _Weight(nn.Module):
    """A network whose gradient is what it is given."""

    def __init__(self, start: list) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))


def _follow(network: _Weight, optimizer: torch.optim.Optimizer, recording: dict[str, Any]) -> list[np.ndarray]:
    """The weights after each of the recorded gradients."""
    weights = []
    for gradient, rate in zip(recording["gradients"], RATES, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        network.weight.grad = torch.tensor(gradient)
        optimizer.step()
        weights.append(network.weight.detach().numpy().copy())
    return weights


@pytest.mark.parametrize("foreach", [False, True])
def test_the_papers_optimizer_updates_as_tensorflow(foreach: bool) -> None:
    recording = json.loads(RECORDING.read_text())
    paper = load_recipe("imagenet_paper_mobile")
    assert paper.optimizer_options == {"alpha": 0.9, "momentum": 0.9, "eps": 1.0}
    options = [f"optimizer_options.foreach={foreach}"] if "foreach" in signature(RMSpropTF).parameters else []
    if foreach and not options:
        pytest.skip("this timm's RMSpropTF has one form only")
    recipe = paper.with_settings(["weight_decay=0", *options])
    network = _Weight(recording["start"])
    trainer = Trainer(network, recipe, 1, 10, Execution(torch.device("cpu")))
    np.testing.assert_allclose(
        _follow(network, trainer.optimizer, recording), recording["weights"], rtol=2e-6, atol=2e-6
    )


def test_pytorchs_own_rmsprop_does_not() -> None:
    """Its epsilon stands outside the root and its average starts at 0: why the recipe names timm's."""
    recording = json.loads(RECORDING.read_text())
    network = _Weight(recording["start"])
    optimizer = torch.optim.RMSprop(network.parameters(), lr=RATES[0], alpha=0.9, momentum=0.9, eps=1.0)
    assert not np.allclose(_follow(network, optimizer, recording), recording["weights"], rtol=1e-2)


def test_the_recording_is_tensorflows() -> None:
    pytest.importorskip("tensorflow")
    recorded, now = json.loads(RECORDING.read_text()), record()
    assert recorded["gradients"] == now["gradients"]
    np.testing.assert_allclose(recorded["weights"], now["weights"], rtol=1e-6)
