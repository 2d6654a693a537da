"""The networks that peers are shown: 20 layers of width 256 on a batch of 64, well and badly initialized.

Nothing but torch is imported, since every peer's own environment builds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init

DEPTH, WIDTH, BATCH, CLASSES = 20, 256, 64, 10
MIDDLE = DEPTH // 2
Initializer = Callable[[nn.Linear], object]


def he(layer: nn.Linear) -> None:
    """With a head so small that the loss starts at ``ln 10``."""
    if layer.out_features == CLASSES:
        init.normal_(layer.weight, std=0.02)
    else:
        init.kaiming_normal_(layer.weight, nonlinearity="relu")
    init.zeros_(layer.bias)


def xavier(layer: nn.Linear, gain: float = 1.0) -> None:
    init.xavier_normal_(layer.weight, gain)
    init.zeros_(layer.bias)


def normal(std: float) -> Initializer:
    def initialize(layer: nn.Linear) -> None:
        init.normal_(layer.weight, std=std)
        init.zeros_(layer.bias)

    return initialize


def constant(layer: nn.Linear) -> None:
    init.constant_(layer.weight, 0.01)
    init.zeros_(layer.bias)


def dead(layer: nn.Linear) -> None:
    he(layer)
    init.constant_(layer.bias, -10.0)


def torch_default(layer: nn.Linear) -> None:
    """What ``nn.Linear`` has done already."""


def linears(initialize: Initializer) -> list[nn.Linear]:
    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH - 1)] + [nn.Linear(WIDTH, CLASSES)]
    for layer in layers:
        initialize(layer)
    return layers


def stack(initialize: Initializer, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Layers at even indices, an activation module after each but the last."""
    modules = [m for layer in linears(initialize) for m in (layer, activation())]
    return nn.Sequential(*modules[:-1])


class Functional(nn.Module):
    """The same with ``F.relu``."""

    def __init__(self, initialize: Initializer) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linears(initialize))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Reused(nn.Module):
    """The same with one ReLU module for all layers, and each layer in use twice in a row."""

    def __init__(self, initialize: Initializer) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linears(initialize)[-MIDDLE - 1 :])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.relu(layer(self.relu(layer(x))))
        return self.layers[-1](x)


class Transformer(nn.Module):
    """Four pre-norm encoder layers of torch over eight tokens, each layer drawn anew."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH // 8, 64)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True, norm_first=True) for _ in range(4)
        )
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.unflatten(1, (8, -1)))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def in_the_middle(change: Callable[[nn.Linear], object]) -> nn.Sequential:
    """He's initialization in all layers but the one at :data:`MIDDLE`."""
    model = stack(he)
    change(model[2 * MIDDLE])
    return model


def constant_attention() -> Transformer:
    model = Transformer()
    init.constant_(model.layers[0].self_attn.in_proj_weight, 0.01)
    return model


@dataclass(frozen=True)
class Network:
    """``guilty``: the layer where the fault starts, and what may stand for it; none for a good network.

    ``plainly`` names the same fault in plain modules, for a network that only spells it differently.
    """

    name: str
    build: Callable[[], nn.Module]
    guilty: tuple[str, ...] = ()
    plainly: str | None = None

    @property
    def good(self) -> bool:
        return not self.guilty


FIRST = ("0", "1")  # the layer, or the activation behind it
IN_MIDDLE = (str(2 * MIDDLE), str(2 * MIDDLE + 1))
DEAD = "ReLU, bias -10"
NETWORKS = (
    Network("ReLU, He", lambda: stack(he)),
    Network("tanh, Xavier 5/3", lambda: stack(lambda layer: xavier(layer, 5 / 3), nn.Tanh)),
    Network("F.relu, He", lambda: Functional(he)),
    Network("in-place ReLU, He", lambda: stack(he, lambda: nn.ReLU(inplace=True))),
    Network("reused modules, He", lambda: Reused(he)),
    Network("attention, torch default", Transformer),
    Network("ReLU, torch default", lambda: stack(torch_default), FIRST),
    Network("ReLU, Xavier", lambda: stack(xavier), (*FIRST, "2")),  # right for the first layer, whose input has mean 0
    Network("ReLU, std 0.2", lambda: stack(normal(0.2)), FIRST),
    Network("tanh, std 0.5", lambda: stack(normal(0.5), nn.Tanh), FIRST),
    Network("sigmoid, torch default", lambda: stack(torch_default, nn.Sigmoid), FIRST),
    Network("ReLU, constant 0.01", lambda: stack(constant), FIRST),
    Network(DEAD, lambda: stack(dead), FIRST),
    Network("F.relu, bias -10", lambda: Functional(dead), ("layers.0",), DEAD),
)
MORE = (  # one guilty layer among good ones, and the same fault spelled in other ways
    Network(
        "ReLU, one layer x100", lambda: in_the_middle(lambda layer: init.normal_(layer.weight, std=8.8)), IN_MIDDLE
    ),
    Network("ReLU, one bias -10", lambda: in_the_middle(dead), IN_MIDDLE),
    Network("in-place ReLU, bias -10", lambda: stack(dead, lambda: nn.ReLU(inplace=True)), FIRST, DEAD),
    Network("reused modules, bias -10", lambda: Reused(dead), ("layers.0", "relu"), DEAD),
    Network("attention, constant 0.01", constant_attention, ("layers.0.self_attn",), "ReLU, constant 0.01"),
)
ALL = {network.name: network for network in (*NETWORKS, *MORE)}


def made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The network of that name, a batch ``[BATCH, WIDTH]`` of N(0, 1) and its random labels."""
    torch.manual_seed(0)
    model = ALL[name].build()
    return model, torch.randn(BATCH, WIDTH), torch.randint(CLASSES, (BATCH,))
