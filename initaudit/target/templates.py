"""A sample tensor that is not drawn yet: its shape with the batch left open, and what its values mean."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod

import torch
from torch import Tensor

BATCH = -1  # stands for the batch size in a template's shape


class Fill(Enum):
    """What the elements are."""

    NORMAL = "normal"  # N(0, 1)
    TOKENS = "tokens"  # uniform integers in [low, high)
    SAMPLES = "samples"  # positions in the batch, as a graph's edges name nodes
    UNIFORM = "uniform"  # floats in [0, 1)
    ONES = "ones"
    KEEP = "keep"  # a boolean mask that masks nothing out


@dataclass(frozen=True)
class Template:
    """Shape and values of one sample tensor; ``batch`` is the batch size it would like to have."""

    shape: tuple[int, ...]
    batch: int = 8
    fill: Fill = Fill.NORMAL
    low: int = 0
    high: int = 0
    excluded: tuple[int, ...] = ()  # integers not to draw: padding, end of sentence ...

    def draw(self, generator: torch.Generator, batch: int) -> Tensor:
        """The tensor, drawn by ``generator`` only, on the cpu whatever the default device is."""
        sizes = [batch if size == BATCH else size for size in self.shape]
        if self.fill is Fill.TOKENS:
            return self._tokens(sizes, generator)
        if self.fill is Fill.SAMPLES:
            return torch.randint(batch, sizes, generator=generator, device="cpu")
        if self.fill is Fill.ONES:
            return torch.ones(sizes, dtype=torch.int64, device="cpu")
        if self.fill is Fill.KEEP:
            return torch.zeros(sizes, dtype=torch.bool, device="cpu")
        if self.fill is Fill.UNIFORM:
            return torch.rand(sizes, generator=generator, device="cpu")
        return torch.randn(sizes, generator=generator, device="cpu")

    def _tokens(self, sizes: list[int], generator: torch.Generator) -> Tensor:
        low = self.low if self.low < self.high else 0
        allowed = torch.arange(low, self.high, device="cpu")
        kept = allowed[~torch.isin(allowed, torch.tensor(self.excluded, dtype=torch.int64, device="cpu"))]
        if kept.numel() > 1:
            allowed = kept
        drawn = torch.randint(allowed.numel(), (prod(sizes),), generator=generator, device="cpu")
        return allowed[drawn].reshape(sizes)


def images(channels: int, *sizes: int, batch: int | None = None) -> Template:
    """Channels first: ``[batch, channels, *sizes]``; small ones come in larger batches."""
    return Template((BATCH, channels, *sizes), batch or (32 if max(sizes) <= 64 else 8))


def tokens(vocabulary: int, *sizes: int, low: int = 0, batch: int = 8) -> Template:
    """Integers in ``[low, vocabulary)``: ``[batch, *sizes]``."""
    return Template((BATCH, *sizes), batch, Fill.TOKENS, low, vocabulary)
