"""Small models that start with zeros, on purpose and by mistake, and what gradient descent does to them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32


def linear(fan_in: int = WIDTH, fan_out: int = WIDTH, *, zero: bool = False) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    if zero:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


def scale(value: float | None, *shape: int) -> nn.Parameter | None:
    return None if value is None else nn.Parameter(torch.full(shape, value))


class Residual(nn.Module):
    """head(stem + gate * norm(last(relu(first(stem)))))"""

    def __init__(
        self, *, first: bool = False, last: bool = False, gate: float | None = None, gamma: float | None = None
    ) -> None:
        super().__init__()
        self.stem, self.head = linear(), linear()
        self.branch = nn.Sequential(linear(zero=first), nn.ReLU(inplace=True), linear(zero=last))
        self.gate = scale(gate, WIDTH)
        self.norm = nn.Identity()
        if gamma is not None:
            self.norm = nn.BatchNorm1d(WIDTH)
            nn.init.constant_(self.norm.weight, gamma)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.branch(x))
        return self.head(x + (y if self.gate is None else self.gate * y))


class Lora(nn.Module):
    """Low-rank factors beside frozen layers, as layers of their own or merged into the weight."""

    def __init__(self, *, a: bool = False, b: bool = False, merged: bool = False, frozen: bool = True) -> None:
        super().__init__()
        self.base, self.head, self.merged = linear(), linear(), merged
        self.a = nn.Parameter(torch.zeros(4, WIDTH) if a else torch.randn(4, WIDTH) / 6)
        self.b = nn.Parameter(torch.zeros(WIDTH, 4) if b else torch.randn(WIDTH, 4) / 2)
        self.base.requires_grad_(not frozen)

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return self.head(F.relu(F.linear(x, self.base.weight + self.b @ self.a, self.base.bias)))
        return self.head(F.relu(self.base(x) + F.dropout(x, 0.1) @ self.a.T @ self.b.T * 2.0))


class AdaLN(nn.Module):
    """x + gate * body(norm(x) * (1 + scale) + shift), modulated by a condition."""

    def __init__(self, *, head: bool = False, body: bool = False) -> None:
        super().__init__()
        self.condition, self.modulation, self.body = linear(), linear(WIDTH, 3 * WIDTH, zero=True), linear(zero=body)
        self.norm, self.head = nn.LayerNorm(WIDTH, elementwise_affine=False), linear(zero=head)

    def forward(self, x: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(F.silu(self.condition(x))).chunk(3, -1)
        return self.head(x + gate * self.body(self.norm(x) * (1 + scale) + shift))


class TwoGates(nn.Module):
    """Two branches, gated by the two halves of one layer of zeros."""

    def __init__(self, *, body: bool = False) -> None:
        super().__init__()
        self.modulation, self.one, self.two = linear(WIDTH, 2 * WIDTH, zero=True), linear(zero=body), linear()
        self.head = linear()

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.modulation(x)[None].chunk(2, dim=-1)
        x = x + first[0] * self.one(x)
        return self.head(x + second[0] * self.two(x))


class Attention(nn.Module):
    def __init__(self, *, query: bool = False, key: bool = False, fused: bool = True) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = linear(zero=query), linear(zero=key), linear(), linear()
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(4, 8, WIDTH)
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.fused:
            return self.out(F.scaled_dot_product_attention(q, k, v))
        return self.out(torch.softmax(q @ k.transpose(1, 2) / WIDTH**0.5, -1) @ v)


class ControlNet(nn.Module):
    """A trained copy between two layers of zeros, beside a frozen trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.copy, self.hint, self.out = linear(), linear(), linear(zero=True), linear(zero=True)
        self.trunk.requires_grad_(False)
        self.head = linear()

    def forward(self, x: Tensor) -> Tensor:
        control = F.relu(self.copy(x + self.hint(x.flip(0))))
        return self.head(F.relu(self.trunk(x)) + self.out(control))


class GatedFeedForward(nn.Module):
    """x + down(silu(gate(x)) * up(x))"""

    def __init__(self, *, gate: bool = False, up: bool = False) -> None:
        super().__init__()
        self.stem, self.gate, self.up, self.down = linear(), linear(zero=gate), linear(zero=up), linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class Fixup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.last = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.bias, self.scale = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.ones(3))
        self.head = linear(zero=True)
        for layer in self.last:
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        for first, last, bias, factor in zip(self.first, self.last, self.bias, self.scale, strict=True):
            x = x + last(F.relu(first(x + bias[0]) + bias[1])) * factor + bias[2]
        return self.head(x)


class NormChain(nn.Module):
    """Batch normalization with gains of zero and nothing around it."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.head = linear(), nn.BatchNorm1d(WIDTH), linear(), linear()
        self.activation = activation
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.activation(self.second(self.activation(self.norm(self.first(x))))))


def stack(activation: type[nn.Module], *zero: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for z in zero:
        layers += [linear(zero=z), activation()]
    return nn.Sequential(*layers[:-1])


def first_gradients(model: nn.Module, x: Tensor, steps: int = 5) -> dict[str, int | None]:
    """The first step of gradient descent towards random targets at which each parameter has a gradient that is not
    zero, ``None`` if it never has."""
    torch.manual_seed(1)
    model = copy.deepcopy(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    first: dict[str, int | None] = dict.fromkeys(trained)
    target = torch.randn_like(model(x))
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x), target).backward()
        for name, parameter in trained.items():
            if first[name] is None and parameter.grad is not None and parameter.grad.any():
                first[name] = step
        optimizer.step()
    return first
