"""Sequences without softmax attention or without pre-norm: Mamba, RWKV's mixing, T5, post-norm and DeepNorm, DETR."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

from _models._family import Family, ids, normal_
from _models.language import WORDS, RMSNorm


class MambaBlock(nn.Module):
    """Gu & Dao 2023: a selective scan; A = -(1..N), D = 1, the bias of dt such that softplus gives 1e-3 to 1e-1."""

    def __init__(self, width: int, state: int = 8, rank: int = 8) -> None:
        super().__init__()
        inner = 2 * width
        self.norm, self.in_proj = RMSNorm(width), nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 4, groups=inner, padding=3)
        self.x_proj, self.dt_proj = nn.Linear(inner, rank + 2 * state, bias=False), nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, state + 1).float()).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.sizes = (rank, state, state)
        dt = torch.exp(torch.rand(inner) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
        init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, residual: Tensor) -> Tensor:
        x, z = self.in_proj(self.norm(residual)).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.mT)[..., : x.shape[1]].mT)
        dt, b, c = self.x_proj(x).split(self.sizes, dim=-1)
        dt, a = F.softplus(self.dt_proj(dt)), -torch.exp(self.A_log)
        state, outs = torch.zeros(x.shape[0], *self.A_log.shape), []
        for t in range(x.shape[1]):
            decay = torch.exp(dt[:, t, :, None] * a)
            state = decay * state + (dt[:, t] * x[:, t])[..., None] * b[:, t, None]
            outs.append((state * c[:, t, None]).sum(-1))
        y = torch.stack(outs, 1) + x * self.D
        return residual + self.out_proj(y * F.silu(z))


class Mamba(nn.Module):
    def __init__(self, width: int = 96, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.layers = nn.Sequential(*(MambaBlock(width) for _ in range(layers)))
        self.norm_f, self.lm_head = RMSNorm(width), nn.Linear(width, WORDS, bias=False)
        init.normal_(self.embedding.weight, std=0.02)
        self.lm_head.weight = self.embedding.weight
        for block in self.layers:  # as the reference does: uniform(a=sqrt(5)) / sqrt(layers) at the end of each branch
            with torch.no_grad():
                block.out_proj.weight /= math.sqrt(layers)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lm_head(self.norm_f(self.layers(self.embedding(tokens))))


class RWKVChannelMix(nn.Module):
    """Peng et al. 2023: token shift, squared ReLU, a sigmoid receptance; matrices that end a branch start at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix_k, self.mix_r = (nn.Parameter(torch.linspace(0, 1, width)) for _ in range(2))
        self.key, self.value = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        init.orthogonal_(self.key.weight, gain=2.0)
        for zero in (self.value, self.receptance):
            init.zeros_(zero.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        before = F.pad(h, (0, 0, 1, -1))
        key = self.key(h * self.mix_k + before * (1 - self.mix_k))
        gate = torch.sigmoid(self.receptance(h * self.mix_r + before * (1 - self.mix_r)))
        return x + gate * self.value(torch.relu(key) ** 2)


class RWKV(nn.Module):
    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.emb, self.ln0 = nn.Embedding(WORDS, width), nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(RWKVChannelMix(width) for _ in range(6)))
        self.ln_out, self.head = nn.LayerNorm(width), nn.Linear(width, WORDS, bias=False)
        init.uniform_(self.emb.weight, -1e-4, 1e-4)
        init.orthogonal_(self.head.weight, gain=0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.ln_out(self.blocks(self.ln0(self.emb(tokens)))))


class T5Block(nn.Module):
    """Raffel et al. 2020: no scaling of the logits, since queries are drawn with std (d * d_head)^-0.5 instead."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, size = heads, width // heads
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.wi, self.wo = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        init.normal_(self.q.weight, std=(width * size) ** -0.5)
        for layer in (self.k, self.v, self.o, self.wi):
            init.normal_(layer.weight, std=width**-0.5)
        init.normal_(self.wo.weight, std=(4 * width) ** -0.5)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = (torch.matmul(q, k.transpose(3, 2)) + bias).softmax(-1) @ v
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        return x + self.wo(F.dropout(F.relu(self.wi(self.norm2(x))), 0.1, self.training))


class T5Encoder(nn.Module):
    def __init__(self, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.shared = nn.Embedding(WORDS, width)
        self.relative = nn.Embedding(64, heads)
        self.blocks = nn.ModuleList(T5Block(width, heads) for _ in range(6))
        self.final_norm = RMSNorm(width)
        init.normal_(self.shared.weight, std=1.0)
        init.normal_(self.relative.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1])
        bias = self.relative((place[None] - place[:, None]).clamp(-31, 31) + 32).permute(2, 0, 1)
        x = self.shared(tokens)
        for block in self.blocks:
            x = block(x, bias)
        return self.final_norm(x)


class DeepNet(nn.Module):
    """Wang et al. 2022: post-norm, x * (2N)^(1/4) + f(x), values and feed-forward drawn with gain (8N)^(-1/4)."""

    def __init__(self, width: int = 128, layers: int = 12, heads: int = 4) -> None:
        super().__init__()
        self.alpha, self.heads, beta = (2 * layers) ** 0.25, heads, (8 * layers) ** -0.25
        self.embed = nn.Embedding(WORDS, width)
        self.attention = nn.ModuleList(
            nn.ModuleDict({k: nn.Linear(width, width) for k in "qkvo"}) for _ in range(layers)
        )
        self.fc1 = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.fc2 = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.head = nn.Linear(width, WORDS)
        init.normal_(self.embed.weight, std=width**-0.5)
        for layer in [*self.fc1, *self.fc2, *(m[k] for m in self.attention for k in "qkvo")]:
            init.xavier_normal_(layer.weight, beta)
            init.zeros_(layer.bias)
        for block in self.attention:
            for k in "qk":
                init.xavier_normal_(block[k].weight)
        init.normal_(self.head.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) * self.embed.embedding_dim**0.5
        for i, block in enumerate(self.attention):
            q, k, v = (block[n](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for n in "qkv")
            mixed = block["o"](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
            x = self.norms[2 * i](x * self.alpha + mixed)
            x = self.norms[2 * i + 1](x * self.alpha + self.fc2[i](F.relu(self.fc1[i](x))))
        return self.head(x)


class DETR(nn.Module):
    """Carion et al. 2020: a post-norm transformer whose decoder starts from zeros plus learned queries; Glorot."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.input_proj = nn.Conv2d(64, width, 1)
        self.transformer = nn.Transformer(width, 4, 3, 3, 256, dropout=0.1, batch_first=True)
        self.query_embed = nn.Embedding(20, width)
        self.row, self.column = nn.Parameter(torch.rand(50, width // 2)), nn.Parameter(torch.rand(50, width // 2))
        self.class_embed = nn.Linear(width, 12)
        self.bbox_embed = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        h = self.input_proj(features)
        height, width = h.shape[-2:]
        position = torch.cat(
            [self.column[:width].expand(height, -1, -1), self.row[:height, None].expand(-1, width, -1)], -1
        )
        queries = self.query_embed.weight.expand(features.shape[0], -1, -1)
        out = self.transformer(h.flatten(2).transpose(1, 2) + position.flatten(0, 1), queries)
        return self.class_embed(out), self.bbox_embed(out).sigmoid()


class BERT(nn.Module):
    """Devlin et al. 2019: torch's own post-norm encoder layers with N(0, 0.02), and the masked-word head."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.words, self.places, self.kinds = (nn.Embedding(n, width) for n in (WORDS, 64, 2))
        self.norm = nn.LayerNorm(width)
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, F.gelu, batch_first=True) for _ in range(6)
        )
        self.transform, self.head_norm, self.head = (
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.Linear(width, WORDS),
        )
        normal_(self, 0.02, nn.Linear, nn.Embedding)
        for layer in self.encoder:
            init.normal_(layer.self_attn.in_proj_weight, std=0.02)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1]).expand_as(tokens)
        x = self.norm(self.words(tokens) + self.places(places) + self.kinds(torch.zeros_like(tokens)))
        for layer in self.encoder:
            x = layer(x)
        return self.head(self.head_norm(F.gelu(self.transform(x))))


FAMILIES = {
    "Mamba": Family(Mamba, ids(WORDS, 4, 24)),
    "RWKV channel mixing": Family(RWKV, ids(WORDS, 4, 32)),
    "T5 encoder": Family(T5Encoder, ids(WORDS, 4, 32)),
    "DeepNet": Family(DeepNet, ids(WORDS, 4, 32)),
    "DETR": Family(DETR, lambda: torch.randn(4, 64, 7, 7)),
    "BERT": Family(BERT, ids(WORDS, 4, 32)),
}
