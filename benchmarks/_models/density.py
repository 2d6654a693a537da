"""Images by invertible steps, by adversaries and by diffusion: Glow, MADE, StyleGAN2, SNGAN, the U-Net of DDPM."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init
from torch.nn.utils.parametrizations import spectral_norm

from _models._family import Family, he_, noise


class GlowStep(nn.Module):
    """ActNorm, an invertible 1x1 convolution that starts orthogonal, an affine coupling that starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias, self.logs = nn.Parameter(torch.zeros(1, width, 1, 1)), nn.Parameter(torch.zeros(1, width, 1, 1))
        self.mix = nn.Parameter(init.orthogonal_(torch.empty(width, width)))
        self.conv1, self.conv2 = nn.Conv2d(width // 2, 128, 3, padding=1), nn.Conv2d(128, 128, 1)
        self.conv3, self.scale = nn.Conv2d(128, width, 3, padding=1), nn.Parameter(torch.zeros(width, 1, 1))
        for conv in (self.conv1, self.conv2):
            init.normal_(conv.weight, std=0.05)
            init.zeros_(conv.bias)
        init.zeros_(self.conv3.weight)
        init.zeros_(self.conv3.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pixels = x.shape[2] * x.shape[3]
        x = (x + self.bias) * torch.exp(self.logs)
        x = F.conv2d(x, self.mix[:, :, None, None])
        a, b = x.chunk(2, 1)
        h = F.relu(self.conv2(F.relu(self.conv1(a))))
        shift, scale = (self.conv3(h) * torch.exp(3 * self.scale)).chunk(2, 1)
        scale = torch.sigmoid(scale + 2.0)
        log_det = pixels * (self.logs.sum() + torch.linalg.slogdet(self.mix)[1]) + scale.log().sum((1, 2, 3))
        return torch.cat([a, (b + shift) * scale], 1), log_det


class Glow(nn.Module):
    """Kingma & Dhariwal 2018: eight steps on squeezed images."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(GlowStep(12) for _ in range(8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, total = F.pixel_unshuffle(x, 2), torch.zeros(x.shape[0])
        for step in self.steps:
            x, log_det = step(x)
            total = total + log_det
        return x, total


class MADE(nn.Module):
    """Germain et al. 2015: masked weights, so that output i sees inputs before i; orthogonal draws as in the paper."""

    def __init__(self, width: int = 32, hidden: int = 256) -> None:
        super().__init__()
        orders = [torch.arange(width), *(torch.randint(0, width - 1, (hidden,)) for _ in range(2)), torch.arange(width)]
        self.layers = nn.ModuleList(nn.Linear(len(a), len(b)) for a, b in pairwise(orders))
        for i, (before, after) in enumerate(pairwise(orders)):
            seen = after[:, None] > before if i == len(self.layers) - 1 else after[:, None] >= before
            self.register_buffer(f"mask{i}", seen.float())
            init.orthogonal_(self.layers[i].weight, math.sqrt(2) if i < 2 else 1.0)
            init.zeros_(self.layers[i].bias)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = F.linear(x, layer.weight * getattr(self, f"mask{i}"), layer.bias)
            if i < len(self.layers) - 1:
                x = F.relu(x)
        return x


class EqualLinear(nn.Module):
    """Karras et al. 2018: weights N(0, 1), scaled by 1/sqrt(fan_in) at each call."""

    def __init__(self, before: int, after: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before) / rate)
        self.bias = nn.Parameter(torch.full((after,), bias))
        self.scale, self.rate = rate / math.sqrt(before), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class ModulatedConv(nn.Module):
    """A convolution whose weight is modulated per sample and demodulated, as one grouped convolution."""

    def __init__(self, before: int, after: int, style: int, kernel: int = 3, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, after, before, kernel, kernel))
        self.style = EqualLinear(style, before, bias=1.0)
        self.scale, self.demodulate = 1 / math.sqrt(before * kernel**2), demodulate
        self.noise, self.bias = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, after, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        weight = self.scale * self.weight * self.style(w)[:, None, :, None, None]
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        kernels, kernel = weight.flatten(0, 1), weight.shape[-1]
        x = F.conv2d(x.reshape(1, -1, height, width), kernels, padding=kernel // 2, groups=batch)
        x = x.view(batch, -1, height, width)
        if not self.demodulate:
            return x + self.bias
        x = x + self.noise * torch.randn(batch, 1, height, width)
        return F.leaky_relu(x + self.bias, 0.2) * math.sqrt(2)


class StyleGAN2(nn.Module):
    """Karras et al. 2020: eight mapping layers at a hundredth of the rate, a learned constant, images summed up."""

    def __init__(self, width: int = 64, style: int = 128) -> None:
        super().__init__()
        self.mapping = nn.ModuleList(EqualLinear(style, style, rate=0.01) for _ in range(8))
        self.constant = nn.Parameter(torch.randn(1, width, 4, 4))
        self.convs = nn.ModuleList(ModulatedConv(width, width, style) for _ in range(6))
        self.rgb = nn.ModuleList(ModulatedConv(width, 3, style, 1, False) for _ in range(3))
        for module in self.rgb:
            del module.noise

    def forward(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = F.leaky_relu(layer(w), 0.2) * math.sqrt(2)
        x, image = self.constant.repeat(z.shape[0], 1, 1, 1), 0
        for i, rgb in enumerate(self.rgb):
            if i:
                x = F.interpolate(x, scale_factor=2, mode="bilinear")
                image = F.interpolate(image, scale_factor=2, mode="bilinear")
            x = self.convs[2 * i + 1](self.convs[2 * i](x, w), w)
            image = image + rgb(x, w)
        return image


def sn_discriminator(width: int = 64) -> nn.Module:
    """Miyato et al. 2018: spectrally normalized convolutions and LeakyReLU(0.1), Glorot."""
    layers: list[nn.Module] = []
    shapes = ((3, 1, 3, 1), (1, 1, 4, 2), (1, 2, 3, 1), (2, 2, 4, 2), (2, 4, 3, 1), (4, 4, 4, 2), (4, 8, 3, 1))
    for i, (before, after, kernel, stride) in enumerate(shapes):
        conv = nn.Conv2d(3 if i == 0 else before * width, after * width, kernel, stride, 1)
        init.xavier_uniform_(conv.weight)
        init.zeros_(conv.bias)
        layers += [spectral_norm(conv), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers, nn.Flatten(), spectral_norm(nn.Linear(8 * width * 16, 1)))


class DiffusionBlock(nn.Module):
    """GroupNorm-SiLU-conv twice, the time added between them, the second convolution at zero."""

    def __init__(self, before: int, after: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, before), nn.Conv2d(before, after, 3, padding=1)
        self.time = nn.Linear(time, after)
        self.norm2, self.conv2 = nn.GroupNorm(8, after), nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        init.zeros_(self.conv2.weight)
        init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
        return self.skip(x) + self.conv2(F.dropout(F.silu(self.norm2(h)), 0.1, self.training))


class DDPM(nn.Module):
    """Ho et al. 2020: U-Net with time embedding and attention in the middle; last convolutions at zero."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        time = 4 * width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.inner = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList([DiffusionBlock(width, width, time), DiffusionBlock(width, 2 * width, time)])
        self.shrink = nn.ModuleList(nn.Conv2d(w, w, 3, 2, 1) for w in (width, 2 * width))
        self.middle = DiffusionBlock(2 * width, 2 * width, time)
        self.norm, self.qkv = nn.GroupNorm(8, 2 * width), nn.Conv2d(2 * width, 6 * width, 1)
        self.project = nn.Conv2d(2 * width, 2 * width, 1)
        self.up = nn.ModuleList([DiffusionBlock(4 * width, width, time), DiffusionBlock(2 * width, width, time)])
        self.out = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))
        for last in (self.project, self.out[2]):
            init.zeros_(last.weight)
            init.zeros_(last.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        half = self.time[0].in_features // 2
        angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        t = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x, skips = self.inner(x), []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x, t)
            skips.append(x)
            x = shrink(x)
        x = self.middle(x, t)
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, 1)
        weights = torch.einsum("bci,bcj->bij", q, k).mul(q.shape[1] ** -0.5).softmax(-1)
        x = x + self.project(torch.einsum("bij,bcj->bci", weights, v).view_as(x))
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skips.pop()], 1), t)
        return self.out(x)


class Autoencoder(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose (tied weights), ReLU and He."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 256, 128, 32)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in widths[-2::-1])
        he_(self)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        for i, (layer, bias) in enumerate(zip(reversed(self.layers), self.biases, strict=True)):
            x = F.linear(x, layer.weight.t(), bias)
            x = F.relu(x) if i < 2 else x
        return x


FAMILIES = {
    "Glow": Family(Glow, noise(8, 3, 16, 16)),
    "MADE": Family(MADE, noise(64, 32)),
    "StyleGAN2": Family(StyleGAN2, noise(8, 128)),
    "SNGAN discriminator": Family(sn_discriminator, noise(8, 3, 32, 32)),
    "DDPM": Family(DDPM, lambda: (torch.randn(4, 3, 32, 32), torch.randint(1000, (4,)))),
    "tied autoencoder": Family(Autoencoder, noise(64, 64)),
}
