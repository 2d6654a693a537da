"""Sums over every element of a tensor, however large, where it lives."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from initaudit.probe import devices

CHUNK = 4_096  # numbers summed in float32: right to 1e-5; a million together would be off by 1e-4
BLOCK = 1 << 20  # elements that a processor looks at before it goes on to the next
IN_ONE = 1 << 20  # elements up to which a dot product, of many sums side by side, is right to 1e-5


def norm_and_check(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The norm of ``tensor``, and a number that is finite where all its elements are (and their sum is).

    Both are scalars on its device. The norm is not finite where squares leave float32, so that a sum is taken as well;
    on the CPU only then, elsewhere always, for looking would wait for the device.
    """
    flat = _in_one(tensor)
    work, wide = _precisions(tensor)
    norm = torch.dot(flat, flat).sqrt_() if flat is not None else _norm(chunks(tensor), work, wide)
    if devices.answers_at_once(tensor.device) and math.isfinite(norm.item()):
        return norm, norm
    return norm, tensor.sum(dtype=work).to(norm.dtype)


def norm_and_total(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The norm and the sum of ``tensor``, scalars on its device; the sum is finite where all its elements are."""
    flat = _in_one(tensor)
    if flat is not None:
        return torch.dot(flat, flat).sqrt_(), flat.sum()
    work, wide = _precisions(tensor)
    norms, totals = [], []
    for part in widened(chunks(tensor), work):
        norms.append(torch.linalg.vector_norm(part, dim=-1, dtype=work))
        totals.append(part.sum(-1, dtype=work).sum(dtype=wide))
    return _together(norms, wide), totals[0] if len(totals) == 1 else torch.stack(totals).sum()


def _in_one(tensor: Tensor) -> Tensor | None:
    """The elements of a tensor as a vector without a copy, where one product takes them all."""
    count = tensor.numel()
    if count > IN_ONE or tensor.dtype not in (torch.float32, torch.float64) or not _dense(tensor):
        return None
    return tensor.as_strided((count,), (1,))


def _precisions(tensor: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Of sums over a chunk, and of sums over chunks: float64 where the device has it."""
    work = torch.promote_types(tensor.dtype, torch.float32)
    return work, work if tensor.device.type == "mps" else torch.float64


def _norm(parts: list[Tensor], work: torch.dtype, wide: torch.dtype) -> Tensor:
    return _together([torch.linalg.vector_norm(part, dim=-1, dtype=work) for part in widened(parts, work)], wide)


def _together(norms: list[Tensor], wide: torch.dtype) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(norms[0] if len(norms) == 1 else torch.cat(norms), dtype=wide)
    return norm


def chunks(tensor: Tensor) -> list[Tensor]:
    """All elements, in one or two matrices of short rows where they lie side by side in memory, else as they are."""
    if not _dense(tensor):
        return [tensor if tensor.dim() > 1 else tensor[None]]
    count = tensor.numel()
    rest = count % CHUNK
    if not rest:
        return [tensor.as_strided((count // CHUNK, CHUNK), (CHUNK, 1))]
    last = tensor.as_strided((1, rest), (rest, 1), tensor.storage_offset() + count - rest)
    return [tensor.as_strided((count // CHUNK, CHUNK), (CHUNK, 1)), last] if count > rest else [last]


def widened(parts: list[Tensor], work: torch.dtype) -> Iterator[Tensor]:
    """The rows of ``parts``; on a processor a block at a time, and as ``work`` where they are in half precision.

    What is done twice to a block finds it in the cache the second time. A processor widens by copying all it was given;
    in blocks that copy stays small, which takes a sixth of the time. All copies come in the same room, so that one is
    used before the next is asked for: new room for each would scatter what is made of them through the memory of a
    large model.
    """
    for part in parts:
        if part.device.type != "cpu" or part.numel() <= BLOCK:
            yield part
            continue
        blocks = torch.split(part, max(1, BLOCK * len(part) // part.numel()))
        if part.dtype.itemsize >= work.itemsize:
            yield from blocks
            continue
        room = torch.empty(blocks[0].shape, dtype=work)
        for block in blocks:
            yield room[: len(block)].copy_(block)


def _dense(tensor: Tensor) -> bool:
    """Whether the elements lie side by side in memory, in whatever order."""
    if type(tensor) is not Tensor or tensor.is_neg():
        return False
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True
