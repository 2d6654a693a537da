"""Sequences of tokens: GPT, Llama, mixture of experts, LSTM, GRU with attention, Perceiver, T5's encoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

from _models._family import Family, ids, noise, normal_

WORDS = 512


class GPT(nn.Module):
    """Radford et al. 2019 as in nanoGPT: N(0, 0.02), the ends of residual branches / sqrt(2 layers), a tied head."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.c_fc, self.mlp_c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.drop = nn.Dropout(0.1)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.c_attn(self.ln_1(x)).split(x.shape[-1], dim=2)
            q, k, v = (t.view(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.drop(self.c_proj(y.transpose(1, 2).contiguous().view(x.shape)))
            return x + self.drop(self.mlp_c_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")))

    def __init__(self, width: int = 192, layers: int = 12) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, width), nn.Embedding(64, width)
        self.h = nn.ModuleList(self.Block(width, 6) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, WORDS, bias=False)
        self.lm_head.weight = self.wte.weight
        normal_(self, 0.02, nn.Linear, nn.Embedding)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                init.normal_(parameter, std=0.02 / math.sqrt(2 * layers))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class RMSNorm(nn.Module):
    """Zhang & Sennrich 2019, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def rotate(x: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) on ``[batch, heads, tokens, features]``."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[-2]), 10000 ** (-torch.arange(half) / half))
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), dim=-1)


class LlamaBlock(nn.Module):
    def __init__(self, width: int, heads: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.groups, size = heads, groups, width // heads
        self.attention_norm, self.ffn_norm = RMSNorm(width), RMSNorm(width)
        self.wq, self.wo = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.wk, self.wv = (nn.Linear(width, groups * size, bias=False) for _ in range(2))
        self.w1, self.w3 = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def attend(self, h: Tensor) -> Tensor:
        q = self.wq(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (w(h).unflatten(-1, (self.groups, -1)).transpose(1, 2) for w in (self.wk, self.wv))
        k, v = (t.repeat_interleave(self.heads // self.groups, dim=1) for t in (k, v))
        scores = rotate(q) @ rotate(k).transpose(2, 3) / math.sqrt(q.shape[-1])
        mask = torch.full(scores.shape[-2:], float("-inf")).triu(1)
        return self.wo((F.softmax(scores + mask, dim=-1) @ v).transpose(1, 2).flatten(2))

    def feed(self, h: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(h)) * self.w3(h))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.attention_norm(x))
        return x + self.feed(self.ffn_norm(x))


class Llama(nn.Module):
    """Touvron et al. 2023: RMSNorm, rotary positions, grouped queries, SwiGLU, N(0, 0.02) everywhere, no bias."""

    def __init__(self, width: int = 192, layers: int = 8) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(WORDS, width)
        self.layers = nn.ModuleList(self.block(width) for _ in range(layers))
        self.norm, self.output = RMSNorm(width), nn.Linear(width, WORDS, bias=False)
        normal_(self, 0.02, nn.Linear, nn.Embedding)

    def block(self, width: int) -> nn.Module:
        return LlamaBlock(width, 6, 2, 512)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tok_embeddings(tokens)
        for layer in self.layers:
            h = layer(h)
        return self.output(self.norm(h))


class ExpertBlock(LlamaBlock):
    """The feed-forward layer as four experts of which a router picks two per token (Jiang et al. 2024)."""

    def __init__(self, width: int, hidden: int, experts: int = 4) -> None:
        super().__init__(width, 6, 2, 8)
        del self.w1, self.w2, self.w3
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.empty(experts, width, 2 * hidden).normal_(std=0.02))
        self.down = nn.Parameter(torch.empty(experts, hidden, width).normal_(std=0.02))

    def feed(self, h: Tensor) -> Tensor:
        flat = h.flatten(0, 1)
        share, chosen = self.router(flat).softmax(-1).topk(2, dim=-1)
        share = share / share.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for expert in range(self.router.out_features):
            rows, place = torch.where(chosen == expert)
            gate, value = (flat[rows] @ self.up[expert]).chunk(2, dim=-1)
            y = (F.silu(gate) * value) @ self.down[expert]
            out.index_add_(0, rows, y * share[rows, place, None])
        return out.view_as(h)


class MixtureOfExperts(Llama):
    def block(self, width: int) -> nn.Module:
        return ExpertBlock(width, 256)


class LSTMLanguageModel(nn.Module):
    """Zaremba et al. 2014 in layout; Glorot and orthogonal weights, forget bias 1 (Jozefowicz et al. 2015)."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.encoder = nn.Embedding(WORDS, width)
        self.drop = nn.Dropout(0.2)
        self.rnn = nn.LSTM(width, width, 2, batch_first=True)
        self.decoder = nn.Linear(width, WORDS)
        init.uniform_(self.encoder.weight, -0.1, 0.1)
        init.uniform_(self.decoder.weight, -0.1, 0.1)
        init.zeros_(self.decoder.bias)
        for name, parameter in self.rnn.named_parameters():
            if "bias" in name:
                init.zeros_(parameter)
                if "bias_hh" in name:
                    with torch.no_grad():
                        parameter[width : 2 * width].fill_(1.0)
            else:
                for gate in parameter.chunk(4):
                    (init.orthogonal_ if "hh" in name else init.xavier_uniform_)(gate)

    def forward(self, tokens: Tensor) -> Tensor:
        out, _ = self.rnn(self.drop(self.encoder(tokens)))
        return self.decoder(self.drop(out))


class Seq2Seq(nn.Module):
    """Bahdanau et al. 2015: GRU encoder, additive attention, a GRU cell that decodes step by step; torch's defaults."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(WORDS, width), nn.Embedding(WORDS, width)
        self.encoder = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * width, width)
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(2 * width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)
        self.cell = nn.GRUCell(3 * width, width)
        self.out = nn.Linear(3 * width, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.encoder(self.source(source))
        state = torch.tanh(self.bridge(torch.cat((last[0], last[1]), dim=1)))
        keys, words, outs = self.key(memory), self.target(target), []
        for step in range(words.shape[1]):
            energy = self.score(torch.tanh(self.query(state)[:, None] + keys)).squeeze(-1)
            context = torch.bmm(F.softmax(energy, dim=1).unsqueeze(1), memory).squeeze(1)
            state = self.cell(torch.cat([words[:, step], context], 1), state)
            outs.append(self.out(torch.cat([state, context], 1)))
        return torch.stack(outs, 1)


class Perceiver(nn.Module):
    """Jaegle et al. 2021: learned latents read a long input by cross-attention; six shared self-attention blocks."""

    class Attention(nn.Module):
        def __init__(self, width: int, source: int, heads: int = 4) -> None:
            super().__init__()
            self.norm, self.norm_source = nn.LayerNorm(width), nn.LayerNorm(source)
            self.attend = nn.MultiheadAttention(width, heads, kdim=source, vdim=source, batch_first=True)
            self.mlp = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )

        def forward(self, x: Tensor, source: Tensor) -> Tensor:
            source = self.norm_source(source)
            x = x + self.attend(self.norm(x), source, source, need_weights=False)[0]
            return x + self.mlp(x)

    def __init__(self, width: int = 128, source: int = 48) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(32, width))
        init.trunc_normal_(self.latents, std=0.02, a=-2, b=2)
        self.read = self.Attention(width, source)
        self.process = nn.ModuleList(self.Attention(width, width) for _ in range(6))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        normal_(self, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        latents = self.read(self.latents.expand(x.shape[0], -1, -1), x)
        for block in self.process:
            latents = block(latents, latents)
        return self.head(self.norm(latents).mean(dim=1))


FAMILIES = {
    "GPT": Family(GPT, ids(WORDS, 4, 48)),
    "Llama": Family(Llama, ids(WORDS, 4, 48)),
    "mixture of experts": Family(MixtureOfExperts, ids(WORDS, 4, 48)),
    "LSTM language model": Family(LSTMLanguageModel, ids(WORDS, 8, 32)),
    "GRU seq2seq": Family(Seq2Seq, lambda: (ids(WORDS, 8, 12)(), ids(WORDS, 8, 10)())),
    "Perceiver": Family(Perceiver, noise(4, 200, 48)),
}
