"""Eight small networks of different kinds, each initialized as its kind should be: the healthy side of injected faults.

`names()` and `build(name, seed)` return a model and one positional input, as benchmarks/zoo.py asks of a collection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

VOCABULARY, CONTEXT = 256, 32


def plain_mlp(activation: type[nn.Module], initialize: Callable[[Tensor], object]) -> nn.Sequential:
    """Eight hidden layers whose widths change, so that fan-in and fan-out differ."""
    widths = [64, 256, 256, 64, 256, 256, 64, 256, 256]
    modules: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        modules += [nn.Linear(fan_in, fan_out), activation()]
    model = nn.Sequential(*modules, nn.Linear(widths[-1], 10))
    for module in model:
        if isinstance(module, nn.Linear):
            initialize(module.weight)
            init.zeros_(module.bias)
    return model


def he(weight: Tensor) -> None:
    init.kaiming_normal_(weight, nonlinearity="relu")


def lecun(weight: Tensor) -> None:
    init.kaiming_normal_(weight, nonlinearity="linear")


class PlainCNN(nn.Module):
    """VGG's kind: convolutions and ReLU without normalization, He."""

    def __init__(self) -> None:
        super().__init__()
        channels = [3, 32, 32, 64, 64, 128, 128, 128]
        self.features = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.head = nn.Linear(128, 10)
        for conv in self.features:
            he(conv.weight)
            init.zeros_(conv.bias)
        lecun(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.features):
            x = F.relu(conv(x))
            if i in (1, 3):
                x = F.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


class ResidualBlock(nn.Module):
    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        changes = stride != 1 or inner != width
        self.skip = nn.Sequential(nn.Conv2d(inner, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.skip = self.skip if changes else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.skip(x))


class BatchNormResNet(nn.Module):
    """He et al. 2016 in small: six residual blocks with batch normalization, He."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(32)
        shapes = [(32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
        self.blocks = nn.ModuleList(ResidualBlock(*shape) for shape in shapes)
        self.head = nn.Linear(128, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class Transformer(nn.Module):
    """Pre-norm: GPT-2's initialization over tokens, or a vision transformer's over patches."""

    def __init__(self, causal: bool, width: int = 96, blocks: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width) if causal else nn.Conv2d(3, width, 4, 4)
        self.positions = nn.Parameter(torch.randn(64, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, 4, causal) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY if causal else 10)
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                scaled = name.endswith(("out", "contract"))
                init.trunc_normal_(module.weight, std=0.02 / math.sqrt(2 * blocks) if scaled else 0.02)
            elif isinstance(module, nn.Conv2d):
                lecun(module.weight)
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x if x.dim() == 3 else x.flatten(2).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class LSTMLanguageModel(nn.Module):
    """Two LSTM layers: Xavier for the input's gates, orthogonal recurrence, forget bias one."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)
        for name, parameter in self.lstm.named_parameters():
            if "weight" in name:
                for gate in parameter.chunk(4):
                    (init.xavier_uniform_ if "ih" in name else init.orthogonal_)(gate)
            else:
                init.zeros_(parameter)
                if "ih" in name:
                    init.ones_(parameter.chunk(4)[1])
        init.xavier_uniform_(self.head.weight)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(ids))[0])


def image() -> Tensor:
    return torch.randn(16, 3, 32, 32)


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (8, CONTEXT))


def rows() -> Tensor:
    return torch.randn(64, 64)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "relu-mlp": (lambda: plain_mlp(nn.ReLU, he), rows),
    "tanh-mlp": (lambda: plain_mlp(nn.Tanh, init.xavier_uniform_), rows),
    "selu-mlp": (lambda: plain_mlp(nn.SELU, lecun), rows),
    "plain-cnn": (PlainCNN, lambda: torch.randn(16, 3, 24, 24)),
    "bn-resnet": (BatchNormResNet, lambda: torch.randn(16, 3, 16, 16)),
    "gpt": (lambda: Transformer(causal=True), tokens),
    "vit": (lambda: Transformer(causal=False), image),
    "lstm-lm": (LSTMLanguageModel, tokens),
}


def names() -> list[str]:
    return list(FAMILIES)


def build(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    make, draw = FAMILIES[name]
    return make(), draw()
