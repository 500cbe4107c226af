"""The paper's controller: a one-layer LSTM that makes one decision after the other.

Paper appendix A.2: 100 hidden units, one softmax for each of the 10 B decisions, the joint probability of an
architecture the product of theirs, weights uniform in [-0.1, 0.1]. Not in the paper: each decision is fed back as the
next input (Zoph and Le 2017, section 3.2) through an embedding of its own, as wide as the hidden state; the first input
is learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_NEVER = -1e9


class Controller(nn.Module):
    """The LSTM and its softmaxes.

    Args:
        sizes: the number of choices of each decision.
        generator: random numbers of the initial weights.
        hidden: units of the LSTM.
        scale: weights are uniform in [-scale, scale].
    """

    mask: Tensor

    def __init__(self, sizes: Sequence[int], generator: torch.Generator, hidden: int = 100, scale: float = 0.1) -> None:
        super().__init__()
        steps, choices = len(sizes), max(sizes)
        self.start = nn.Parameter(torch.empty(hidden))
        self.embeddings = nn.Parameter(torch.empty(steps - 1, choices, hidden))
        # PyTorch's two bias vectors would only be added; one of them stays 0.
        self.lstm = nn.LSTM(hidden, hidden)
        self.softmax_weights = nn.Parameter(torch.empty(steps, hidden, choices))
        self.softmax_biases = nn.Parameter(torch.empty(steps, 1, choices))
        missing = torch.arange(choices) >= torch.tensor(sizes)[:, None]
        self.register_buffer("mask", torch.where(missing, _NEVER, 0.0)[:, None], persistent=False)
        for name, weight in self.named_parameters():
            if name == "lstm.bias_hh_l0":
                nn.init.zeros_(weight).requires_grad_(False)
            else:
                nn.init.uniform_(weight, -scale, scale, generator=generator)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return ``count`` random architectures: decisions ``(count, T)`` and joint log-probabilities ``(count,)``."""
        decisions, joint = [], torch.zeros(count)
        inputs, state = self.start.expand(1, count, -1), None
        for step in range(len(self.mask)):
            hidden, state = self.lstm(inputs, state)
            log_probs = self._log_probs(hidden, step, step + 1)[0]
            drawn = torch.multinomial(log_probs.exp(), 1, generator=generator)
            joint += log_probs.gather(1, drawn)[:, 0]
            decisions.append(drawn)
            if step < len(self.embeddings):
                inputs = self.embeddings[step, drawn.T]
        return torch.cat(decisions, dim=1), joint

    def forward(self, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """Return joint log-probabilities ``(N,)`` and the sum of all softmaxes' entropies ``(N,)``.

        Args:
            decisions: ``(N, T)``.
        """
        chosen = decisions.T
        steps = torch.arange(len(self.embeddings))[:, None]
        inputs = torch.cat([self.start.expand(1, len(decisions), -1), self.embeddings[steps, chosen[:-1]]])
        log_probs = self._log_probs(self.lstm(inputs)[0], 0, len(chosen))
        joint = log_probs.gather(2, chosen[:, :, None]).sum(dim=(0, 2))
        return joint, -(log_probs.exp() * log_probs).sum(dim=(0, 2))

    def _log_probs(self, hidden: Tensor, first: int, last: int) -> Tensor:
        """Return the softmaxes of steps ``first`` to ``last - 1``, ``(steps, N, choices)``."""
        logits = hidden @ self.softmax_weights[first:last] + self.softmax_biases[first:last] + self.mask[first:last]
        return logits.log_softmax(dim=-1)
