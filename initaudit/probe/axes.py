"""Which dimension of a value holds the samples of the batch, followed through transpositions and reshapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SWAPS = frozenset({"transpose", "swapaxes", "swapdims"})
_MOVES = frozenset({"movedim", "moveaxis"})
_FLIPS = frozenset({"t", "T"})


def sample_dim(name: str, arguments: Sequence[Any], before: Sequence[int], dim: int, after: Sequence[int]) -> int:
    """The sample dimension of the output of ``name``, whose input had shape ``before`` and samples in ``dim``.

    Exact for what only reorders dimensions. Otherwise the dimension that kept the size: the same one if it did, else
    the only one of that size, else the first (where samples usually are).
    """
    n = len(before)
    if name in _SWAPS and len(arguments) == 2 and all(isinstance(a, int) for a in arguments):
        first, second = (a % n for a in arguments)
        return second if dim == first else first if dim == second else dim
    if name == "permute":
        order = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)) else arguments
        if len(order) == n and all(isinstance(a, int) for a in order):
            return [a % n for a in order].index(dim)
    if name in _MOVES and len(arguments) == 2 and all(isinstance(a, int) for a in arguments):
        source, target = (a % n for a in arguments)
        order = [i for i in range(n) if i != source]
        order.insert(target, source)
        return order.index(dim)
    if name in _FLIPS:
        return n - 1 - dim
    if not after or dim >= n:
        return 0
    size = before[dim]
    if dim < len(after) and after[dim] == size:
        return dim
    same = [i for i, length in enumerate(after) if length == size]
    return same[0] if len(same) == 1 else 0
