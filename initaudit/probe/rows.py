"""A few rows of a large tensor: the same for every tensor of one shape, and for every run of one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from initaudit.probe.devices import sent

_PLACES = 16  # of the leading dimensions: batch and heads
_ENTRIES = 1 << 19  # that a sample may have at most


@dataclass(frozen=True, slots=True)
class Choice:
    """Indices into the leading dimensions, ``(places,)`` each, and of rows at each place, ``(places, rows)``."""

    places: tuple[Tensor, ...]
    rows: Tensor

    def take(self, tensor: Tensor) -> Tensor:
        """The chosen rows of ``(*lead, length, ...)`` as float32 ``(places, rows, ...)``."""
        index = (*(i[:, None] for i in self.places), self.rows)
        return tensor[index if self.places else self.rows[0]].float()


class RowSampler:
    """Draws each :class:`Choice` once."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._choices: dict[tuple[object, ...], Choice] = {}

    def choose(
        self, lead: Sequence[int], length: int, width: int, device: torch.device, *, rows: int, together: bool = False
    ) -> Choice:
        """Up to ``rows`` of ``length`` rows of ``width`` entries, at a few places of the ``lead`` dimensions.

        ``together`` takes the same rows without repetition at every place, where they are compared with each other.
        """
        rows = min(rows, length, max(2 if together else 1, _ENTRIES // (_PLACES * width)))
        key = (*lead, length, rows, device, together)
        if key not in self._choices:
            self._choices[key] = self._draw(lead, length, rows, device, together)
        return self._choices[key]

    def _draw(self, lead: Sequence[int], length: int, rows: int, device: torch.device, together: bool) -> Choice:
        generator = torch.Generator().manual_seed(self._seed + prod(lead) * 31 + length)
        count = prod(lead)
        places = (
            torch.randint(count, (_PLACES,), generator=generator, device="cpu")
            if count > _PLACES
            else torch.arange(count, device="cpu")
        )
        if rows == length:
            positions = torch.arange(length, device="cpu").expand(len(places), -1)
        elif together:
            positions = torch.randperm(length, generator=generator, device="cpu")[:rows].expand(len(places), -1)
        else:
            positions = torch.randint(length, (len(places), rows), generator=generator, device="cpu")
        index: list[Tensor] = []
        for n in reversed(lead):
            index.insert(0, sent(places % n, device))
            places = places // n
        return Choice(tuple(index), sent(positions, device))
