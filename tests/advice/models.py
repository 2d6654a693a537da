"""Models with a fault of initialization in them, and what they are fed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Stack(nn.Module):
    """``depth`` linear layers with a function between, at torch's default."""

    def __init__(self, phi: Callable[[Tensor], Tensor], depth: int = 16, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)
        self.phi = phi

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.phi(layer(x))
        return self.head(x)


class Residual(nn.Module):
    """Blocks without a normalization whose branches add up."""

    def __init__(self, blocks: int = 24, width: int = 64) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        for layer in (*self.up, *self.down):
            nn.init.normal_(layer.weight, std=2 / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(F.relu(up(x)))
        return x


class Normalized(nn.Module):
    """Norms whose biases shut every ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(6))
        for norm in self.norms:
            nn.init.constant_(norm.bias, -6.0)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return x


class Recurrent(nn.Module):
    """An LSTM of two layers with weights far too large and gates that are shut."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(16, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 5)
        for name, parameter in self.rnn.named_parameters():
            nn.init.normal_(parameter, std=1.0) if "weight" in name else nn.init.constant_(parameter, -5.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Decoder(nn.Module):
    """Transposed convolutions, whose fan_in torch does not read off the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for before, after in ((32, 32), (32, 16), (16, 16), (16, 3)):
            layer = nn.ConvTranspose2d(before, after, 4, 2, 1, bias=after != 3)
            nn.init.normal_(layer.weight, std=0.002)
            self.layers.extend([layer, nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Reused(nn.Module):
    """One layer that is called fifteen times."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(64, 64)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(15):
            x = torch.tanh(self.cell(x))
        return self.head(x)


class Bare(nn.Module):
    """Weights that are parameters and no layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(64, 64)) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = F.relu(x @ weight)
        return x


class Tied(nn.Module):
    """A language model whose head is its embedding, with unit variance and a row for padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(200, 256, padding_idx=3)
        self.layers = nn.ModuleList(nn.Linear(256, 256) for _ in range(3))
        self.norm = nn.LayerNorm(256)
        self.head = nn.Linear(256, 200, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(self.norm(x))


class Padded(nn.Module):
    """He's rule on maps so small that the padding of a convolution is most of what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(24))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


class Mixed(nn.Module):
    """Every layer is followed by a sum over neighbouring units, which no rule on the weights can know of."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(20))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
            x = (x + x.roll(1, 1) + x.roll(3, 1)) * 0.3
        return x


def vectors(width: int = 64) -> Tensor:
    return torch.randn(32, width, generator=torch.Generator().manual_seed(1))


FAULTY: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "relu": (lambda: Stack(F.relu), vectors),
    "gelu": (lambda: Stack(F.gelu), vectors),
    "tanh": (lambda: Stack(torch.tanh, depth=24), vectors),
    "sigmoid": (lambda: Stack(torch.sigmoid, depth=10), vectors),
    "residual": (Residual, vectors),
    "normalized": (Normalized, vectors),
    "recurrent": (Recurrent, lambda: torch.randn(8, 12, 16)),
    "decoder": (Decoder, lambda: torch.randn(8, 32, 4, 4)),
    "reused": (Reused, vectors),
    "bare": (Bare, vectors),
    "padded": (Padded, lambda: torch.randn(32, 16, 2, 2)),
    "mixed": (Mixed, vectors),
    "tied": (Tied, lambda: torch.randint(4, 200, (8, 16))),
}
