"""PPO and REINFORCE: the paper's settings, the baseline, minibatches and the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nasnet_det.search.strategies.base import Result
from nasnet_det.search.strategies.policy_gradient import ControllerSettings, PolicyGradient, policy_loss
from nasnet_det.search.strategies.registry import STRATEGIES, make_strategy
from tests.search.strategies.helpers import SIZES


def test_the_paper_s_settings() -> None:
    kind, settings = STRATEGIES["ppo_paper"]
    assert kind is PolicyGradient
    assert (settings.hidden, settings.learning_rate, settings.entropy_weight) == (100, 0.00035, 0.00001)
    assert (settings.baseline_decay, settings.minibatch, settings.weight_scale) == (0.95, 20, 0.1)
    strategy = make_strategy("ppo_paper", (2, 2, 13, 13, 2) * 10, 0)
    assert isinstance(strategy, PolicyGradient)
    assert strategy.controller.lstm.hidden_size == 100 and len(strategy.controller.softmax_weights) == 50
    largest = max(float(weight.detach().abs().max()) for weight in strategy.controller.parameters())
    assert 0.099 < largest <= 0.1


def test_the_baseline_is_a_moving_average_of_rewards() -> None:
    strategy = PolicyGradient(SIZES, 0, ControllerSettings(minibatch=4, epochs=1))
    rewards = [0.2, 0.4, 0.6, 0.8, 0.5, 0.5, 0.5, 0.5]
    for number, reward in enumerate(rewards):
        strategy.ask()
        strategy.tell(number, Result((reward,)))
    expected = np.mean(rewards[:4])
    for reward in rewards:
        expected = 0.95 * expected + 0.05 * reward
    assert strategy.baseline == pytest.approx(expected)
    assert not strategy.batch


def test_an_update_waits_for_its_minibatch() -> None:
    strategy = PolicyGradient(SIZES, 0, ControllerSettings(minibatch=5))
    before = strategy.controller.softmax_biases.detach().clone()
    for number in range(5):
        assert torch.equal(strategy.controller.softmax_biases, before)
        strategy.ask()
        strategy.tell(number, Result((number / 5,)))
    assert not torch.equal(strategy.controller.softmax_biases, before)


def test_rewarded_choices_become_more_probable() -> None:
    for clip in (0.2, None):
        strategy = PolicyGradient((2,), 0, ControllerSettings(minibatch=10, learning_rate=0.01, clip=clip))
        for number in range(200):
            strategy.tell(number, Result((float(strategy.ask()[0]),)))
        assert float(strategy.controller(torch.tensor([[1]]))[0].detach().exp()) > 0.8


def test_the_entropy_bonus_of_few_children_keeps_the_controller_exploring() -> None:
    strategy = make_strategy("ppo", (4,) * 6, 0)
    assert isinstance(strategy, PolicyGradient)
    for number in range(400):
        strategy.tell(number, Result((float(np.mean(strategy.ask())),)))
    sampled, _ = strategy.controller.sample(200, torch.Generator())
    distinct = len(sampled.unique(dim=0))
    assert 20 < distinct < 100, "neither the best architecture alone nor random ones"


def test_the_loss_is_flat_where_clipping_took_effect() -> None:
    old = torch.zeros(4)
    joint = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    policy_loss(joint, old, advantages, 0.2).backward()
    assert joint.grad is not None
    expected = -joint.detach().exp() * advantages / 4 * torch.tensor([0.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(joint.grad, expected)
