"""The paper's search: an LSTM controller trained by PPO, or by REINFORCE, its predecessor (paper appendix A.2, A.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nasnet_det.search.strategies.base import Count, Decisions, Strategy
from nasnet_det.search.strategies.controller import Controller


@dataclass(frozen=True)
class ControllerSettings:
    """Settings of the controller and its training; the defaults are the paper's appendix A.2, to the letter.

    Args:
        hidden: units of the one-layer LSTM.
        learning_rate: learning rate of Adam; the paper does not name the optimizer.
        entropy_weight: weight of the entropy bonus, a mean over architectures.
        entropy: the bonus: ``sum`` for the sum of the decisions' entropies, ``log`` for its logarithm, whose gradient
            grows as the entropy falls, so that the controller does not end with sampling one architecture.
        baseline_decay: decay of the moving average of rewards that is subtracted from each reward.
        minibatch: architectures an update.
        clip: PPO's epsilon, on the ratio of joint probabilities (0.2 in PPO's paper); None for REINFORCE.
        epochs: gradient steps on each minibatch. Neither paper gives one for this use; PPO's has 3 to 15.
        standardize: divide a minibatch's advantages by their deviation (the paper scales by the accuracy itself).
        weight_scale: initial weights are uniform in [-weight_scale, weight_scale].
    """

    hidden: Count = 100
    learning_rate: Annotated[float, Field(gt=0, le=1e9)] = 0.00035
    entropy_weight: Annotated[float, Field(ge=0, le=1e9)] = 0.00001
    entropy: Literal["sum", "log"] = "sum"
    baseline_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    minibatch: Count = 20
    clip: Annotated[float, Field(gt=0, le=1e9)] | None = 0.2
    epochs: Count = 10
    standardize: bool = False
    weight_scale: Annotated[float, Field(ge=0, le=1e9)] = 0.1


class PolicyGradient(Strategy[ControllerSettings]):
    """A controller that samples architectures and learns from their rewards.

    Architectures are sampled a minibatch at a time; results are gathered until a minibatch is complete, then the
    controller is updated (appendix A.3). What was sampled before an update is still evaluated after it: PPO's ratio is
    taken to the probability that each architecture had when it was sampled.
    """

    settings_type = ControllerSettings

    def _begin(self) -> None:
        settings = self.settings
        self.generator = torch.Generator().manual_seed(self.seed)
        self.controller = Controller(self.sizes, self.generator, settings.hidden, settings.weight_scale)
        trained = [weight for weight in self.controller.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.Adam(trained, settings.learning_rate)
        self.baseline: float | None = None
        #: Sampled but not asked for; asked for but not told; told but not learned from: each with its log-probability.
        self.drawn: deque[tuple[Decisions, float]] = deque()
        self.waiting: deque[float] = deque()
        self.batch: list[tuple[Decisions, float, float]] = []

    def _ask(self) -> Decisions:
        if not self.drawn:
            decisions, joint = self.controller.sample(self.settings.minibatch, self.generator)
            self.drawn.extend((tuple(d), p) for d, p in zip(decisions.tolist(), joint.tolist(), strict=True))
            self.updates += 1
        decided, log_prob = self.drawn.popleft()
        self.waiting.append(log_prob)
        return decided

    def refuse(self) -> None:
        super().refuse()
        self.waiting.pop()

    def _tell(self, decisions: Decisions, reward: float) -> None:
        self.batch.append((decisions, self.waiting.popleft(), reward))
        if len(self.batch) == self.settings.minibatch:
            self._learn()
            self.batch = []
            self.updates += 1

    def _learn(self) -> None:
        settings = self.settings
        decisions = torch.tensor([decided for decided, _, _ in self.batch])
        old = torch.tensor([log_prob for _, log_prob, _ in self.batch])
        advantages = self._advantages(np.array([reward for _, _, reward in self.batch]))
        for _ in range(settings.epochs):
            joint, entropy = self.controller(decisions)
            bonus = entropy.mean() if settings.entropy == "sum" else (entropy.mean() + 1e-6).log()
            loss = policy_loss(joint, old, advantages, settings.clip) - settings.entropy_weight * bonus
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def _advantages(self, rewards: np.ndarray) -> Tensor:
        """Return rewards minus the moving average of those before, which starts at the first minibatch's mean."""
        baseline = float(rewards.mean()) if self.baseline is None else self.baseline
        advantages = np.empty(len(rewards))
        for i, reward in enumerate(rewards):
            advantages[i] = reward - baseline
            baseline += (1 - self.settings.baseline_decay) * (float(reward) - baseline)
        self.baseline = baseline
        if self.settings.standardize:
            advantages /= advantages.std() + 1e-8
        return torch.from_numpy(advantages).float()

    def _state(self) -> dict[str, Any]:
        moments = self.optimizer.state_dict()["state"]
        return {
            "rng": self.generator.get_state().numpy(),
            "weights": {name: weight.numpy().copy() for name, weight in self.controller.state_dict().items()},
            "adam": {str(i): {key: value.numpy().copy() for key, value in moments[i].items()} for i in moments},
            "baseline": self.baseline,
            "drawn": [[list(d), p] for d, p in self.drawn],
            "waiting": list(self.waiting),
            "batch": [[list(d), p, r] for d, p, r in self.batch],
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(torch.tensor(state["rng"]))
        self.controller.load_state_dict({name: torch.tensor(weight) for name, weight in state["weights"].items()})
        groups = self.optimizer.state_dict()["param_groups"]
        moments = {
            int(i): {key: torch.tensor(value) for key, value in values.items()} for i, values in state["adam"].items()
        }
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.baseline = state["baseline"]
        self.drawn = deque((tuple(d), p) for d, p in state["drawn"])
        self.waiting = deque(state["waiting"])
        self.batch = [(tuple(d), p, r) for d, p, r in state["batch"]]


def policy_loss(joint: Tensor, old: Tensor, advantages: Tensor, clip: float | None) -> Tensor:
    """Return the loss whose descent is the policy gradient.

    REINFORCE's loss is ``-mean(log p * advantage)``; PPO's is ``-mean(min(r A, clip(r, 1 - eps, 1 + eps) A))`` with
    ``r = p / p_old`` (Schulman et al. 2017, equation 7).

    Args:
        joint, old: log-probabilities of the architectures now and when they were sampled, ``(N,)``.
        advantages: ``(N,)``.
        clip: epsilon; None for REINFORCE.
    """
    if clip is None:
        return -(joint * advantages).mean()
    ratio = (joint - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()
