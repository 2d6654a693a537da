"""Deep networks that do without normalization, by their initialization or by how their blocks start."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

from _models._family import Family, he_, noise


class FixupResNet(nn.Module):
    """Zhang et al. 2019: ResNet-32's layout; first convolutions He x depth^-1/2, second ones and the head at zero."""

    class Block(nn.Module):
        def __init__(self, before: int, width: int, stride: int) -> None:
            super().__init__()
            self.stride, self.pad = stride, width - before
            self.bias1a, self.bias1b, self.bias2a, self.bias2b = (nn.Parameter(torch.zeros(1)) for _ in range(4))
            self.scale = nn.Parameter(torch.ones(1))
            self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out = F.relu(self.conv1(x + self.bias1a) + self.bias1b)
            out = self.conv2(out + self.bias2a) * self.scale + self.bias2b
            if self.stride > 1:
                x = F.avg_pool2d(x, 1, self.stride)
                x = torch.cat((x, torch.zeros_like(x)), dim=1)
            return F.relu(x + out)

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        self.conv1, self.bias1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.Parameter(torch.zeros(1))
        blocks = []
        for i, width in enumerate((16, 32, 64)):
            blocks += [self.Block(max(16, width // 2), width, 2 if i else 1)]
            blocks += [self.Block(width, width, 1) for _ in range(depth - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.bias2, self.fc = nn.Parameter(torch.zeros(1)), nn.Linear(64, 10)
        init.normal_(self.conv1.weight, std=math.sqrt(2 / (9 * 16)))
        for block in blocks:
            fan_out = block.conv1.out_channels * 9
            init.normal_(block.conv1.weight, std=math.sqrt(2 / fan_out) * len(blocks) ** -0.5)
            init.zeros_(block.conv2.weight)
        init.zeros_(self.fc.weight)
        init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.conv1(x) + self.bias1))
        return self.fc(x.mean((2, 3)) + self.bias2)


class ReZeroTransformer(nn.Module):
    """Bachlechner et al. 2021: no LayerNorm, twelve layers, each branch times a scalar that starts at zero."""

    class Layer(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
            self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.resweight = nn.Parameter(torch.Tensor([0]))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.resweight * self.attention(x, x, x, need_weights=False)[0]
            return x + self.resweight * self.linear2(F.relu(self.linear1(x)))

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embed = nn.Linear(32, width)
        self.layers = nn.ModuleList(self.Layer(width) for _ in range(12))
        self.head = nn.Linear(width, 10)
        he_(self.embed)
        for layer in self.layers:
            init.xavier_uniform_(layer.linear1.weight, math.sqrt(2))
            init.xavier_uniform_(layer.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class SkipInitMLP(nn.Module):
    """De & Smith 2020: fifty pre-activation blocks of He layers, each times a learned scalar at zero."""

    def __init__(self, width: int = 128, blocks: int = 50) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, width), nn.Linear(width, 10)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.alpha = nn.ParameterList(nn.Parameter(torch.tensor(0.0)) for _ in range(blocks))
        he_(self.first)
        he_(self.second)
        for layer in (self.stem, self.head):
            init.kaiming_normal_(layer.weight, nonlinearity="linear")
            init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, second, alpha in zip(self.first, self.second, self.alpha, strict=True):
            x = x + second(first(x.relu()).relu_()) * alpha
        return self.head(x.relu())


class SelfNormalizing(nn.Module):
    """Klambauer et al. 2017: sixteen layers of SELU, Var[w] = 1/n, alpha dropout."""

    def __init__(self, width: int = 256, depth: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(64 if i == 0 else width, width), nn.SELU(inplace=True), nn.AlphaDropout(0.05)]
        self.net = nn.Sequential(*layers, nn.Linear(width, 10))
        for m in self.net.modules():
            if isinstance(m, nn.Linear):
                init.kaiming_normal_(m.weight, nonlinearity="linear")
                init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Sine(nn.Module):
    """Sitzmann et al. 2020: sin(30 (W x + b)) with U(±1/n) in the first layer and U(±sqrt(6/n)/30) after it."""

    def __init__(self, before: int, after: int, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after)
        bound = 1 / before if first else math.sqrt(6 / before) / 30
        init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


def siren(width: int = 256) -> nn.Sequential:
    head = nn.Linear(width, 3)
    init.uniform_(head.weight, -math.sqrt(6 / width) / 30, math.sqrt(6 / width) / 30)
    return nn.Sequential(Sine(2, width, True), *(Sine(width, width, False) for _ in range(4)), head)


class Highway(nn.Module):
    """Srivastava et al. 2015: twenty layers x + T (H - x) whose transform gates start nearly closed, bias -2."""

    def __init__(self, width: int = 128, depth: int = 20) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(64, width), nn.Linear(width, 10)
        self.transform = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for m in self.modules():
            if isinstance(m, nn.Linear):
                init.kaiming_normal_(m.weight, nonlinearity="linear")
                init.zeros_(m.bias)
        for gate in self.gate:
            init.constant_(gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x).tanh()
        for transform, gate in zip(self.transform, self.gate, strict=True):
            t = gate(x).sigmoid()
            x = t * transform(x).tanh() + (1 - t) * x
        return self.head(x)


class NeuralODE(nn.Module):
    """Chen et al. 2018: one tanh field integrated by ten Euler steps, its last layer N(0, 0.1)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.up = nn.Linear(16, width)
        self.field = nn.Sequential(nn.Linear(width + 1, 128), nn.Tanh(), nn.Linear(128, width))
        self.head = nn.Linear(width, 4)
        for m in self.field:
            if isinstance(m, nn.Linear):
                init.normal_(m.weight, std=0.1)
                init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        for t in torch.linspace(0, 1, 11)[:-1]:
            x = x + 0.1 * self.field(torch.cat([x, t.expand(x.shape[0], 1)], 1))
        return self.head(x)


FAMILIES = {
    "Fixup ResNet": Family(FixupResNet, noise(8, 3, 32, 32)),
    "ReZero transformer": Family(ReZeroTransformer, noise(8, 20, 32)),
    "SkipInit": Family(SkipInitMLP, noise(64, 64)),
    "SELU": Family(SelfNormalizing, noise(64, 64)),
    "SIREN": Family(siren, lambda: torch.rand(512, 2) * 2 - 1),
    "highway": Family(Highway, noise(64, 64)),
    "neural ODE": Family(NeuralODE, noise(64, 16)),
}
