"""Control, coordinates and tables: actor-critic, dueling DQN, BYOL, NeRF, PINN, DeepFM, a PReLU net, a gated MLP."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

from _models._family import Family, he_, noise, xavier_


class ActorCritic(nn.Module):
    """PPO's recipe (Huang et al. 2022): orthogonal with gain sqrt(2) behind tanh, policy 0.01, value 1."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = self.tower(6, 0.01), self.tower(1, 1.0)
        self.log_std = nn.Parameter(torch.zeros(1, 6))

    @staticmethod
    def tower(outputs: int, gain: float) -> nn.Sequential:
        layers = [nn.Linear(17, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)]
        for layer in layers[::2]:
            init.orthogonal_(layer.weight, gain if layer is layers[-1] else math.sqrt(2))
            init.zeros_(layer.bias)
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = self.actor(x)
        return mean, self.log_std.expand_as(mean).exp(), self.critic(x)


class DuelingDQN(nn.Module):
    """Wang et al. 2016 on Atari frames: three convolutions, value and advantage streams; He."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU()
        )
        self.value = nn.Sequential(nn.Linear(3136, 256), nn.ReLU(), nn.Linear(256, 1))
        self.advantage = nn.Sequential(nn.Linear(3136, 256), nn.ReLU(), nn.Linear(256, 6))
        he_(self)

    def forward(self, frames: Tensor) -> Tensor:
        h = self.features(frames / 255.0).flatten(1)
        advantage = self.advantage(h)
        return self.value(h) + advantage - advantage.mean(1, keepdim=True)


class BYOL(nn.Module):
    """Grill et al. 2020: an online network with a predictor, and a frozen copy that makes the targets."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.online = nn.Sequential(self.mlp(64, 256, width), self.mlp(width, 256, 64))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = self.mlp(64, 256, 64)

    @staticmethod
    def mlp(before: int, hidden: int, after: int) -> nn.Sequential:
        mlp = nn.Sequential(nn.Linear(before, hidden), nn.BatchNorm1d(hidden), nn.ReLU(True), nn.Linear(hidden, after))
        he_(mlp)
        return mlp

    def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            target = F.normalize(self.target(two), dim=-1)
        return F.normalize(self.predictor(self.online(one)), dim=-1), target


class NeRF(nn.Module):
    """Mildenhall et al. 2020: Fourier features, eight ReLU layers with a skip into the fifth; He."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear({0: 63, 5: width + 63}.get(i, width), width) for i in range(8))
        self.sigma, self.feature = nn.Linear(width, 1), nn.Linear(width, width)
        self.view, self.rgb = nn.Linear(width + 27, width // 2), nn.Linear(width // 2, 3)
        he_(self)

    @staticmethod
    def fourier(x: Tensor, octaves: int) -> Tensor:
        waves = [f(2.0**i * math.pi * x) for i in range(octaves) for f in (torch.sin, torch.cos)]
        return torch.cat([x, *waves], -1)

    def forward(self, points: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        encoded = h = self.fourier(points, 10)
        for i, layer in enumerate(self.layers):
            h = F.relu(layer(torch.cat([encoded, h], -1) if i == 5 else h))
        color = F.relu(self.view(torch.cat([self.feature(h), self.fourier(views, 4)], -1)))
        return F.relu(self.sigma(h)), torch.sigmoid(self.rgb(color))


def pinn(width: int = 64) -> nn.Module:
    """Raissi et al. 2019: eight tanh layers over (t, x), Glorot."""
    layers: list[nn.Module] = [nn.Linear(2, width), nn.Tanh()]
    for _ in range(7):
        layers += [nn.Linear(width, width), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(width, 2))
    xavier_(model)
    return model


class DeepFM(nn.Module):
    """Guo et al. 2017: factorization machine and ReLU tower over shared tables N(0, 0.01), Glorot tower."""

    def __init__(self, fields: int = 10, rows: int = 200, width: int = 16) -> None:
        super().__init__()
        self.first, self.table = nn.Embedding(fields * rows, 1), nn.Embedding(fields * rows, width)
        self.tower = nn.Sequential(
            nn.Linear(fields * width, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 1),
        )  # fmt: skip
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("offsets", torch.arange(fields) * rows)
        init.normal_(self.table.weight, std=0.01)
        init.normal_(self.first.weight, std=0.01)
        xavier_(self.tower)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.offsets
        rows = self.table(x)
        crossed = 0.5 * (rows.sum(1).pow(2) - rows.pow(2).sum(1)).sum(1)
        return self.first(x).sum((1, 2)) + crossed + self.tower(rows.flatten(1)).squeeze(1) + self.bias


class PReLUNet(nn.Module):
    """He et al. 2015: fourteen convolutions with learned slopes from 0.25 and var 2 / ((1 + 0.25^2) fan_in)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for i, width in enumerate((32, 32, 32, 64, 64, 64, 64, 64, 128, 128, 128, 128, 128, 128)):
            stride = 2 if i in (3, 8) else 1
            layers += [nn.Conv2d(before, width, 3, stride, 1), nn.PReLU(width)]
            before = width
        self.body, self.head = nn.Sequential(*layers), nn.Linear(128, 10)
        for layer in self.body[::2]:
            init.kaiming_normal_(layer.weight, a=0.25)
            init.zeros_(layer.bias)
        init.normal_(self.head.weight, std=0.01)
        init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.body(x), 1).flatten(1))


class GatedMLP(nn.Module):
    """Liu et al. 2021 (gMLP): a spatial gating unit whose weights start near zero and whose bias is one."""

    class Block(nn.Module):
        def __init__(self, width: int, tokens: int) -> None:
            super().__init__()
            self.norm, self.gate_norm = nn.LayerNorm(width), nn.LayerNorm(2 * width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
            self.spatial = nn.Conv1d(tokens, tokens, 1)
            init.uniform_(self.spatial.weight, -1e-3 / tokens, 1e-3 / tokens)
            init.ones_(self.spatial.bias)

        def forward(self, x: Tensor) -> Tensor:
            u, v = F.gelu(self.up(self.norm(x))).chunk(2, dim=-1)
            return x + self.down(u * self.spatial(self.gate_norm(v)))

    def __init__(self, width: int = 96, tokens: int = 32) -> None:
        super().__init__()
        self.inner = nn.Linear(24, width)
        self.blocks = nn.Sequential(*(self.Block(width, tokens) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.inner(x))).mean(1))


FAMILIES = {
    "actor-critic": Family(ActorCritic, noise(64, 17)),
    "dueling DQN": Family(DuelingDQN, lambda: torch.randint(256, (16, 4, 84, 84)).float()),
    "BYOL": Family(BYOL, lambda: (torch.randn(64, 64), torch.randn(64, 64))),
    "NeRF": Family(NeRF, lambda: (torch.rand(512, 3) * 2 - 1, F.normalize(torch.randn(512, 3), dim=-1))),
    "PINN": Family(pinn, lambda: torch.rand(256, 2) * 2 - 1),
    "DeepFM": Family(DeepFM, lambda: torch.randint(200, (64, 10))),
    "PReLU net": Family(PReLUNet, noise(8, 3, 32, 32)),
    "gMLP": Family(GatedMLP, noise(8, 32, 24)),
}
