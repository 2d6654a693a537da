"""Sums over every element of a tensor, however large, where it lives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from initaudit.probe import devices

CHUNK = 4_096  # numbers summed in float32: right to 1e-5; a million together would be off by 1e-4
PIECE = 1 << 18  # numbers that a dot product takes in float32: right to 1e-6, and to 1e-4 where all are equal
BLOCK = 1 << 20  # elements in half precision that a processor widens at a time

Ends = tuple[float, float] | tuple[Tensor, Tensor]  # numbers of the host, or scalars on a device that is not waited for


def reader(like: Tensor, *, total: bool) -> Callable[[Tensor], Ends]:
    """What reads the ends of tensors of the shape, strides, dtype and device of ``like``: see :func:`norm_and_check`,
    and where their ``total`` is asked for :func:`norm_and_total`."""
    count = _in_line(like)
    if count is not None:
        return partial(_of_line, count, total)
    return norm_and_total if total else norm_and_check


def norm_and_check(tensor: Tensor) -> Ends:
    """The norm of ``tensor``, and a number that is finite where all its elements are (and their sum is).

    The norm is not finite where squares leave float32, so that a sum is taken as well; on the CPU only then, elsewhere
    always, for looking would wait for the device.
    """
    count = _in_line(tensor)
    if count is not None:
        return _of_line(count, False, tensor)
    work, wide = _precisions(tensor)
    norm = _norm(chunks(tensor), work, wide)
    if devices.answers_at_once(tensor.device):
        read = norm.item()
        return read, read if math.isfinite(read) else tensor.sum(dtype=work).item()
    return norm, tensor.sum(dtype=work).to(norm.dtype)


def norm_and_total(tensor: Tensor) -> Ends:
    """The norm and the sum of ``tensor``; the sum is finite where all its elements are."""
    count = _in_line(tensor)
    if count is not None:
        return _of_line(count, True, tensor)
    work, wide = _precisions(tensor)
    norms, totals = [], []
    for part in widened(chunks(tensor), work):
        norms.append(torch.linalg.vector_norm(part, dim=-1, dtype=work))
        totals.append(part.sum(-1, dtype=work).sum(dtype=wide))
    norm, total = _together(norms, wide), totals[0] if len(totals) == 1 else torch.stack(totals).sum()
    return (norm.item(), total.item()) if devices.answers_at_once(tensor.device) else (norm, total)


def stacked(ends: Sequence[Ends]) -> Tensor:
    """Those of k tensors on one device, ``(k, 2)`` there."""
    first = ends[0][0]
    if isinstance(first, Tensor):
        return torch.stack([end for pair in ends for end in pair]).view(-1, 2)  # type: ignore[misc]
    return torch.tensor(ends, dtype=torch.float64, device="cpu")


def _in_line(tensor: Tensor) -> int | None:
    """How many elements a tensor of moderate size on the host has, where they lie side by side in memory."""
    count = tensor.numel()
    if count > 2 * PIECE or tensor.dtype not in (torch.float32, torch.float64):
        return None
    return count if devices.answers_at_once(tensor.device) and _dense(tensor) else None


def _of_line(count: int, total: bool, tensor: Tensor) -> tuple[float, float]:
    """The shortest way through torch: between two layers of a model, its code must first come back to the caches."""
    flat = tensor.as_strided((count,), (1,))
    if count <= PIECE:
        norm = math.sqrt(torch.dot(flat, flat).item())
    else:
        norm = math.sqrt(sum(torch.dot(piece, piece).item() for piece in torch.split(flat, PIECE)))
    return norm, flat.sum().item() if total or not math.isfinite(norm) else norm


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
    """The rows of ``parts``; on a processor those in half precision a block at a time, as ``work``.

    A processor widens by copying all it was given; in blocks that copy stays small, which takes a sixth of the time.
    All copies come in the same room, so that one is used before the next is asked for: new room for each would scatter
    what is made of them through the memory of a large model.
    """
    for part in parts:
        if part.device.type != "cpu" or part.numel() <= BLOCK or part.dtype.itemsize >= work.itemsize:
            yield part
            continue
        blocks = torch.split(part, max(1, BLOCK * len(part) // part.numel()))
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
