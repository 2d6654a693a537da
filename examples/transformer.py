"""A small pre-norm transformer with GPT-2's initialization: the audit passes.

Weights are N(0, 0.02^2); the two projections that write to the residual path in each block are scaled by
1/sqrt(2 BLOCKS) (Radford et al. 2019), so that the 2 BLOCKS branches together add as much as one would. A standard
deviation of 0.02 follows no fan-in rule; here it harms nothing, because a normalization opens every branch.

    initaudit examples/transformer.py

Token ids cannot be drawn from a normal distribution, so `initaudit_inputs` says what to feed; `initaudit_loss` lets
the audit compare the loss at initialization with ln(VOCABULARY), that of a model which knows nothing yet.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, CONTEXT, WIDTH, HEADS, BLOCKS = 512, 64, 128, 4, 4


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class SmallGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS) for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                writes_to_residual = name.endswith(("proj", "contract"))
                std = 0.02 / math.sqrt(2 * BLOCKS) if writes_to_residual else 0.02
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)))


def initaudit_inputs() -> Tensor:
    return torch.randint(VOCABULARY, (8, CONTEXT))


def initaudit_loss(logits: Tensor) -> Tensor:
    targets = torch.randint(VOCABULARY, logits.shape[:-1], device=logits.device)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


if __name__ == "__main__":
    import rich

    import initaudit

    rich.print(initaudit.audit(SmallGPT, initaudit_inputs(), loss=initaudit_loss))
