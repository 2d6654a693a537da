"""Images and sounds from noise: DCGAN, VAE, VQ-VAE, RealNVP, WaveNet, and the temporal convolutions of TCN."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init
from torch.nn.utils.parametrizations import weight_norm

from _models._family import Family, he_, ids, noise


def dcgan_(model: nn.Module) -> nn.Module:
    """Radford et al. 2016: every convolution N(0, 0.02), every batch norm's gain N(1, 0.02)."""
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
            init.normal_(m.weight, 0.0, 0.02)
        elif isinstance(m, nn.BatchNorm2d):
            init.normal_(m.weight, 1.0, 0.02)
            init.zeros_(m.bias)
    return model


def generator(width: int = 32) -> nn.Module:
    layers: list[nn.Module] = [nn.ConvTranspose2d(100, 8 * width, 4, 1, 0, bias=False)]
    for i in (8, 4, 2):
        layers += [nn.BatchNorm2d(i * width), nn.ReLU(True)]
        layers += [nn.ConvTranspose2d(i * width, i * width // 2, 4, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU(True), nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return dcgan_(nn.Sequential(*layers))


def discriminator(width: int = 32) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for i in (1, 2, 4):
        layers += [nn.Conv2d(i * width, 2 * i * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * i * width)]
        layers += [nn.LeakyReLU(0.2, inplace=True)]
    return dcgan_(nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Sigmoid()))


class VAE(nn.Module):
    """Kingma & Welling 2014 with convolutions: two heads, a sampled code, a decoder of transposed convolutions."""

    def __init__(self, latent: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(64 * 49, 256), nn.ReLU(),
        )  # fmt: skip
        self.mu, self.log_var = nn.Linear(256, latent), nn.Linear(256, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 256), nn.ReLU(), nn.Linear(256, 64 * 49), nn.ReLU(), nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1),
        )  # fmt: skip
        he_(self.encoder)
        he_(self.decoder)
        for m in self.decoder.modules():
            if isinstance(m, nn.ConvTranspose2d):  # each output pixel sees a quarter of the 16 taps
                init.normal_(m.weight, std=math.sqrt(2 / (4 * m.in_channels)))
                init.zeros_(m.bias)
        for m in (self.mu, self.log_var):
            init.xavier_normal_(m.weight)
            init.zeros_(m.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, log_var = self.mu(h), self.log_var(h)
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        return torch.sigmoid(self.decoder(z)), mu, log_var


class VQVAE(nn.Module):
    """van den Oord et al. 2017: a straight-through codebook between two residual stacks, 1/sqrt(fan_in) throughout."""

    class Residual(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(width, 32, 3, padding=1), nn.Conv2d(32, width, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv2(F.relu(self.conv1(F.relu(x))))

    def __init__(self, width: int = 64, codes: int = 128) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 4, 2, 1), self.Residual(width),
            self.Residual(width), nn.ReLU(), nn.Conv2d(width, width, 1),
        )  # fmt: skip
        self.codebook = nn.Embedding(codes, width)
        init.uniform_(self.codebook.weight, -math.sqrt(3 / width), math.sqrt(3 / width))
        self.decoder = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), self.Residual(width), self.Residual(width), nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1),
        )  # fmt: skip
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):  # transposed: each pixel sees a quarter of the taps
                taps = m.kernel_size[0] * m.kernel_size[1] / (4 if isinstance(m, nn.ConvTranspose2d) else 1)
                init.trunc_normal_(m.weight, std=(m.in_channels * taps) ** -0.5)
                init.zeros_(m.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).permute(0, 2, 3, 1).contiguous()
        flat = z.view(-1, z.shape[-1])
        distance = (
            flat.pow(2).sum(1, keepdim=True) + self.codebook.weight.pow(2).sum(1) - 2 * flat @ self.codebook.weight.T
        )
        quantized = self.codebook(distance.argmin(1)).view_as(z)
        loss = F.mse_loss(quantized, z.detach()) + 0.25 * F.mse_loss(quantized.detach(), z)
        passed = z + (quantized - z).detach()
        return self.decoder(passed.permute(0, 3, 1, 2)), loss


class Coupling(nn.Module):
    """An affine coupling whose last layer starts at zero, so that the flow starts as the identity."""

    def __init__(self, width: int, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(
            nn.Linear(width // 2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, width)
        )
        he_(self.net[:-1])
        init.zeros_(self.net[-1].weight)
        init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, dim=-1)
        a, b = (b, a) if self.flip else (a, b)
        scale, shift = self.net(a).chunk(2, dim=-1)
        scale = torch.tanh(scale)
        b = b * torch.exp(scale) + shift
        return torch.cat((b, a) if self.flip else (a, b), dim=-1), scale.sum(-1)


class RealNVP(nn.Module):
    """Dinh et al. 2017: eight couplings, zero last layers (Kingma & Dhariwal 2018)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(width, bool(i % 2)) for i in range(8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros(x.shape[0])
        for coupling in self.couplings:
            x, change = coupling(x)
            log_det = log_det + change
        return x, log_det


class WaveNet(nn.Module):
    """van den Oord et al. 2016: two cycles of eight dilations, tanh times sigmoid, skip sums; Glorot."""

    def __init__(self, residual: int = 48, skip: int = 64, classes: int = 256) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, residual)
        dilations = [2**i for i in range(8)] * 2
        self.dilated = nn.ModuleList(nn.Conv1d(residual, 2 * residual, 2, dilation=d) for d in dilations)
        self.residual = nn.ModuleList(nn.Conv1d(residual, residual, 1) for _ in dilations)
        self.skip = nn.ModuleList(nn.Conv1d(residual, skip, 1) for _ in dilations)
        self.end1, self.end2 = nn.Conv1d(skip, skip, 1), nn.Conv1d(skip, classes, 1)
        for m in self.modules():
            if isinstance(m, nn.Conv1d):
                init.xavier_uniform_(m.weight)
                init.zeros_(m.bias)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.embed(codes).transpose(1, 2)
        skips: Tensor | int = 0
        for dilated, residual, skip in zip(self.dilated, self.residual, self.skip, strict=True):
            filtered, gate = dilated(F.pad(x, (dilated.dilation[0], 0))).chunk(2, dim=1)
            h = torch.tanh(filtered) * torch.sigmoid(gate)
            skips = skips + skip(h)
            x = x + residual(h)
        return self.end2(F.relu(self.end1(F.relu(skips))))


class TCN(nn.Module):
    """Bai et al. 2018: weight-normalized dilated causal convolutions in residual blocks, weights N(0, 0.01)."""

    class Block(nn.Module):
        def __init__(self, before: int, width: int, dilation: int) -> None:
            super().__init__()
            self.pad = 2 * dilation
            convs = [nn.Conv1d(b, width, 3, dilation=dilation) for b in (before, width)]
            for conv in convs:
                init.normal_(conv.weight, 0, 0.01)
            self.conv1, self.conv2 = (weight_norm(conv) for conv in convs)
            self.downsample = nn.Conv1d(before, width, 1) if before != width else None
            if self.downsample is not None:
                init.normal_(self.downsample.weight, 0, 0.01)

        def forward(self, x: Tensor) -> Tensor:
            h = F.dropout(F.relu(self.conv1(F.pad(x, (self.pad, 0)))), 0.2, self.training)
            h = F.dropout(F.relu(self.conv2(F.pad(h, (self.pad, 0)))), 0.2, self.training)
            return F.relu(h + (x if self.downsample is None else self.downsample(x)))

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.network = nn.Sequential(*(self.Block(8 if i == 0 else width, width, 2**i) for i in range(6)))
        self.linear = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.network(x)[:, :, -1])


FAMILIES = {
    "DCGAN generator": Family(generator, noise(8, 100, 1, 1)),
    "DCGAN discriminator": Family(discriminator, noise(8, 3, 64, 64)),
    "VAE": Family(VAE, lambda: torch.rand(16, 1, 28, 28)),
    "VQ-VAE": Family(VQVAE, noise(8, 3, 32, 32)),
    "RealNVP": Family(RealNVP, noise(64, 32)),
    "WaveNet": Family(WaveNet, ids(256, 4, 300)),
    "TCN": Family(TCN, noise(16, 8, 100)),
}
