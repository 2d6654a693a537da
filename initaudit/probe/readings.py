"""Small vectors measured on the devices where tensors live, brought to the host together at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from initaudit.probe.ranks import Ranks


class Readings:
    """Keeps vectors of any length while a model runs. Nothing waits for a device until :meth:`collect`."""

    def __init__(self) -> None:
        self._vectors: list[Tensor] = []
        self._roots: list[tuple[int, ...]] = []
        self._own: set[int] = set()
        self._values: list[list[float]] = []

    def add(self, vector: Tensor, *, roots: tuple[int, ...] = (), shared: bool = True) -> int:
        """Keep a one-dimensional ``vector``; returns the number under which :meth:`__getitem__` finds it later.

        Over several ranks the mean is taken, of the entries ``roots`` the root of the mean square. What is not
        ``shared`` is that of the first rank: it follows a few samples, wherever they are.
        """
        self._vectors.append(vector.detach())
        self._roots.append(roots)
        if not shared:
            self._own.add(len(self._vectors) - 1)
        return len(self._vectors) - 1

    def collect(self, ranks: Ranks | None = None) -> None:
        """Bring every vector to the host, merged over ``ranks``: one transfer per device."""
        self._values = [[] for _ in self._vectors]
        for device in sorted({v.device for v in self._vectors}, key=str):
            mine = [i for i, v in enumerate(self._vectors) if v.device == device]
            flat = torch.cat([self._vectors[i].float() for i in mine])
            rest = (flat if ranks is None else self._merged(mine, flat, ranks)).tolist()
            for i in mine:
                n = self._vectors[i].numel()
                self._values[i], rest = rest[:n], rest[n:]

    def _merged(self, mine: Sequence[int], flat: Tensor, ranks: Ranks) -> Tensor:
        """NaN, where one rank had nothing to look at, is left out."""
        every = flat.new_zeros(ranks.size, len(flat))
        every[ranks.rank] = flat
        ranks.add_up(every)
        roots: list[int] = []
        own: list[int] = []
        start = 0
        for i in mine:
            n = self._vectors[i].numel()
            roots += [start + place for place in self._roots[i]]
            own += range(start, start + n) if i in self._own else ()
            start += n
        every[:, roots] = every[:, roots].square()
        merged = every.nanmean(0)
        merged[roots] = merged[roots].sqrt()
        merged[own] = every[0, own]
        return merged

    def __getitem__(self, number: int) -> list[float]:
        return self._values[number]
