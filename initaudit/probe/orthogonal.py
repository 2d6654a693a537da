"""Whether the rows of matrices are orthogonal to each other and of one norm, as ``nn.init.orthogonal_`` makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from initaudit.probe.devices import one_thread_for

FEW = 4  # rows looked at first: independent draws do not get past them
LARGEST = 2048  # rows looked at then
_TOGETHER = 1 << 18  # entries looked at together
_ROUNDINGS = 6  # standard deviations of rounding that orthogonal rows may be off, among some thousand of them


def orthogonal_gains(matrices: Sequence[Tensor]) -> list[float | None]:
    """The common norm of the rows (or columns, whichever are fewer) of each matrix, or ``None`` where they are not so.

    ``matrices`` are two-dimensional and may lie on any devices. What is found comes to the host in one transfer per
    device for the few rows of each that are looked at first, and in another for those that got past them.
    """
    first = _gains({i: m for i, m in enumerate(matrices) if min(m.shape) > 1}, most=FEW)
    larger = {i: matrices[i] for i in first if min(matrices[i].shape) > FEW}
    again = _gains(larger, most=LARGEST)
    return [again.get(i) if i in larger else first.get(i) for i in range(len(matrices))]


def _gains(matrices: Mapping[int, Tensor], most: int) -> dict[int, float]:
    """By the key of each matrix of which up to ``most`` rows are orthogonal, their norm."""
    groups: dict[tuple[tuple[int, int], torch.dtype, torch.device], list[int]] = {}
    for i, matrix in matrices.items():
        rows, columns = sorted(matrix.shape)
        groups.setdefault(((min(most, rows), columns), matrix.dtype, matrix.device), []).append(i)
    found: dict[torch.device, list[tuple[list[int], Tensor]]] = {}
    for ((count, length), dtype, device), members in groups.items():
        step = max(1, _TOGETHER // (count * length))
        for part in (members[start : start + step] for start in range(0, len(members), step)):
            with one_thread_for(len(part) * count * count * length, device):
                few = torch.stack([_rows(matrices[i], count) for i in part]).float()
                grams = few @ few.mT
            found.setdefault(device, []).append((part, _squared_gains(grams, length, dtype)))
    return {
        i: math.sqrt(gain)
        for parts in found.values()
        for i, gain in zip(
            (i for part, _ in parts for i in part), torch.cat([gains for _, gains in parts]).tolist(), strict=True
        )
        if not math.isnan(gain)
    }


def _rows(matrix: Tensor, count: int) -> Tensor:
    """``count`` rows of ``matrix``, or columns, whichever are fewer."""
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return short[:: len(short) // count][:count]


def _squared_gains(grams: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """``(k,)`` squared norms of the rows that ``grams`` ``(k, n, n)`` are of, NaN where these are not orthogonal.

    The rows had ``length`` entries of ``dtype``. Rounding an orthogonal matrix moves the squared length of a row by
    ``eps / sqrt(length)``, one standard deviation; the product of two independent rows has one of
    ``1 / sqrt(length)``. A decomposition in float32 is right to ``eps**0.75``.
    """
    rounding = _ROUNDINGS * torch.finfo(dtype).eps / math.sqrt(length)
    tolerance = max(rounding, 4 * torch.finfo(torch.float32).eps ** 0.75)
    squared = grams.diagonal(dim1=1, dim2=2).mean(1)
    away = grams / squared[:, None, None] - torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
    return squared.masked_fill(~(away.abs().amax((1, 2)) <= tolerance), math.nan)
