"""The paper's controller: a one-layer LSTM that makes one decision after the other, and its gradients.

Paper appendix A.2: 100 hidden units, one softmax for each of the 10 B decisions, the joint probability of an
architecture the product of theirs, weights uniform in [-0.1, 0.1]. What it does not say, and is so here: each decision
is fed back as the next input (Zoph and Le 2017, section 3.2), through an embedding of its own as wide as the hidden
state; the first input is learned.

The network is small and runs thousands of times on little batches, where a framework costs more than the arithmetic:
forward and backward pass are written in NumPy. All weights lie in one vector, and so do their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
_NEVER = np.float32(-1e9)


@dataclass
class Pass:
    """What a forward pass over N architectures of T decisions leaves for the backward pass.

    ``log_probs`` is ``(T, N, C)``, C the most choices of any decision; choices that a decision has not got are at -1e9.
    The rest: decisions one-hot ``(T, N, C)``, inputs, hidden and cell states ``(T, N, H)``, gates ``(T, N, 4H)``.
    """

    log_probs: Floats
    chosen: Floats
    inputs: Floats
    hidden: Floats
    cells: Floats
    gates: Floats

    @property
    def joint(self) -> Floats:
        """The log-probability of each architecture, ``(N,)``."""
        return (self.log_probs * self.chosen).sum(axis=(0, 2))

    @property
    def entropies(self) -> Floats:
        """The entropy of each decision's softmax, ``(T, N)``."""
        return -(np.exp(self.log_probs) * self.log_probs).sum(axis=2)


class Controller:
    """The LSTM and its softmaxes.

    Args:
        sizes: the number of choices of each decision.
        rng: draws the weights.
        hidden: units of the LSTM.
        scale: weights are uniform in [-scale, scale].
    """

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator, hidden: int = 100, scale: float = 0.1) -> None:
        steps, choices = len(sizes), max(sizes)
        self.steps, self.choices, self.hidden = steps, choices, hidden
        self.shapes = {
            "start": (hidden,),
            "embeddings": (steps - 1, choices, hidden),
            "input_weights": (hidden, 4 * hidden),
            "hidden_weights": (hidden, 4 * hidden),
            "biases": (4 * hidden,),
            "softmax_weights": (steps, hidden, choices),
            "softmax_biases": (steps, choices),
        }
        total = sum(int(np.prod(shape)) for shape in self.shapes.values())
        self.weights: Floats = rng.uniform(-scale, scale, total).astype(np.float32)
        exists = np.arange(choices)[None, :] < np.asarray(sizes)[:, None]
        #: The weights by name: windows on ``weights``, which is therefore changed in place only.
        self.named = self.views(self.weights)
        self.mask: Floats = np.where(exists, np.float32(0), _NEVER)[:, None, :]

    def views(self, vector: Floats) -> dict[str, Floats]:
        """The named arrays that lie one after the other in a vector of all weights."""
        parts, start = {}, 0
        for name, shape in self.shapes.items():
            end = start + int(np.prod(shape))
            parts[name] = vector[start:end].reshape(shape)
            start = end
        return parts

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Integers, Floats]:
        """Draw architectures: decisions ``(count, T)`` and the log-probability of each, ``(count,)``."""
        w = self.named
        decisions = np.empty((count, self.steps), np.int64)
        joint = np.zeros(count, np.float32)
        hidden = cell = np.zeros((count, self.hidden), np.float32)
        x = np.broadcast_to(w["start"], hidden.shape)
        rows = np.arange(count)
        for t in range(self.steps):
            gates = _gates(x @ w["input_weights"] + hidden @ w["hidden_weights"] + w["biases"])
            hidden, cell = _step(gates, cell)
            log_probs = _log_softmax(hidden @ w["softmax_weights"][t] + w["softmax_biases"][t] + self.mask[t])
            # The largest of log-probabilities with Gumbel noise is a draw from them.
            drawn = (log_probs + rng.gumbel(size=log_probs.shape).astype(np.float32)).argmax(axis=1)
            decisions[:, t] = drawn
            joint += log_probs[rows, drawn]
            if t + 1 < self.steps:
                x = w["embeddings"][t, drawn]
        return decisions, joint

    def forward(self, decisions: Integers) -> Pass:
        """The log-probabilities of every choice along given architectures, ``(N, T)``."""
        w = self.named
        count = len(decisions)
        chosen = (decisions.T[:, :, None] == np.arange(self.choices)).astype(np.float32)
        inputs = np.empty((self.steps, count, self.hidden), np.float32)
        inputs[0] = w["start"]
        inputs[1:] = chosen[:-1] @ w["embeddings"]
        gates = inputs @ w["input_weights"] + w["biases"]
        hiddens, cells = np.empty_like(inputs), np.empty_like(inputs)
        hidden = cell = np.zeros((count, self.hidden), np.float32)
        for t in range(self.steps):
            gates[t] = _gates(gates[t] + hidden @ w["hidden_weights"])
            hidden, cell = hiddens[t], cells[t] = _step(gates[t], cell)
        logits = hiddens @ w["softmax_weights"] + w["softmax_biases"][:, None, :] + self.mask
        return Pass(_log_softmax(logits), chosen, inputs, hiddens, cells, gates)

    def backward(self, done: Pass, joint_grad: Floats, entropy_grad: float = 0.0) -> Floats:
        """The gradient with respect to all weights of a loss whose gradient with respect to each architecture's joint
        log-probability is ``joint_grad`` ``(N,)``, and to each decision's entropy ``entropy_grad``."""
        w = self.named
        gradient = np.empty_like(self.weights)
        g = self.views(gradient)
        probs = np.exp(done.log_probs)
        d_logits: Floats = (done.chosen - probs) * joint_grad[None, :, None]
        if entropy_grad:
            d_logits -= np.float32(entropy_grad) * probs * (done.log_probs + done.entropies[:, :, None])
        g["softmax_weights"][:] = done.hidden.transpose(0, 2, 1) @ d_logits
        g["softmax_biases"][:] = d_logits.sum(axis=1)
        d_gates = self._backward_through_time(done, d_logits @ w["softmax_weights"].transpose(0, 2, 1))
        flat = d_gates.reshape(-1, 4 * self.hidden)
        before = done.hidden[:-1].reshape(-1, self.hidden)
        g["hidden_weights"][:] = before.T @ d_gates[1:].reshape(-1, 4 * self.hidden)
        g["input_weights"][:] = done.inputs.reshape(-1, self.hidden).T @ flat
        g["biases"][:] = flat.sum(axis=0)
        d_inputs = (flat @ w["input_weights"].T).reshape(done.inputs.shape)
        g["start"][:] = d_inputs[0].sum(axis=0)
        g["embeddings"][:] = done.chosen[:-1].transpose(0, 2, 1) @ d_inputs[1:]
        return gradient

    def _backward_through_time(self, done: Pass, d_hiddens: Floats) -> Floats:
        """The gradient with respect to the gates before their activations, ``(T, N, 4H)``."""
        weights = self.named["hidden_weights"].T
        d_gates = np.empty_like(done.gates)
        d_hidden = d_cell = np.zeros_like(d_hiddens[0])
        for t in reversed(range(self.steps)):
            take, keep, show, new = _four(done.gates[t])
            d_take, d_keep, d_show, d_new = _four(d_gates[t])
            squashed = np.tanh(done.cells[t])
            d_hidden = d_hiddens[t] + d_hidden
            d_cell = d_cell + d_hidden * show * (1 - squashed * squashed)
            previous = done.cells[t - 1] if t else np.zeros_like(d_cell)
            d_take[:] = d_cell * new * take * (1 - take)
            d_keep[:] = d_cell * previous * keep * (1 - keep)
            d_show[:] = d_hidden * squashed * show * (1 - show)
            d_new[:] = d_cell * take * (1 - new * new)
            d_cell = d_cell * keep
            d_hidden = d_gates[t] @ weights
        return d_gates


class Adam:
    """Kingma and Ba's optimizer on one vector, with its usual constants."""

    def __init__(self, size: int, learning_rate: float) -> None:
        self.learning_rate, self.steps = learning_rate, 0
        self.mean: Floats = np.zeros(size, np.float32)
        self.square: Floats = np.zeros(size, np.float32)

    def step(self, weights: Floats, gradient: Floats) -> None:
        """Change ``weights`` against ``gradient``."""
        self.steps += 1
        self.mean += np.float32(0.1) * (gradient - self.mean)
        self.square += np.float32(0.001) * (gradient * gradient - self.square)
        rate = self.learning_rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        weights -= np.float32(rate) * self.mean / (np.sqrt(self.square) + np.float32(1e-8))


def _gates(before: Floats) -> Floats:
    """The activations of the four gates ``(N, 4H)``: take, keep, show (logistic) and new (tanh)."""
    hidden = before.shape[1] // 4
    # One tanh for all: the logistic function of x is (1 + tanh(x / 2)) / 2.
    before[:, : 3 * hidden] *= np.float32(0.5)
    gates = np.tanh(before)
    gates[:, : 3 * hidden] += np.float32(1)
    gates[:, : 3 * hidden] *= np.float32(0.5)
    return gates


def _four(gates: Floats) -> Floats:
    """The four gates apart: ``(N, 4H)`` seen as ``(4, N, H)``."""
    return gates.reshape(len(gates), 4, -1).transpose(1, 0, 2)


def _step(gates: Floats, cell: Floats) -> tuple[Floats, Floats]:
    take, keep, show, new = _four(gates)
    cell = keep * cell + take * new
    return show * np.tanh(cell), cell


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
