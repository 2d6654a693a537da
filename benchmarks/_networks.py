"""The networks of the trainability benchmark: architecture x activation x depth x how it is initialized."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init

WIDTH = 64
CHANNELS = 12
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "selu": F.selu,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
}
# 1/sqrt(E[phi(z)^2]) for z ~ N(0, 1); written down here, so that the benchmark does not lean on what it judges.
GAINS = {"relu": 1.414214, "gelu": 1.533530, "silu": 1.676533, "elu": 1.245198, "leaky_relu": 1.414143}


@dataclass(frozen=True)
class Network:
    """One network: ``scheme`` is a key of :data:`SCHEMES`, followed by its argument if it takes one (``"x 1.5"``)."""

    family: str
    activation: str
    depth: int
    scheme: str
    data: str = "digits"
    seed: int = 0

    def __str__(self) -> str:
        data = "" if self.data == "digits" else f", {self.data}"
        seed = f", seed {self.seed}" if self.seed else ""
        return f"{self.family} {self.activation} {self.depth}, {self.scheme}{data}{seed}"

    @property
    def held_out(self) -> bool:
        """Half of the networks by a hash; those that differ in nothing but the seed stay together."""
        key = f"{self.family}/{self.activation}/{self.depth}/{self.scheme}/{self.data}"
        return hashlib.sha256(key.encode()).digest()[0] % 2 == 1

    def build(self, features: int, classes: int) -> nn.Module:
        """The network with its weights drawn from its seed."""
        torch.manual_seed(1000 + self.seed)
        model = FAMILIES[self.family](self.activation, self.depth, features, classes)
        word, _, argument = self.scheme.partition(" ")
        SCHEMES[word](Weights(model, self.activation), argument)
        return model


class Plain(nn.Module):
    """Linear layers with the activation between; ``norm`` after each hidden layer, before its activation."""

    def __init__(
        self, activation: str, depth: int, features: int, classes: int, norm: Callable[[int], nn.Module] = nn.Identity
    ) -> None:
        super().__init__()
        widths = [features, *[WIDTH] * (depth - 1), classes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(norm(WIDTH) for _ in range(depth - 1))
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = self.activation(norm(layer(x)))
        return self.layers[-1](x)


class Residual(nn.Module):
    """``x + second(phi(first(norm(x))))``, two linear layers to a block."""

    def __init__(
        self, activation: str, depth: int, features: int, classes: int, norm: Callable[[int], nn.Module] = nn.Identity
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 2
        self.stem = nn.Linear(features, WIDTH)
        self.first = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.norms = nn.ModuleList(norm(WIDTH) for _ in range(blocks))
        self.last_norm = norm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, first, second in zip(self.norms, self.first, self.second, strict=True):
            x = x + second(self.activation(first(norm(x))))
        return self.head(self.last_norm(x))


class Convolutional(nn.Module):
    """3x3 convolutions, the first of which halves the 8x8 image, and a linear head."""

    def __init__(
        self, activation: str, depth: int, features: int, classes: int, norm: Callable[[int], nn.Module] = nn.Identity
    ) -> None:
        super().__init__()
        channels = [1, *[CHANNELS] * (depth - 1)]
        strides = [2, *[1] * (depth - 2)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=s, padding=1) for a, b, s in zip(channels, channels[1:], strides, strict=False)
        )
        self.norms = nn.ModuleList(norm(CHANNELS) for _ in self.convs)
        self.head = nn.Linear(CHANNELS * 16, classes)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (1, 8, 8))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.activation(norm(conv(x)))
        return self.head(x.flatten(1))


class Transformer(nn.Module):
    """The rows of the image as tokens; self-attention and an MLP to a block, LayerNorm before or after each branch."""

    def __init__(self, activation: str, depth: int, features: int, classes: int, pre: bool = True) -> None:
        super().__init__()
        width, self.heads, self.pre = 32, 4, pre
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(torch.randn(8, width) * 0.02)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.last_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.head = nn.Linear(width, classes)
        self.activation = ACTIVATIONS[activation]

    def attend(self, i: int, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv[i](x).chunk(3, -1))
        attention = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.out[i]((attention @ v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.unflatten(1, (8, 8))) + self.position
        for i in range(len(self.qkv)):
            branches = (lambda y: self.attend(i, y), lambda y: self.down[i](self.activation(self.up[i](y))))  # noqa: B023
            for branch, norm in zip(branches, self.norms[2 * i : 2 * i + 2], strict=True):
                x = x + branch(norm(x)) if self.pre else norm(x + branch(x))
        return self.head(self.last_norm(x).mean(1))


class Recurrent(nn.Module):
    """A recurrent network of torch's that reads the image in ``depth`` steps; the last state goes to the head."""

    def __init__(self, activation: str, depth: int, features: int, classes: int, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.steps = depth
        self.rnn = kind(features // depth, 32, batch_first=True)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.unflatten(1, (self.steps, -1)))[0][:, -1])


def _with(family: Callable[..., nn.Module], /, **options: object) -> Callable[..., nn.Module]:
    return lambda *arguments: family(*arguments, **options)


def batch_norm(width: int) -> nn.Module:
    return nn.BatchNorm1d(width, track_running_stats=False)


def batch_norm_2d(width: int) -> nn.Module:
    return nn.BatchNorm2d(width, track_running_stats=False)


FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "mlp": Plain,
    "mlp+ln": _with(Plain, norm=nn.LayerNorm),
    "mlp+bn": _with(Plain, norm=batch_norm),
    "residual": Residual,
    "residual+ln": _with(Residual, norm=nn.LayerNorm),
    "residual+bn": _with(Residual, norm=batch_norm),
    "cnn": Convolutional,
    "cnn+bn": _with(Convolutional, norm=batch_norm_2d),
    "transformer": _with(Transformer, pre=True),
    "transformer-post": _with(Transformer, pre=False),
    "rnn": _with(Recurrent, kind=nn.RNN),
    "lstm": _with(Recurrent, kind=nn.LSTM),
    "gru": _with(Recurrent, kind=nn.GRU),
}


class Weights:
    """What a scheme may change: the weights and biases of a model's layers, in the order of the forward pass."""

    def __init__(self, model: nn.Module, activation: str) -> None:
        self.model, self.activation = model, activation
        kinds = (nn.Linear, nn.Conv2d)
        layers = [m for m in model.modules() if isinstance(m, kinds)]
        if isinstance(model, Residual):
            branches = [m for pair in zip(model.first, model.second, strict=True) for m in pair]
            layers = [model.stem, *branches, model.head]
        self.layers = layers
        self.recurrent = [m for m in model.modules() if isinstance(m, nn.RNNBase)]
        self.norms = [m for m in model.modules() if isinstance(m, (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d))]

    def all(self, initialize: Callable[[Tensor], object]) -> None:
        """``initialize`` every weight and set every bias to zero."""
        for layer in self.layers:
            initialize(layer.weight)
            init.zeros_(layer.bias)
        for module in self.recurrent:
            for name, parameter in module.named_parameters():
                initialize(parameter) if "weight" in name else init.zeros_(parameter)

    def proper(self, factor: float = 1.0) -> None:
        """Each weight with std ``factor * gain / sqrt(fan_in)``, the gain that of the activation before the layer."""
        gain = GAINS.get(self.activation, 1.0)
        self.all(lambda w: init.normal_(w, std=factor * gain / math.sqrt(w[0].numel())))
        init.normal_(self.layers[0].weight, std=factor / math.sqrt(self.layers[0].weight[0].numel()))

    @property
    def hidden(self) -> list[nn.Module]:
        return self.layers[:-1]

    @property
    def middle(self) -> nn.Module:
        return self.layers[len(self.layers) // 2]


Scheme = Callable[[Weights, str], object]


def _after_proper(change: Callable[[Weights, str], object]) -> Scheme:
    def apply(weights: Weights, argument: str) -> None:
        weights.proper()
        with torch.no_grad():
            change(weights, argument)

    return apply


def _each(change: Callable[[nn.Module, str], object]) -> Scheme:
    """``change`` at every hidden layer of a properly initialized network."""
    return _after_proper(lambda w, a: [change(layer, a) for layer in w.hidden])


def _half_dead(layer: nn.Module, fraction: str) -> None:
    layer.bias[: int(float(fraction) * len(layer.bias))] = -10.0


def _branch_ends(weights: Weights) -> list[nn.Module]:
    model = weights.model
    return [*(model.second if isinstance(model, Residual) else [*model.out, *model.down])]


def _double_zero(weights: Weights, argument: str) -> None:
    for layer in weights.layers[1:-1]:
        layer.weight.zero_()


SCHEMES: dict[str, Scheme] = {
    "default": lambda w, a: None,
    "default-no-bias": lambda w, a: [init.zeros_(layer.bias) for layer in w.layers],
    "xavier": lambda w, a: w.all(lambda t: init.xavier_uniform_(t, float(a or 1))),
    "he": lambda w, a: w.all(lambda t: init.kaiming_normal_(t, nonlinearity="relu")),
    "lecun": lambda w, a: w.all(lambda t: init.kaiming_normal_(t, nonlinearity="linear")),
    "orthogonal": lambda w, a: w.all(lambda t: init.orthogonal_(t, GAINS.get(w.activation, 1.0) * float(a or 1))),
    "std": lambda w, a: w.all(lambda t: init.normal_(t, std=float(a))),
    "proper": lambda w, a: w.proper(),
    "x": lambda w, a: w.proper(float(a)),
    # biases, at every hidden layer
    "bias": _each(lambda m, a: m.bias.fill_(float(a))),
    "bias-normal": _each(lambda m, a: m.bias.normal_(0, float(a))),
    "dead": _each(_half_dead),
    # one layer among good ones
    "middle-bias": _after_proper(lambda w, a: w.middle.bias.fill_(float(a))),
    "middle-dead": _after_proper(lambda w, a: _half_dead(w.middle, a)),
    "middle-x": _after_proper(lambda w, a: w.middle.weight.mul_(float(a))),
    "first-x": _after_proper(lambda w, a: w.layers[0].weight.mul_(float(a))),
    "middle-constant": _after_proper(lambda w, a: w.middle.weight.fill_(float(a))),
    "middle-mean": _after_proper(lambda w, a: w.middle.weight.add_(float(a))),
    "first-zero": _after_proper(lambda w, a: w.layers[0].weight.zero_()),
    "last-zero": _after_proper(lambda w, a: w.layers[-1].weight.zero_()),
    "last-x": _after_proper(lambda w, a: w.layers[-1].weight.mul_(float(a))),
    # all alike
    "constant": lambda w, a: w.all(lambda t: init.constant_(t, float(a))),
    "identical-rows": _each(lambda m, a: m.weight.copy_(m.weight[:1].expand_as(m.weight).clone())),
    "mean": _each(lambda m, a: m.weight.add_(float(a))),
    # branches and norms
    "branch-zero": _after_proper(lambda w, a: [m.weight.zero_() for m in _branch_ends(w)]),
    "branch-x": _after_proper(lambda w, a: [m.weight.mul_(float(a)) for m in _branch_ends(w)]),
    "double-zero": _after_proper(_double_zero),
    "gamma": _after_proper(lambda w, a: [m.weight.fill_(float(a)) for m in w.norms]),
    "beta": _after_proper(lambda w, a: [m.bias.fill_(float(a)) for m in w.norms]),
}

Row = tuple[str, str, str, str]  # family, activations, depths, schemes (comma-separated)
GRID: tuple[Row, ...] = (
    # The borderline of plain networks lies where depth times the log of the layer's factor is 6 to 20.
    ("mlp", "relu", "3, 6, 9, 13, 20, 30", "default"),
    ("mlp", "relu", "8, 14, 20, 26, 34, 45", "xavier"),
    ("mlp", "relu", "4, 12, 25, 40", "he, orthogonal"),
    ("mlp", "relu", "10, 20, 40", "x 1.5, x 0.6667"),
    ("mlp", "relu", "5, 12, 22", "x 2, x 0.5"),
    ("mlp", "relu", "4, 8, 14", "x 3, x 0.3333"),
    ("mlp", "relu", "2, 4, 7", "std 0.02, std 1"),
    ("mlp", "relu", "6, 16, 30", "std 0.1"),
    ("mlp", "tanh", "5, 15, 30, 45", "default, xavier, xavier 1.6667"),
    ("mlp", "tanh", "8, 20", "x 0.5, x 2, x 4, std 0.02, std 1, orthogonal"),
    ("mlp", "gelu", "5, 12, 24", "default, proper, xavier"),
    ("mlp", "gelu", "8, 20", "x 1.5, x 0.6667, std 0.02"),
    ("mlp", "silu", "4, 9, 18", "default, proper, he"),
    ("mlp", "sigmoid", "2, 4, 6, 10", "default, xavier, x 4"),
    ("mlp", "sigmoid", "8", "orthogonal, x 8"),
    ("mlp", "selu", "8, 20, 35", "default, lecun, he"),
    ("mlp", "elu", "8, 20, 35", "default, proper, x 1.5"),
    ("mlp", "leaky_relu", "8, 20", "default, proper, xavier"),
    # Faults in networks that are good otherwise.
    ("mlp", "relu", "6, 15", "bias -1, bias -5, bias 1, bias-normal 2, dead 0.5, dead 0.9, dead 1"),
    ("mlp", "relu", "6", "middle-bias -10, middle-dead 0.5, middle-dead 0.9, middle-x 30, middle-x 0.0333, middle-x 0"),
    ("mlp", "relu", "6", "first-zero, last-zero, last-x 30, last-x 0.01, first-x 30, constant 0, constant 0.1"),
    ("mlp", "relu", "6", "middle-constant 0.1, identical-rows, mean 0.1, mean -0.1, middle-mean 0.5"),
    ("mlp", "tanh", "6", "bias 5, bias-normal 2, middle-bias 10, middle-x 30, middle-x 0, first-x 30, constant 0.1"),
    ("mlp", "tanh", "6, 15", "bias-normal 1, x 10"),
    ("mlp", "silu", "8", "bias -5, bias-normal 2, middle-x 0, middle-x 30"),
    # Normalized networks.
    ("mlp+ln", "relu", "8, 20", "default, std 0.02, std 1"),
    ("mlp+ln", "relu", "8", "gamma 0, gamma 0.01, beta -5, bias-normal 2, constant 0.1, middle-x 30"),
    ("mlp+ln", "tanh", "16", "default, xavier, gamma 10"),
    ("mlp+ln", "gelu", "16", "default, std 0.02"),
    ("mlp+bn", "relu", "8, 24, 40", "default, he"),
    ("mlp+bn", "relu", "8", "std 0.02, std 1, gamma 0, beta -5, beta -1, constant 0.1, middle-x 0.0333"),
    ("mlp+bn", "tanh", "16", "default, gamma 10"),
    # Residual networks.
    ("residual", "relu", "10, 30, 50", "default, proper, branch-zero"),
    ("residual", "relu", "20", "x 1.5, x 2, x 3, std 0.02, std 1, bias-normal 2, bias -5, constant 0.1, double-zero"),
    ("residual", "tanh", "20, 40", "default, xavier, x 3"),
    ("residual+ln", "relu", "10, 30", "default, branch-zero, std 0.02"),
    ("residual+ln", "relu", "20", "std 1, gamma 0, double-zero, bias -5, last-x 30, first-x 0.0333"),
    ("residual+ln", "gelu", "30", "default, branch-x 0.1, branch-x 10"),
    ("residual+bn", "relu", "20", "default, proper, branch-zero, std 1"),
    # Convolutional networks.
    ("cnn", "relu", "4, 8, 14", "default, xavier, he"),
    ("cnn", "relu", "8", "x 2, x 3, std 0.02, std 1, bias -5, bias-normal 2, middle-x 0, middle-x 30, constant 0.1"),
    ("cnn", "tanh", "10", "default, xavier, x 4"),
    ("cnn+bn", "relu", "8, 12", "default, std 0.02"),
    ("cnn+bn", "relu", "8", "gamma 0, beta -5"),
    # Transformers: depth counts blocks.
    ("transformer", "gelu", "2, 3", "default, std 0.02, std 1"),
    ("transformer", "gelu", "3", "branch-zero, constant 0.1, last-zero"),
    ("transformer-post", "gelu", "2, 3", "default, std 0.02, std 1"),
    # Recurrent networks: depth counts time steps.
    ("rnn", "tanh", "8, 16", "default, orthogonal, std 0.01, x 3"),
    ("lstm", "tanh", "8", "default, xavier, std 1, constant 0.1"),
    ("gru", "tanh", "8", "default, orthogonal, std 1"),
)
# The second task, and second draws of networks near the border.
OTHER_DATA: tuple[Row, ...] = (
    ("mlp", "relu", "5, 15, 30", "default, xavier, he"),
    ("mlp", "tanh", "10, 30", "default, xavier, x 4"),
    ("mlp", "sigmoid", "3, 6", "default, xavier"),
    ("mlp+bn", "relu", "10, 40", "default"),
    ("residual", "relu", "20", "proper, x 2, std 1"),
)
SECOND_SEED: tuple[Row, ...] = (
    ("mlp", "relu", "20, 26, 34, 45", "xavier"),
    ("mlp", "relu", "40", "he"),
    ("mlp", "tanh", "15, 30", "default"),
    ("mlp", "gelu", "24", "proper"),
)


def _expand(rows: tuple[Row, ...], data: str = "digits", seed: int = 0) -> Iterator[Network]:
    for family, activations, depths, schemes in rows:
        for activation in activations.split(", "):
            for depth in depths.split(", "):
                for scheme in schemes.split(", "):
                    yield Network(family, activation, int(depth), scheme, data, seed)


def networks() -> list[Network]:
    """All of them, in a fixed order."""
    return [*_expand(GRID), *_expand(OTHER_DATA, data="breast_cancer"), *_expand(SECOND_SEED, seed=1)]


def fresh_networks() -> list[Network]:
    """Nearly as many again in kind, a third deeper or, where that is much, a third shallower, drawn with another seed.

    The depth of a recurrence is a divisor of the features, so those stay out.
    """
    known = {replace(network, seed=0) for network in networks()}
    fresh = {replace(n, depth=round(n.depth * (1.34 if n.depth < 24 else 0.67)) or 1, seed=2) for n in networks()}
    return [n for n in fresh if replace(n, seed=0) not in known and n.family not in ("rnn", "lstm", "gru")]
