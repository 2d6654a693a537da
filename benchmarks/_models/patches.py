"""Vision without batch normalization: ConvNeXt, NFNet, MLP-Mixer, ViT, DiT."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

from _models._family import Family, noise, xavier_


class ConvNeXt(nn.Module):
    """Liu et al. 2022: depthwise 7x7, LayerNorm, LayerScale at 1e-6, truncated normal of 0.02; depths 3, 3, 9, 3."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.gamma = nn.Parameter(1e-6 * torch.ones(width))

        def forward(self, x: Tensor) -> Tensor:
            h = self.dwconv(x).permute(0, 2, 3, 1)
            h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(h))))
            return x + h.permute(0, 3, 1, 2)

    class Down(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.norm, self.conv = nn.LayerNorm(before, eps=1e-6), nn.Conv2d(before, after, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 192)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 4, 4)
        stages: list[nn.Module] = []
        for i, (width, depth) in enumerate(zip(widths, (3, 3, 9, 3), strict=True)):
            stages += [self.Down(widths[i - 1], width)] if i else []
            stages += [self.Block(width) for _ in range(depth)]
        self.stages = nn.Sequential(*stages)
        self.norm, self.head = nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], 10)
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                init.trunc_normal_(m.weight, std=0.02)
                init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(self.stem(x)).mean((-2, -1))))


class ScaledConv(nn.Conv2d):
    """Scaled weight standardization with a learned gain per channel."""

    def __init__(self, *args: int, **options: int) -> None:
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        scale = torch.rsqrt(torch.clamp(variance * self.weight[0].numel(), min=1e-4)) * self.gain
        return F.conv2d(x, (self.weight - mean) * scale, self.bias, self.stride, self.padding, 1, self.groups)


class NFNet(nn.Module):
    """Brock et al. 2021: h + alpha * f(h / beta), ReLU times 1.7129, a SkipInit gain at the end of each branch."""

    class Block(nn.Module):
        def __init__(self, before: int, width: int, stride: int, beta: float) -> None:
            super().__init__()
            self.beta = beta
            inner = width // 2
            self.conv0, self.conv1 = ScaledConv(before, inner, 1), ScaledConv(inner, inner, 3, stride=stride, padding=1)
            self.conv2 = ScaledConv(inner, width, 1)
            self.shortcut = ScaledConv(before, width, 1) if stride > 1 or before != width else None
            self.skip_gain = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            out = F.relu(x) * 1.7128585504496627 / self.beta
            if self.shortcut is not None:
                x = self.shortcut(F.avg_pool2d(out, 2) if self.conv1.stride[0] > 1 else out)
            out = F.relu(self.conv0(out)) * 1.7128585504496627
            out = F.relu(self.conv1(out)) * 1.7128585504496627
            return x + self.conv2(out) * 2 * 0.2 * self.skip_gain

    def __init__(self) -> None:
        super().__init__()
        self.stem = ScaledConv(3, 32, 3, padding=1)
        blocks: list[nn.Module] = []
        before, variance = 32, 1.0
        for width, stride, depth in ((64, 1, 2), (128, 2, 4), (256, 2, 3)):
            for i in range(depth):
                blocks.append(self.Block(before, width, stride if i == 0 else 1, variance**0.5))
                variance = (1.0 if i == 0 else variance) + 0.2**2
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.final, self.head = ScaledConv(256, 512, 1), nn.Linear(512, 10)
        for m in self.modules():
            if isinstance(m, ScaledConv):
                init.kaiming_normal_(m.weight, nonlinearity="linear")
                init.zeros_(m.bias)
        init.normal_(self.head.weight, std=0.01)
        init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.final(self.blocks(self.stem(x)))) * 1.7128585504496627
        return self.head(x.mean((2, 3)))


class Mixer(nn.Module):
    """Tolstikhin et al. 2021: eight blocks that mix tokens, then channels; Glorot, biases N(0, 1e-6), head at zero."""

    def __init__(self, width: int = 128, tokens: int = 64, depth: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        mixers = [(tokens, 64), (width, 512)] * depth
        self.mixers = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.GELU(), nn.Linear(b, a)) for a, b in mixers)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        for m in self.mixers.modules():
            if isinstance(m, nn.Linear):
                init.xavier_uniform_(m.weight)
                init.normal_(m.bias, std=1e-6)
        init.zeros_(self.head.weight)
        init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).mT
        for i, (norm, mix) in enumerate(zip(self.norms, self.mixers, strict=True)):
            h = norm(x)
            x = x + (mix(h) if i % 2 else mix(h.mT).mT)
        return self.head(self.norm(x).mean(1))


class ViT(nn.Module):
    """Dosovitskiy et al. 2021 in timm's dialect: a class token, one packed qkv layer, truncated normal of 0.02.

    ``scale`` is the start of LayerScale (Touvron et al. 2021 and 2022: CaiT, DeiT III)."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int, scale: float | None) -> None:
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.gamma1, self.gamma2 = 1.0, 1.0
            if scale is not None:
                self.gamma1, self.gamma2 = (nn.Parameter(scale * torch.ones(width)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            batch, tokens, width = x.shape
            qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0)
            attention = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            mixed = (attention.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
            x = x + self.gamma1 * self.proj(mixed)
            return x + self.gamma2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def __init__(self, width: int = 192, depth: int = 8, scale: float | None = None) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(self.Block(width, 3, scale) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 100)
        self.drop = nn.Dropout(0.0)
        init.normal_(self.cls_token, std=1e-6)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                init.trunc_normal_(m.weight, std=0.02)
                init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        return self.head(self.drop(self.norm(self.blocks(x))[:, 0]))


class DiT(nn.Module):
    """Peebles & Xie 2023: adaLN-zero, fixed sine positions, class embedding; every gate and the output at zero."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
            self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).unsqueeze(1).chunk(6, dim=-1)
            h = self.norm1(x) * (1 + scale1) + shift1
            q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + gate1 * self.proj(h)
            return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def __init__(self, width: int = 192, depth: int = 6) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, width, 2, 2)
        self.position = nn.Parameter(self.waves(torch.arange(64), width), requires_grad=False)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(self.Block(width, 4) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final = nn.Linear(width, 16)
        xavier_(self)
        init.xavier_uniform_(self.patch.weight.view(width, -1))
        init.zeros_(self.patch.bias)
        for table in (self.label, self.time[0], self.time[2]):
            init.normal_(table.weight, std=0.02)
        for zero in (*(b.adaLN_modulation[1] for b in self.blocks), self.final_modulation[1], self.final):
            init.zeros_(zero.weight)

    @staticmethod
    def waves(at: Tensor, width: int) -> Tensor:
        angles = at[:, None].float() * torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        c = self.time(self.waves(t, 64)) + self.label(y)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.final_modulation(c).unsqueeze(1).chunk(2, dim=-1)
        return self.final(self.final_norm(x) * (1 + scale) + shift)


def diffusion() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(8, 4, 16, 16), torch.randint(1000, (8,)), torch.randint(11, (8,))


FAMILIES = {
    "ConvNeXt": Family(ConvNeXt, noise(8, 3, 64, 64)),
    "NFNet": Family(NFNet, noise(8, 3, 24, 24)),
    "MLP-Mixer": Family(Mixer, noise(8, 3, 32, 32)),
    "ViT": Family(ViT, noise(8, 3, 32, 32)),
    "ViT, LayerScale": Family(lambda: ViT(scale=1e-6), noise(8, 3, 32, 32)),
    "DiT": Family(DiT, diffusion),
}
