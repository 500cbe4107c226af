"""The controller: its probabilities, entropies and samples."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from nasnet_det.search.strategies.controller import Controller
from tests.search.strategies.helpers import SIZES


def make_controller(sizes: tuple[int, ...] = SIZES, hidden: int = 7, scale: float = 0.5) -> Controller:
    return Controller(sizes, torch.Generator().manual_seed(0), hidden, scale)


def test_forward_is_the_lstm_one_decision_after_the_other() -> None:
    controller = make_controller()
    cell = nn.LSTMCell(7, 7)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in controller.lstm.state_dict().items()})
    decisions = torch.tensor([[0, 2, 4, 1], [1, 0, 3, 3]])
    joint, entropy = controller(decisions)
    inputs, state = controller.start.expand(2, -1), None
    for step, size in enumerate(SIZES):
        state = cell(inputs, state)
        logits = (state[0] @ controller.softmax_weights[step] + controller.softmax_biases[step])[:, :size]
        choice = torch.distributions.Categorical(logits=logits)
        joint = joint - choice.log_prob(decisions[:, step])
        entropy = entropy - choice.entropy()
        if step < len(SIZES) - 1:
            inputs = controller.embeddings[step][decisions[:, step]]
    torch.testing.assert_close(joint, torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, torch.zeros(2), atol=1e-5, rtol=0)


def test_the_probabilities_of_all_architectures_sum_to_one() -> None:
    every = torch.tensor(list(itertools.product(*map(range, SIZES))))
    assert abs(float(make_controller()(every)[0].exp().sum().detach()) - 1) < 1e-5


def test_samples_follow_the_softmaxes() -> None:
    controller = make_controller((3, 2), hidden=4, scale=2.0)
    decisions, joint = controller.sample(20_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(joint, controller(decisions)[0].detach())
    every = torch.tensor(list(itertools.product(range(3), range(2))))
    shares = (decisions[:, None] == every).all(dim=2).float().mean(dim=0)
    expected = controller(every)[0].exp().detach()
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)
    assert expected.max() - expected.min() > 0.1


def test_gradients_are_finite_with_decisions_of_different_sizes() -> None:
    controller = make_controller()
    joint, entropy = controller(torch.zeros(3, 4, dtype=torch.long))
    (joint.sum() - entropy.sum()).backward()
    trained = [weight for weight in controller.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in trained)
