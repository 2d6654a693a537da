"""Small vectors measured on the devices where tensors live, brought to the host together at the end."""

from __future__ import annotations

import torch
from torch import Tensor


class Readings:
    """Keeps vectors of any length while a model runs. Nothing waits for a device until :meth:`collect`."""

    def __init__(self) -> None:
        self._vectors: list[Tensor] = []
        self._values: list[list[float]] = []

    def add(self, vector: Tensor) -> int:
        """Keep a one-dimensional ``vector``; returns the number under which :meth:`__getitem__` finds it later."""
        self._vectors.append(vector.detach())
        return len(self._vectors) - 1

    def collect(self) -> None:
        """Bring every vector to the host: one transfer per device."""
        self._values = [[] for _ in self._vectors]
        for device in {v.device for v in self._vectors}:
            mine = [i for i, v in enumerate(self._vectors) if v.device == device]
            flat = torch.cat([self._vectors[i].float() for i in mine]).tolist()
            for i in mine:
                n = self._vectors[i].numel()
                self._values[i], flat = flat[:n], flat[n:]

    def __getitem__(self, number: int) -> list[float]:
        return self._values[number]
