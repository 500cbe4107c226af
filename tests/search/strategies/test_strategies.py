"""Strategies: the gradients of the controller, what learning does, and states that survive."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nasnet_det.search.strategies.base import EvolutionSettings, RegularizedEvolution, Result, Strategy, mutate
from nasnet_det.search.strategies.controller import Adam, Controller
from nasnet_det.search.strategies.guided import GaussianProcess, GuidedEvolution, GuidedSettings, normal_scores
from nasnet_det.search.strategies.policy_gradient import ControllerSettings, PolicyGradient, policy_gradient
from nasnet_det.search.strategies.registry import (
    DEFAULT,
    NAMES,
    OPTUNA_SAMPLERS,
    STRATEGIES,
    make_strategy,
    settings_of,
)

SIZES = (2, 3, 5, 4)


def reward_of(decisions: tuple[int, ...]) -> float:
    return sum(d * (i + 1) for i, d in enumerate(decisions)) / 30


def step(strategy: Strategy[Any], count: int, reward: Callable[[tuple[int, ...]], float] = reward_of) -> list[tuple]:
    """Ask ``count`` times, three results behind; gives what was asked for."""
    asked = []
    for _ in range(count):
        if len(strategy.asked) == 3:
            number, decisions = min(strategy.asked.items())
            strategy.tell(number, Result((reward(decisions),)))
        asked.append(strategy.ask())
    return asked


def tell(strategy: Strategy[Any], decisions: tuple[int, ...], reward: float) -> None:
    """Tell the result of what was asked for last."""
    assert strategy.asked[strategy.trials - 1] == decisions
    strategy.tell(strategy.trials - 1, Result((reward,)))


def make(name: str, seed: int = 1) -> Strategy[Any]:
    if name in OPTUNA_SAMPLERS:
        pytest.importorskip("optuna")
    return make_strategy(name, SIZES, seed)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_as_if_nothing_happened(name: str, tmp_path: Any) -> None:
    pytest.importorskip("optuna")
    from nasnet_det.search.strategy_state import read_state, write_state

    strategy = make(name)
    step(strategy, 47)
    write_state(tmp_path / "state", {"strategy": strategy.state_dict()})
    other = make(name)
    state = read_state(tmp_path / "state")
    assert state is not None
    other.load_state_dict(state["strategy"])
    assert step(other, 60) == step(strategy, 60)


@pytest.mark.parametrize("name", NAMES)
def test_decisions_exist_and_follow_from_the_seed(name: str) -> None:
    asked = step(make(name), 50)
    assert all(0 <= d < size for decisions in asked for d, size in zip(decisions, SIZES, strict=True))
    assert asked == step(make(name), 50) and asked != step(make(name, seed=2), 50)


def test_results_are_told_in_order() -> None:
    strategy = make("ppo")
    assert strategy.ask() != strategy.ask()
    with pytest.raises(ValueError, match="trial 0"):
        strategy.tell(1, Result((0.5,)))


@pytest.mark.parametrize("name", ["guided", "evolution", "ppo", "reinforce"])
def test_learning_finds_better_architectures_than_chance(name: str) -> None:
    sizes = (6,) * 8
    target = (1, 4, 0, 5, 2, 3, 3, 0)

    def reward(decisions: tuple[int, ...]) -> float:
        return sum(a == b for a, b in zip(decisions, target, strict=True)) / len(target)

    late = []
    for seed in range(3):
        asked = step(make_strategy(name, sizes, seed), 400, reward)
        late += [reward(decisions) for decisions in asked[-60:]]
    assert np.mean(late) > 0.35  # chance is 1/6


class Reference(nn.Module):
    """The controller in PyTorch, on the same weights."""

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self.controller = controller
        self.weights = {
            name: torch.tensor(value.astype(np.float64), requires_grad=True) for name, value in controller.named.items()
        }
        self.mask = torch.tensor(controller.mask[:, 0].astype(np.float64))

    def forward(self, decisions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        w, hidden_size = self.weights, self.controller.hidden
        h = c = torch.zeros(len(decisions), hidden_size, dtype=torch.float64)
        x = w["start"].expand(len(decisions), -1)
        joint, entropy = torch.zeros(len(decisions), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for t in range(self.controller.steps):
            gates = x @ w["input_weights"] + h @ w["hidden_weights"] + w["biases"]
            take, keep, show, new = gates.chunk(4, dim=1)
            c = torch.sigmoid(keep) * c + torch.sigmoid(take) * torch.tanh(new)
            h = torch.sigmoid(show) * torch.tanh(c)
            logits = h @ w["softmax_weights"][t] + w["softmax_biases"][t] + self.mask[t]
            categorical = torch.distributions.Categorical(logits=logits)
            joint = joint + categorical.log_prob(decisions[:, t])
            entropy = entropy + categorical.entropy().sum()
            if t + 1 < self.controller.steps:
                x = w["embeddings"][t][decisions[:, t]]
        return joint, entropy


def test_the_controller_s_gradients_are_those_of_autograd() -> None:
    rng = np.random.default_rng(0)
    controller = Controller(SIZES, rng, hidden=7, scale=0.5)
    decisions, sampled = controller.sample(6, rng)
    done = controller.forward(decisions)
    np.testing.assert_allclose(done.joint, sampled, rtol=1e-4)
    reference = Reference(controller)
    joint, entropy = reference(torch.tensor(decisions))
    np.testing.assert_allclose(done.joint, joint.detach().numpy(), rtol=1e-4)
    np.testing.assert_allclose(done.entropies.sum(), entropy.item(), rtol=1e-4)

    slope = rng.standard_normal(6).astype(np.float32)
    (torch.tensor(slope.astype(np.float64)) @ joint - 0.3 * entropy).backward()
    gradient = controller.views(controller.backward(done, slope, -0.3))
    for name, weight in reference.weights.items():
        assert weight.grad is not None
        np.testing.assert_allclose(gradient[name], weight.grad.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)


def test_sampling_follows_the_softmaxes() -> None:
    rng = np.random.default_rng(0)
    controller = Controller((3,), rng, hidden=4, scale=2.0)
    decisions, joint = controller.sample(20_000, rng)
    shares = np.bincount(decisions[:, 0], minlength=3) / len(decisions)
    expected = np.exp(controller.forward(np.arange(3)[:, None]).joint)
    np.testing.assert_allclose(shares, expected, atol=0.015)
    assert np.ptp(expected) > 0.1 and len(joint) == 20_000


@pytest.mark.parametrize("clip", [0.2, None])
def test_policy_gradients_are_those_of_the_loss(clip: float | None) -> None:
    rng = np.random.default_rng(1)
    old = rng.standard_normal(40).astype(np.float32)
    joint = (old + rng.uniform(-0.5, 0.5, 40)).astype(np.float32)
    advantages = rng.standard_normal(40).astype(np.float32)
    j = torch.tensor(joint, requires_grad=True)
    a = torch.tensor(advantages)
    if clip is None:
        loss = -(j * a).mean()
    else:
        ratio = (j - torch.tensor(old)).exp()
        loss = -torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a).mean()
    loss.backward()
    assert j.grad is not None
    np.testing.assert_allclose(policy_gradient(joint, old, advantages, clip), j.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_adam_is_pytorch_s() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(5).astype(np.float32)
    other = torch.tensor(weights.copy(), requires_grad=True)
    ours, theirs = Adam(5, 0.01), torch.optim.Adam([other], lr=0.01)
    for _ in range(20):
        gradient = rng.standard_normal(5).astype(np.float32)
        ours.step(weights, gradient)
        other.grad = torch.tensor(gradient)
        theirs.step()
    np.testing.assert_allclose(weights, other.detach().numpy(), rtol=1e-4)


def test_the_paper_s_settings() -> None:
    kind, settings = STRATEGIES["ppo_paper"]
    assert kind is PolicyGradient
    assert (settings.hidden, settings.learning_rate, settings.entropy_weight) == (100, 0.00035, 0.00001)
    assert (settings.baseline_decay, settings.minibatch, settings.weight_scale) == (0.95, 20, 0.1)
    strategy = make_strategy("ppo_paper", (2, 2, 13, 13, 2) * 10, 0)
    assert isinstance(strategy, PolicyGradient)
    assert strategy.controller.shapes["hidden_weights"] == (100, 400)
    assert len(strategy.controller.shapes["softmax_biases"]) == 2 and strategy.controller.steps == 50
    assert 0.099 < np.abs(strategy.controller.weights).max() <= 0.1


def test_the_baseline_is_a_moving_average_of_rewards() -> None:
    strategy = PolicyGradient(SIZES, 0, ControllerSettings(minibatch=4, epochs=1))
    rewards = [0.2, 0.4, 0.6, 0.8, 0.5, 0.5, 0.5, 0.5]
    for reward in rewards:
        tell(strategy, strategy.ask(), reward)
    expected = np.mean(rewards[:4])
    for reward in rewards:
        expected = 0.95 * expected + 0.05 * reward
    assert strategy.baseline == pytest.approx(expected)
    assert strategy.optimizer.steps == 2 and not strategy.batch


def test_an_update_waits_for_its_minibatch() -> None:
    strategy = PolicyGradient(SIZES, 0, replace(ControllerSettings(), minibatch=5))
    before = strategy.controller.weights.copy()
    for i in range(5):
        np.testing.assert_array_equal(strategy.controller.weights, before)
        tell(strategy, strategy.ask(), i / 5)
    assert (strategy.controller.weights != before).any()


def test_evolution_keeps_the_last_results_and_mutates_the_best() -> None:
    strategy = RegularizedEvolution(SIZES, 0, EvolutionSettings(population=4, sample=4, second_change=0.0))
    for reward in (0.9, 0.1, 0.2, 0.3, 0.4):
        tell(strategy, strategy.ask(), reward)
    assert [reward for _, reward in strategy.population] == [0.1, 0.2, 0.3, 0.4]
    child, parent = strategy.ask(), strategy.population[-1][0]
    assert sum(a != b for a, b in zip(child, parent, strict=True)) == 1


def test_decisions_without_a_choice_are_not_mutated() -> None:
    import random

    rng = random.Random(0)
    assert all(mutate((0, 0, 0), (1, 2, 1), 1, rng) == (0, 1, 0) for _ in range(20))
    assert mutate((0,), (1,), 3, rng) == (0,)


def test_the_process_predicts_neighbours() -> None:
    rng = np.random.default_rng(0)
    architectures = rng.integers(0, 4, (80, 6))
    rewards = (architectures == 2).mean(axis=1) + 0.01 * rng.standard_normal(80)
    process = GaussianProcess((4,) * 6, architectures, rewards)
    fresh = rng.integers(0, 4, (60, 6))
    mean, covariance = process.posterior(fresh)
    assert np.corrcoef(mean, (fresh == 2).mean(axis=1))[0, 1] > 0.8
    known, _ = process.posterior(architectures)
    assert np.corrcoef(known, normal_scores(rewards))[0, 1] > 0.9
    assert np.linalg.eigvalsh(covariance).min() > -1e-6 and process.kernel[0] in process.LENGTHS


def test_guided_evolution_does_not_repeat_itself_and_forgets() -> None:
    strategy = GuidedEvolution((4,) * 6, 0, GuidedSettings(initial=10, memory=40, revisit=60))
    asked = []
    for _ in range(120):
        asked.append(strategy.ask())
        tell(strategy, asked[-1], reward_of(asked[-1]))
        assert len(strategy.told) <= 40
    assert len(set(asked[60:])) == 60
    kept = [reward for _, reward in strategy.told]
    assert max(map(reward_of, asked)) in kept


def test_a_space_that_is_used_up_is_searched_on() -> None:
    strategy = GuidedEvolution((2, 1), 0, GuidedSettings(initial=2, mutants=8))
    for _ in range(10):
        tell(strategy, strategy.ask(), 0.5)


def test_settings_are_plain_and_checked() -> None:
    for name in STRATEGIES:
        assert json.loads(json.dumps(settings_of(make(name)))) == settings_of(make(name))
    assert type(make("default")) is STRATEGIES[DEFAULT][0]
    assert make_strategy("ppo", SIZES, 0, {"minibatch": 7}).settings.minibatch == 7
    for overrides, match in (
        ({"batch_size": 7}, "no setting 'batch_size'"),
        ({"minibatch": 7.5}, "is like 20, not 7.5"),
        ({"minibatch": "many"}, "is like 20, not 'many'"),
        ({"standardize": 1}, "is like True, not 1"),
        ({"weight_scale": math.nan}, r"is at most 1e\+09, not nan"),
        ({"minibatch": 0}, "no controller can have"),
    ):
        with pytest.raises(ValueError, match=match):
            make_strategy("ppo", SIZES, 0, overrides)
    with pytest.raises(ValueError, match="no strategy is called 'sa'"):
        make_strategy("sa", SIZES, 0)
    with pytest.raises(ValueError, match="at least one choice"):
        make_strategy("random", (2, 0), 0)
