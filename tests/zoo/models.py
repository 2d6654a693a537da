"""Models written out by hand, each initialized as its paper says: healthy, so none may raise an alarm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def he_(module: nn.Module, nonlinearity: str = "relu") -> nn.Module:
    for m in module.modules():
        if isinstance(m, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(m.weight, nonlinearity=nonlinearity)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return module


class VGG(nn.Module):
    """Simonyan & Zisserman 2015, thirteen convolutions, initialized as in He et al. 2015."""

    def __init__(self) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        before = 3
        for width, repeats in ((32, 2), (32, 2), (64, 3), (64, 3), (64, 3)):
            for _ in range(repeats):
                steps += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
            steps.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*steps)
        self.head = nn.Linear(64, 10)
        he_(self.features)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class ResNet(nn.Module):
    """He et al. 2016 with the last scale of each branch at zero (Goyal et al. 2017)."""

    class Block(nn.Module):
        def __init__(self, before: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(width)
            self.short = (
                nn.Conv2d(before, width, 1, stride, bias=False) if stride > 1 or before != width else nn.Identity()
            )
            nn.init.zeros_(self.norm2.weight)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.norm1(self.conv1(x)))
            return F.relu(self.norm2(self.conv2(h)) + self.short(x))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.blocks = nn.Sequential(
            *(
                self.Block(a, b, s)
                for a, b, s in ((32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 2), (64, 64, 1))
            )
        )
        self.head = nn.Linear(64, 10)
        he_(self.stem)
        he_(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class UNet(nn.Module):
    """Ronneberger et al. 2015 with batch norm."""

    @staticmethod
    def double(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
        )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([self.double(3, 16), self.double(16, 32), self.double(32, 64)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)])
        self.join = nn.ModuleList([self.double(64, 32), self.double(32, 16)])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for step in self.down:
            x = step(x)
            kept.append(x)
            if len(kept) < 3:
                x = F.max_pool2d(x, 2)
        for up, join, skip in zip(self.up, self.join, kept[1::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        return self.head(x)


class Mixer(nn.Module):
    """Tolstikhin et al. 2021: pre-norm blocks that mix tokens, then channels."""

    class Block(nn.Module):
        def __init__(self, tokens: int, width: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
            self.channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.norm2(x))

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 8, 8)
        self.blocks = nn.Sequential(*(self.Block(16, 48) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class Generator(nn.Module):
    """DCGAN (Radford et al. 2016): transposed convolutions N(0, 0.02), batch norm N(1, 0.02), tanh at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ConvTranspose2d(64, 128, 4, 1, 0, bias=False), nn.BatchNorm2d(128), nn.ReLU(True),
            nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(True),
            nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
            nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip
        for m in self.modules():
            if isinstance(m, nn.ConvTranspose2d):
                nn.init.normal_(m.weight, std=0.02)
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.normal_(m.weight, 1.0, 0.02)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z[:, :, None, None])


class VAE(nn.Module):
    """Kingma & Welling 2014 on vectors: two outputs, a sampled code, a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(128, 16), nn.Linear(128, 16)
        self.decoder = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.decoder(z), mean, log_variance


class Seq2Seq(nn.Module):
    """An encoder and a decoder of GRUs with dot-product attention, torch's defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, 32)
        self.encoder = nn.GRU(32, 64, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(128, 64)
        self.decoder = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(128, 60)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.encoder(self.embed(source))
        memory = self.bridge(memory)
        states, _ = self.decoder(self.embed(target), (state[:1] + state[1:]) / 2)
        attended = (states @ memory.transpose(1, 2)).softmax(-1) @ memory
        return self.head(torch.cat([states, attended], -1))


class Adapted(nn.Module):
    """LoRA (Hu et al. 2022) on a frozen pre-norm MLP: A drawn, B at zero."""

    class Adapter(nn.Module):
        def __init__(self, base: nn.Linear, rank: int = 4) -> None:
            super().__init__()
            self.base = base.requires_grad_(False)
            self.a = nn.Parameter(torch.empty(rank, base.in_features))
            self.b = nn.Parameter(torch.zeros(base.out_features, rank))
            nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + F.linear(F.linear(x, self.a), self.b) * 2.0

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(48) for _ in range(4))
        self.layers = nn.ModuleList(self.Adapter(nn.Linear(48, 48)) for _ in range(4))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + F.gelu(layer(norm(x)))
        return self.head(x)


class ReZero(nn.Module):
    """Bachlechner et al. 2021: thirty residual branches, each times a scalar that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(30))
        self.alpha = nn.Parameter(torch.zeros(30))
        self.head = nn.Linear(64, 10)
        he_(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer, alpha in zip(self.layers, self.alpha, strict=True):
            x = x + alpha * F.relu(layer(x))
        return self.head(x)


class DiT(nn.Module):
    """Peebles & Xie 2023: adaLN-zero, each block starts as the identity, and the output at zero."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
            self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
            self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
            self.mlp = nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
            )
            self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)[:, None].chunk(6, -1)
            h = self.norm1(x) * (1 + scale1) + shift1
            x = x + gate1 * self.attention(h, h, h, need_weights=False)[0]
            return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Linear(12, width)
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(self.Block(width) for _ in range(4))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, 12)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        for block in self.blocks:
            nn.init.zeros_(block.modulate[1].weight)
        nn.init.normal_(self.time[0].weight, std=0.02)
        nn.init.normal_(self.time[2].weight, std=0.02)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(8) / 8)
        angles = t[:, None] * frequencies
        c = self.time(torch.cat([angles.cos(), angles.sin()], -1))
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, c)
        return self.head(self.norm(x))


class SIREN(nn.Module):
    """Sitzmann et al. 2020: U(±1/n) first, U(±sqrt(6/n)/30) after, sin(30 x) between."""

    def __init__(self, width: int = 256, depth: int = 5) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, width)] + [nn.Linear(width, width) for _ in range(depth - 1)])
        self.head = nn.Linear(width, 3)
        bound = math.sqrt(6 / width) / 30
        nn.init.uniform_(self.layers[0].weight, -1 / 2, 1 / 2)
        for layer in (*self.layers[1:], self.head):
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.head(x)


class NFNet(nn.Module):
    """Brock et al. 2021: no norm, weights standardized, h + alpha f(h / beta), the variance gain."""

    class Conv(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            mean = self.weight.mean((1, 2, 3), keepdim=True)
            variance = self.weight.var((1, 2, 3), keepdim=True, correction=0)
            fan_in = self.weight[0].numel()
            return F.conv2d(
                x, (self.weight - mean) * torch.rsqrt(variance * fan_in + 1e-6), self.bias, padding=self.padding
            )

    class Block(nn.Module):
        def __init__(self, width: int, beta: float) -> None:
            super().__init__()
            self.beta = beta
            self.conv1 = NFNet.Conv(width, width, 3, padding=1)
            self.conv2 = NFNet.Conv(width, width, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(x / self.beta) * 1.7129
            h = F.relu(self.conv1(h)) * 1.7129
            return x + 0.2 * self.conv2(h)

    def __init__(self) -> None:
        super().__init__()
        self.stem = self.Conv(3, 32, 3, padding=1)
        self.blocks = nn.Sequential(*(self.Block(32, math.sqrt(1 + i * 0.04)) for i in range(8)))
        self.head = nn.Linear(32, 10)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.blocks(self.stem(x)) * 1.7129).mean((2, 3)))


class SelfNormalizing(nn.Module):
    """Klambauer et al. 2017: SELU, Var[w] = 1/n, alpha dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(128, 128) for _ in range(16))
        self.head = nn.Linear(128, 10)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.alpha_dropout(F.selu(layer(x)), 0.05, self.training)
        return self.head(x)


class Fixup(nn.Module):
    """Zhang et al. 2019: no norm, branches scaled by depth, their last layer and the head at zero."""

    def __init__(self, blocks: int = 12) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(blocks))
        self.bias = nn.Parameter(torch.zeros(blocks, 4))
        self.scale = nn.Parameter(torch.ones(blocks))
        self.head = nn.Linear(64, 10)
        for layer in self.up:
            nn.init.normal_(layer.weight, std=math.sqrt(2 / 64) * blocks**-0.5)
        for layer in (*self.down, self.head):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        for up, down, bias, scale in zip(self.up, self.down, self.bias, self.scale, strict=True):
            h = F.relu(up(x + bias[0]) + bias[1]) + bias[2]
            x = x + down(h) * scale + bias[3]
        return self.head(x)


class CharacterLSTM(nn.Module):
    """Two LSTM layers with a forget bias of one (Jozefowicz et al. 2015) and orthogonal recurrent weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.lstm = nn.LSTM(32, 64, 2, batch_first=True)
        self.head = nn.Linear(64, 50)
        for name, parameter in self.lstm.named_parameters():
            if "weight_hh" in name:
                for gate in parameter.chunk(4):
                    nn.init.orthogonal_(gate)
            elif "weight_ih" in name:
                nn.init.xavier_uniform_(parameter)
            elif "bias" in name:
                nn.init.zeros_(parameter)
                if "bias_ih" in name:
                    parameter.data[64:128] = 1.0

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(ids))[0])


class PostNormTransformer(nn.Module):
    """Vaswani et al. 2017, as torch builds it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 48)
        self.core = nn.Transformer(48, 4, 2, 2, 96, batch_first=True)
        self.head = nn.Linear(48, 50)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        scale = math.sqrt(48)
        return self.head(self.core(self.embed(source) / scale, self.embed(target) / scale))


class Actor(nn.Module):
    """Andrychowicz et al. 2021: orthogonal layers with gain sqrt(2) behind tanh, the policy head at gain 0.01."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(17, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.policy, self.value = nn.Linear(64, 6), nn.Linear(64, 1)
        for layer, gain in ((self.body[0], 2**0.5), (self.body[2], 2**0.5), (self.policy, 0.01), (self.value, 1.0)):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.policy(h), self.value(h)


class GraphNet(nn.Module):
    """Kipf & Welling 2017: x' = relu(A x W), Glorot initialization, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.empty(32, 64)), nn.Parameter(torch.empty(64, 7))
        nn.init.xavier_uniform_(self.w1)
        nn.init.xavier_uniform_(self.w2)
        links = (torch.rand(40, 40) < 0.1).float()
        links = ((links + links.T) > 0).float().fill_diagonal_(1)
        degree = links.sum(1).rsqrt()
        self.register_buffer("adjacency", degree[:, None] * links * degree)

    def forward(self, x: Tensor) -> Tensor:
        return self.adjacency @ (F.relu(self.adjacency @ (x @ self.w1)) @ self.w2)
