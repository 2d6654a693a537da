"""AutoInit, written down from its paper: weights scaled by the mean and variance that signals have on paper, no data.

Bingham & Miikkulainen 2023, "AutoInit: Analytic Signal-Preserving Weight Initialization for Neural Networks"
(arXiv:2109.08958). A layer with weights gets ``Var[w] = 1 / (fan_in * (variance + mean^2))`` of the signal that comes
in, so that what goes out has mean 0 and variance 1; any other layer maps mean and variance to mean and variance. Its
authors draw from a truncated normal distribution, take inputs for standardized, and sample what has no closed form.

Where the paper names no formula for an operation of these networks, the same idea is applied to its parts: query, key
and value are layers with weights, attention is an average with the weights of a softmax of standard normal scores, and
a recurrent layer is one layer with weights that sees input and state side by side, whose gates are then independent
standard normal numbers. Nothing of initaudit is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from _networks import Convolutional, Plain, Recurrent, Residual, Transformer
from torch import Tensor, nn
from torch.nn import init

TRUNCATED = 0.8796256610342398  # std of a standard normal number that is known to lie within two
SAMPLES = 10_000  # where there is no closed form
POINTS = np.linspace(-8, 8, 4001)  # with the density of the standard normal distribution, for integrals over it
DENSITY = np.exp(-(POINTS**2) / 2) / np.exp(-(POINTS**2) / 2).sum()
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Signal:
    """Mean and variance of the numbers that a layer is given; the default is that of standardized data."""

    mean: float = 0.0
    variance: float = 1.0

    @property
    def square(self) -> float:
        return self.variance + self.mean**2

    def __add__(self, other: Signal) -> Signal:
        return Signal(self.mean + other.mean, self.variance + other.variance)

    def average(self, count: float) -> Signal:
        """Of ``count`` independent ones."""
        return Signal(self.mean, self.variance / count)


def autoinit(model: nn.Module) -> None:
    """Initialize one of the benchmark's networks; norms stay as they are."""
    FAMILIES[type(model)](model)


def weigh(layer: nn.Module, signal: Signal) -> Signal:
    """Initialize a layer with weights for what it is given; what it then gives."""
    draw(layer.weight, 1 / (layer.weight[0].numel() * signal.square))
    init.zeros_(layer.bias)
    return Signal()


def draw(weight: Tensor, variance: float) -> None:
    std = math.sqrt(variance) / TRUNCATED
    init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def activate(phi: Activation, signal: Signal) -> Signal:
    """Mean and variance of ``phi`` of a normal number, by the trapezoid rule, which kinks do not disturb."""
    y = phi(torch.from_numpy(signal.mean + math.sqrt(signal.variance) * POINTS)).numpy()
    mean = float(DENSITY @ y)
    return Signal(mean, float(DENSITY @ (y - mean) ** 2))


def normalize(norm: nn.Module, signal: Signal) -> Signal:
    return signal if isinstance(norm, nn.Identity) else Signal()


def _plain(model: Plain) -> None:
    signal = Signal()
    for layer, norm in zip(model.layers, model.norms, strict=False):
        signal = activate(model.activation, normalize(norm, weigh(layer, signal)))
    weigh(model.layers[-1], signal)


def _residual(model: Residual) -> None:
    signal = weigh(model.stem, Signal())
    for norm, first, second in zip(model.norms, model.first, model.second, strict=True):
        signal += weigh(second, activate(model.activation, weigh(first, normalize(norm, signal))))
    weigh(model.head, normalize(model.last_norm, signal))


def _convolutional(model: Convolutional) -> None:
    signal = Signal()
    for conv, norm in zip(model.convs, model.norms, strict=True):
        signal = activate(model.activation, normalize(norm, weigh(conv, signal)))
    weigh(model.head, signal)


def _transformer(model: Transformer) -> None:
    tokens = len(model.position)
    std, mean = torch.std_mean(model.position.detach())
    signal = weigh(model.embed, Signal()) + Signal(float(mean), float(std) ** 2)
    norms = iter(model.norms)
    for qkv, out, up, down in zip(model.qkv, model.out, model.up, model.down, strict=True):
        signal = _branch(model, next(norms), signal, lambda s, q=qkv, o=out: weigh(o, attend(weigh(q, s), tokens)))
        signal = _branch(
            model, next(norms), signal, lambda s, u=up, d=down: weigh(d, activate(model.activation, weigh(u, s)))
        )
    weigh(model.head, normalize(model.last_norm, signal).average(tokens))


def _branch(model: Transformer, norm: nn.Module, signal: Signal, branch: Callable[[Signal], Signal]) -> Signal:
    if model.pre:
        return signal + branch(normalize(norm, signal))
    return normalize(norm, signal + branch(signal))


def attend(values: Signal, tokens: int) -> Signal:
    """The average of the values of all tokens, weighted by the softmax of standard normal scores."""
    scores = np.exp(np.random.default_rng(0).standard_normal((SAMPLES, tokens)))
    weights = scores / scores.sum(1, keepdims=True)
    return values.average(1 / float((weights**2).sum(1).mean()))


def _recurrent(model: Recurrent) -> None:
    state = CELLS[type(model.rnn)](model.steps)
    variance = 1 / (model.rnn.input_size * Signal().square + model.rnn.hidden_size * state.square)
    for name, parameter in model.rnn.named_parameters():
        draw(parameter, variance) if "weight" in name else init.zeros_(parameter)
    weigh(model.head, state)


def rnn_state(steps: int) -> Signal:
    return activate(torch.tanh, Signal())


def lstm_state(steps: int) -> Signal:
    """The state after ``steps`` of a cell whose gates and candidates come from standard normal numbers."""
    generator = np.random.default_rng(0)
    cell = np.zeros(SAMPLES)
    for _ in range(steps):
        keep, write, candidate, show = generator.standard_normal((4, SAMPLES))
        cell = _sigmoid(keep) * cell + _sigmoid(write) * np.tanh(candidate)
    return _signal(_sigmoid(show) * np.tanh(cell))


def gru_state(steps: int) -> Signal:
    """As :func:`lstm_state`."""
    generator = np.random.default_rng(0)
    state = np.zeros(SAMPLES)
    for _ in range(steps):
        keep, candidate = generator.standard_normal((2, SAMPLES))
        state = _sigmoid(keep) * state + _sigmoid(-keep) * np.tanh(candidate)
    return _signal(state)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _signal(samples: np.ndarray) -> Signal:
    return Signal(float(samples.mean()), float(samples.var()))


FAMILIES: dict[type[nn.Module], Callable[..., None]] = {
    Plain: _plain,
    Residual: _residual,
    Convolutional: _convolutional,
    Transformer: _transformer,
    Recurrent: _recurrent,
}
CELLS: dict[type[nn.Module], Callable[[int], Signal]] = {nn.RNN: rnn_state, nn.LSTM: lstm_state, nn.GRU: gru_state}
