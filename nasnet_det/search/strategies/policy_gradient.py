"""The paper's search: an LSTM controller taught by PPO, and by REINFORCE, its predecessor (paper appendix A.2, A.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasnet_det.search.strategies.base import Decisions, Problem, Strategy
from nasnet_det.search.strategies.controller import Adam, Controller, Floats


@dataclass(frozen=True)
class ControllerSettings:
    """The defaults are the paper's appendix A.2, to the letter.

    Args:
        hidden: units of the one-layer LSTM.
        learning_rate: of Adam, which the paper does not name.
        entropy_weight: of the entropy bonus: the mean over architectures of the sum over decisions.
        baseline_decay: the weight of the old value in the moving average of rewards that is taken off each reward.
        minibatch: architectures an update.
        clip: PPO's epsilon, on the ratio of joint probabilities; None for REINFORCE. PPO's paper has 0.2.
        epochs: gradient steps on each minibatch. Neither paper gives one for this use; PPO's has 3 to 15.
        standardize: divide a minibatch's advantages by their deviation (the paper scales by the accuracy itself).
        weight_scale: initial weights are uniform in [-weight_scale, weight_scale].
    """

    hidden: int = 100
    learning_rate: float = 0.00035
    entropy_weight: float = 0.00001
    baseline_decay: float = 0.95
    minibatch: int = 20
    clip: float | None = 0.2
    epochs: int = 10
    standardize: bool = False
    weight_scale: float = 0.1

    def __post_init__(self) -> None:
        if min(self.hidden, self.minibatch, self.epochs) < 1 or not 0 <= self.baseline_decay < 1:
            raise ValueError(f"no controller can have these settings: {self}")


class PolicyGradient(Strategy[ControllerSettings]):
    """The controller, what it waits for, and how it learns.

    Architectures are drawn a minibatch at a time and handed out one by one; results are gathered until a minibatch is
    complete, then the controller is updated (appendix A.3). What was drawn before an update is still handed out after
    it: PPO's ratio is taken to the probability that each architecture had when it was drawn.
    """

    settings_type = ControllerSettings

    def __init__(
        self,
        sizes: Sequence[int],
        seed: int,
        settings: ControllerSettings = ControllerSettings(),
        problem: Problem = Problem(),
    ) -> None:
        super().__init__(sizes, seed, settings, problem)
        self.rng = np.random.default_rng(seed)
        self.controller = Controller(sizes, self.rng, settings.hidden, settings.weight_scale)
        self.optimizer = Adam(len(self.controller.weights), settings.learning_rate)
        self.baseline: float | None = None
        #: Drawn but not asked for; asked for but not told; told but not learned from: each with its log-probability.
        self.drawn: deque[tuple[Decisions, float]] = deque()
        self.waiting: deque[float] = deque()
        self.batch: list[tuple[Decisions, float, float]] = []

    def _ask(self) -> Decisions:
        if not self.drawn:
            decisions, joint = self.controller.sample(self.settings.minibatch, self.rng)
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
        decisions = np.array([decided for decided, _, _ in self.batch])
        old = np.array([log_prob for _, log_prob, _ in self.batch], np.float32)
        advantages = self._advantages(np.array([reward for _, _, reward in self.batch]))
        for _ in range(settings.epochs):
            done = self.controller.forward(decisions)
            joint_grad = policy_gradient(done.joint, old, advantages, settings.clip)
            entropy_grad = -settings.entropy_weight / len(old)
            gradient = self.controller.backward(done, joint_grad, entropy_grad)
            self.optimizer.step(self.controller.weights, gradient)

    def _advantages(self, rewards: np.ndarray) -> Floats:
        """Each reward over the moving average of those before it, which then takes it in; the first minibatch's own
        mean is where the average starts."""
        baseline = float(rewards.mean()) if self.baseline is None else self.baseline
        advantages = np.empty(len(rewards))
        for i, reward in enumerate(rewards):
            advantages[i] = reward - baseline
            baseline += (1 - self.settings.baseline_decay) * (float(reward) - baseline)
        self.baseline = baseline
        if self.settings.standardize:
            advantages /= advantages.std() + 1e-8
        single: Floats = advantages.astype(np.float32)
        return single

    def _state(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "weights": self.controller.weights.copy(),
            "adam_mean": self.optimizer.mean.copy(),
            "adam_square": self.optimizer.square.copy(),
            "adam_steps": self.optimizer.steps,
            "baseline": self.baseline,
            "drawn": [[list(d), p] for d, p in self.drawn],
            "waiting": list(self.waiting),
            "batch": [[list(d), p, r] for d, p, r in self.batch],
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.controller.weights[:] = state["weights"]
        self.optimizer.mean[:] = state["adam_mean"]
        self.optimizer.square[:] = state["adam_square"]
        self.optimizer.steps = state["adam_steps"]
        self.baseline = state["baseline"]
        self.drawn = deque((tuple(d), p) for d, p in state["drawn"])
        self.waiting = deque(state["waiting"])
        self.batch = [(tuple(d), p, r) for d, p, r in state["batch"]]


def policy_gradient(joint: Floats, old: Floats, advantages: Floats, clip: float | None) -> Floats:
    """The gradient of the loss with respect to each joint log-probability, ``(N,)``.

    REINFORCE's loss is ``-mean(log p * advantage)``; PPO's is ``-mean(min(r A, clip(r, 1 - eps, 1 + eps) A))`` with
    ``r = p / p_old`` (Schulman et al. 2017, equation 7): where clipping took effect it is flat.
    """
    if clip is None:
        return -advantages / np.float32(len(advantages))
    ratio = np.exp(joint - old)
    flat = np.where(advantages > 0, ratio > 1 + clip, ratio < 1 - clip)
    slope: Floats = -ratio * advantages / np.float32(len(advantages))
    slope[flat] = 0
    return slope
