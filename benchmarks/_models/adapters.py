"""Networks that are added to another one, or that make the weights of another one."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

from _models._family import Family, ids, noise, xavier_
from _models.language import GPT, WORDS


class LoRALinear(nn.Module):
    """Hu et al. 2022: a frozen layer plus a product of rank 8 whose second factor starts at zero."""

    def __init__(self, base: nn.Linear, rank: int = 8, alpha: int = 16) -> None:
        super().__init__()
        self.base, self.scaling = base, alpha / rank
        base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (F.dropout(x, 0.05, self.training) @ self.lora_A.T @ self.lora_B.T) * self.scaling


def lora_mlp() -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(6):
        base = nn.Linear(128, 128)
        init.kaiming_normal_(base.weight, nonlinearity="relu")
        init.zeros_(base.bias)
        layers += [LoRALinear(base), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def lora_gpt() -> nn.Module:
    """GPT with everything frozen but LoRA on the packed qkv layers."""
    model = GPT(layers=6).requires_grad_(False)
    for block in model.h:
        block.c_attn = LoRALinear(block.c_attn)
    return model


class MergedLoRA(nn.Module):
    """The same, merged into the weight at each call, with A at zero instead of B."""

    def __init__(self, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(width, width), False) for _ in range(depth))
        self.a = nn.ParameterList(nn.Parameter(torch.zeros(4, width)) for _ in range(depth))
        self.b = nn.ParameterList(nn.Parameter(torch.randn(width, 4)) for _ in range(depth))
        for weight in self.weights:
            init.kaiming_normal_(weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        for weight, a, b in zip(self.weights, self.a, self.b, strict=True):
            x = F.relu(F.linear(x, weight + b @ a))
        return x


class Encoder(nn.Module):
    """Four residual convolutions with group norm: the network that a ControlNet copies."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in range(4)
        )


class ControlNet(nn.Module):
    """Zhang et al. 2023: a trained copy of a frozen encoder, joined by 1x1 convolutions of zeros on both sides."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.locked = Encoder(width)
        self.copy = copy.deepcopy(self.locked)
        self.locked.requires_grad_(False)
        self.hint = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.SiLU(), self.zero(width))
        self.zero_convs = nn.ModuleList(self.zero(width) for _ in range(4))
        self.out = nn.Conv2d(width, 4, 3, padding=1).requires_grad_(False)

    @staticmethod
    def zero(width: int) -> nn.Conv2d:
        conv = nn.Conv2d(width, width, 1)
        for parameter in conv.parameters():
            nn.init.zeros_(parameter)
        return conv

    def forward(self, x: Tensor, hint: Tensor) -> Tensor:
        control = self.copy.stem(x) + self.hint(hint)
        x = self.locked.stem(x)
        for locked, block, zero in zip(self.locked.blocks, self.copy.blocks, self.zero_convs, strict=True):
            control = control + block(control)
            x = x + locked(x) + zero(control)
        return self.out(F.silu(x))


class Houlsby(nn.Module):
    """Houlsby et al. 2019: bottleneck adapters N(0, 0.01) in a frozen pre-norm MLP."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(6))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(6))
        self.layers.requires_grad_(False)
        self.down = nn.ModuleList(nn.Linear(width, 16) for _ in range(6))
        self.up = nn.ModuleList(nn.Linear(16, width) for _ in range(6))
        self.head = nn.Linear(width, 10)
        for layer in (*self.down, *self.up):
            init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer, down, up in zip(self.norms, self.layers, self.down, self.up, strict=True):
            h = F.gelu(layer(norm(x)))
            x = x + h + up(F.gelu(down(h)))
        return self.head(x)


class HyperNetwork(nn.Module):
    """Ha et al. 2017, the last layer scaled so that what it makes has He's variance (Chang et al. 2020)."""

    def __init__(self, width: int = 64, code: int = 16) -> None:
        super().__init__()
        self.width = width
        self.codes = nn.Parameter(torch.randn(3, code))
        self.trunk = nn.Linear(code, 64)
        self.make = nn.Linear(64, width * width)
        self.inner, self.out = nn.Linear(32, width), nn.Linear(width, 10)
        xavier_(self)
        init.kaiming_normal_(self.trunk.weight, nonlinearity="linear")
        init.normal_(self.make.weight, std=math.sqrt(2 / (width * 64 * 0.39)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.inner(x))
        for code in self.codes:
            weight = self.make(torch.tanh(self.trunk(code))).view(self.width, self.width)
            x = F.relu(F.linear(x, weight))
        return self.out(x)


FAMILIES = {
    "LoRA on an MLP": Family(lora_mlp, noise(32, 128)),
    "LoRA on GPT": Family(lora_gpt, ids(WORDS, 4, 32)),
    "LoRA merged, A zero": Family(MergedLoRA, noise(32, 128)),
    "ControlNet": Family(ControlNet, lambda: (torch.randn(4, 4, 16, 16), torch.randn(4, 3, 16, 16))),
    "Houlsby adapters": Family(Houlsby, noise(8, 16, 128)),
    "hypernetwork": Family(HyperNetwork, noise(64, 32)),
}
