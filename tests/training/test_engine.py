"""A step follows its recipe: loss, clipping, decay, moving average, ScheduledDropPath, evaluation."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasnet_det.models.drop_path import ScheduledDropPath
from nasnet_det.models.network import NASNet
from nasnet_det.training import engine
from nasnet_det.training.engine import Trainer, evaluate_classifier
from nasnet_det.training.execution import Execution, choose_execution
from nasnet_det.training.recipe import Recipe, RecipeError
from nasnet_det.training.seeds import seed_step
from tests.helpers import assert_same

CPU = Execution(torch.device("cpu"))
PLAIN = Recipe("plain", "cifar", epochs=2, batch_size=4, learning_rate=0.1, optimizer_options={"momentum": 0.0})


class Linear(nn.Module):
    """Logits, and in training auxiliary logits, of flattened 2 x 2 images."""

    def __init__(self, auxiliary: bool = False) -> None:
        super().__init__()
        self.fc, self.aux = nn.Linear(12, 10), nn.Linear(12, 10) if auxiliary else None

    def forward(self, x: Tensor) -> Any:
        logits = self.fc(x.flatten(1))
        return (logits, self.aux(x.flatten(1))) if self.aux is not None and self.training else logits


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 3, 2, 2), torch.tensor([0, 3, 5, 9])


def _trainer(network: nn.Module, **settings: Any) -> Trainer:
    recipe = Recipe.from_dict({**PLAIN.to_dict(), **settings})
    return Trainer(network, recipe, 5, 10, CPU)


@pytest.mark.parametrize(("device", "expected"), [("cpu", 1), ("meta", 0)])
def test_training_on_a_cpu_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch, device: str, expected: int) -> None:
    calls: list[None] = []
    monkeypatch.setattr(engine, "keep_freed_memory", lambda: calls.append(None))
    Trainer(Linear().to(device), PLAIN, 5, 10, Execution(torch.device(device)))
    assert len(calls) == expected


def test_the_loss_is_smoothed_and_the_auxiliary_weighed(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    network = Linear(auxiliary=True)
    logits, aux = network(images)
    # TF's tf.losses.softmax_cross_entropy(label_smoothing=0.1), for both.
    targets = functional.one_hot(labels, 10) * 0.9 + 0.1 / 10
    expected = sum(
        weight * -(targets * functional.log_softmax(values, dim=1)).sum(1).mean()
        for weight, values in ((1.0, logits), (0.4, aux))
    )
    loss = _trainer(network, label_smoothing=0.1, aux_weight=0.4).step(images, labels)
    torch.testing.assert_close(loss, expected.detach())


@pytest.mark.parametrize("settings", [{}, {"mix": {"mixup_alpha": 0.2}}, {"loss": "binary_cross_entropy"}])
def test_the_loss_of_float64_logits_is_computed_in_float64(
    batch: tuple[Tensor, Tensor], settings: dict[str, Any]
) -> None:
    images, labels = batch[0].double(), batch[1]
    losses = {}
    for dtype in (torch.float64, torch.bfloat16):
        seed_step(0, 0)
        trainer = _trainer(Linear(auxiliary=True).to(dtype), label_smoothing=0.1, aux_weight=0.4, **settings)
        losses[dtype] = trainer.step(images.to(dtype), labels)
    assert losses[torch.float64].dtype == torch.float64 and losses[torch.bfloat16].dtype == torch.float32
    if not settings:
        seed_step(0, 0)
        logits, auxiliary = Linear(auxiliary=True).double()(images)
        expected = functional.cross_entropy(logits, labels, label_smoothing=0.1)
        expected += 0.4 * functional.cross_entropy(auxiliary, labels, label_smoothing=0.1)
        assert losses[torch.float64].item() == pytest.approx(expected.item(), rel=1e-14)


def test_l2_is_on_weights_and_not_on_biases(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    network = Linear()
    before = copy.deepcopy(network)
    functional.cross_entropy(before(images), labels).backward()
    _trainer(network, weight_decay=0.5).step(images, labels)
    weight = before.fc.weight.detach()
    torch.testing.assert_close(network.fc.weight.data, weight - 0.1 * (before.fc.weight.grad + 0.5 * weight))
    torch.testing.assert_close(network.fc.bias.data, before.fc.bias.detach() - 0.1 * before.fc.bias.grad)


def test_the_gradients_norm_is_clipped(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    network = Linear()
    before = torch.cat([p.detach().clone().flatten() for p in network.parameters()])
    _trainer(network, clip_gradient_norm=0.01).step(images, labels)
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_the_moving_average_is_what_is_measured(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    network = Linear()
    average = network.fc.weight.detach().clone()
    trainer = _trainer(network, ema_decay=0.99)
    for step in range(1, 4):
        trainer.step(images, labels)
        decay = min(0.99, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * network.fc.weight.detach()
    torch.testing.assert_close(trainer.measured_model.fc.weight, average)
    assert trainer.measured_model is not trainer.model


def test_drop_path_rises_over_the_whole_of_training() -> None:
    network = NASNet(num_cells=1, num_filters=4, stem="cifar", num_classes=10, drop_path_rate=0.4)
    paths = [module for module in network.modules() if isinstance(module, ScheduledDropPath)]
    trainer = _trainer(network)
    for step in range(3):
        trainer.step(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))
        np.testing.assert_allclose([path.progress for path in paths], step / 10, rtol=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_mixed_images_have_mixed_targets_which_are_smoothed_once(loss: str, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    network, mix = Linear(), {"mixup_alpha": 0.5, "cutmix_alpha": 1.0}
    trainer = _trainer(network, mix=mix, loss=loss, label_smoothing=0.1)
    seed_step(0, 0)
    mixed, targets = trainer.mix(images.clone(), labels)
    assert not torch.equal(mixed, images) and targets.min() == pytest.approx(0.1 / 10)
    function = functional.cross_entropy if loss == "cross_entropy" else functional.binary_cross_entropy_with_logits
    expected = function(network(mixed), targets).detach()
    seed_step(0, 0)
    torch.testing.assert_close(trainer.step(images.clone(), labels), expected)


@pytest.mark.parametrize(
    "optimizer", ["momentum", "rmsproptf", "lamb", "adamw", "adafactor", "larc", "lookahead_adamw"]
)
def test_a_state_is_taken_up_exactly(optimizer: str, batch: tuple[Tensor, Tensor]) -> None:
    """Whatever an optimizer keeps, and whenever it makes it: Lookahead at its sixth step."""

    def trainer() -> Trainer:
        torch.manual_seed(1)
        return _trainer(Linear(), optimizer=optimizer, optimizer_options={}, learning_rate=0.01, ema_decay=0.9)

    whole = trainer()
    for _ in range(9):
        state = copy.deepcopy(whole.state_dict())
        whole.step(*batch)
        taken_up = trainer()
        taken_up.load_state_dict(state)
        taken_up.step(*batch)
        assert_same(taken_up.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda state: state["state"][0].update(step=torch.zeros(54)), "'step'"),
        (lambda state: state["state"][0].update(step=torch.tensor(-1.0)), "'step'"),
        (lambda state: state["state"][1].update(exp_avg=state["state"][0]["exp_avg"]), "'exp_avg'"),
        (lambda state: state["state"][1].pop("exp_avg_sq"), "incomplete"),
        (lambda state: state["param_groups"][0].update(capturable=True), "settings differ"),
        (lambda state: state["param_groups"][0].update(betas=(0.5, 0.999)), "settings differ"),
        (lambda state: state["param_groups"][0].update(params=[1, 1]), "settings differ"),
    ],
)
def test_another_optimizers_state_is_refused(spoil: Any, named: str, batch: tuple[Tensor, Tensor]) -> None:
    trainer = _trainer(Linear(), optimizer="adamw", optimizer_options={})
    trainer.step(*batch)
    state = copy.deepcopy(trainer.state_dict())
    spoil(state["optimizer"])
    with pytest.raises(ValueError, match=named):
        _trainer(Linear(), optimizer="adamw", optimizer_options={}).load_state_dict(state)


@pytest.mark.parametrize("alpha", [-0.5, 1e-320, 1e9])
def test_a_mix_that_numpy_cannot_draw_is_refused(alpha: float) -> None:
    with pytest.raises(RecipeError, match="0, or from 1e-6"):
        _trainer(Linear(), mix={"mixup_alpha": 0.5, "cutmix_alpha": alpha})


def test_a_number_is_no_truth_value() -> None:
    with pytest.raises(RecipeError, match=r"momentum.*True"):
        _trainer(Linear(), optimizer_options={"momentum": True})
    _trainer(Linear(), optimizer_options={"momentum": 0.9, "nesterov": True})


def test_evaluation_counts_every_image_once(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    network = Linear()
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(-torch.arange(10.0))  # the classes in order, for any image
    measured = evaluate_classifier(network, iter([(images[:3], labels[:3]), (images[3:], labels[3:])]), CPU)
    assert (measured.top1, measured.top5, measured.images) == (0.25, 0.5, 4)
    assert measured.loss == pytest.approx(functional.cross_entropy(network(images), labels).item(), rel=1e-6)
    with pytest.raises(ValueError, match="image"):
        evaluate_classifier(network, iter([]), CPU)


def test_bfloat16_and_channels_last_train(batch: tuple[Tensor, Tensor]) -> None:
    network = NASNet(num_cells=1, num_filters=4, stem="cifar", num_classes=10)
    execution = Execution(torch.device("cpu"), "bfloat16", channels_last=True)
    trainer = Trainer(network, PLAIN, 5, 10, execution)
    loss = trainer.step(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))
    assert math.isfinite(loss) and network.stem.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_executions_that_cannot_be_are_named() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        choose_execution("nowhere")
    with pytest.raises(ValueError, match="float8"):
        choose_execution("cpu", "float8")
    with pytest.raises(ValueError, match=r"graph.*cpu"):
        choose_execution("cpu", mode="graph")
    assert choose_execution("cpu") == Execution(torch.device("cpu"), "float32", channels_last=True)


def test_a_compiled_network_trains_like_the_eager_one(
    batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    losses = []
    for execution in (CPU, replace(CPU, mode="compile")):
        seed_step(0, 0)
        trainer = Trainer(Linear(), PLAIN, 5, 10, execution)
        losses.append([trainer.step(*batch).item() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", ["eager", "graph", "compile"])
def test_every_mode_trains_alike_on_a_gpu(mode: str) -> None:
    losses = {}
    for tried in ("eager", mode):
        seed_step(0, 0)
        network = NASNet(num_cells=1, num_filters=8, stem="cifar", num_classes=10, aux_head=True, img_size=32)
        execution = choose_execution("cuda", "float32", channels_last=True, mode=tried)
        trainer = Trainer(network, Recipe.from_dict({**PLAIN.to_dict(), "aux_weight": 0.4}), 5, 10, execution)
        images = torch.randn(8, 3, 32, 32, device="cuda")
        labels = torch.arange(8, device="cuda")
        losses[tried] = [trainer.step(images, labels).item() for _ in range(4)]
        assert trainer.evaluate(iter([(images, labels)])).images == 8
    np.testing.assert_allclose(losses[mode], losses["eager"], rtol=2e-2)
