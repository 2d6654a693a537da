"""The part of a tensor that is looked at: whole units at the same random positions of the same random samples.

So unit-level and across-sample statistics mean what they say. The choice depends on the shape and the seed only: two
networks that compute the same numbers are looked at in the same places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from initaudit.probe.devices import sent
from initaudit.probe.workspace import Units

SAMPLE = 32_768  # elements up to which an activation is looked at as a whole
BUDGET = 8_192  # elements looked at in a larger one
GRADIENT_SAMPLE = 8_192  # of a gradient, as a whole or not: their rules look at orders of magnitude
MAX_SAMPLES = 32  # of the batch
MAX_UNITS = 1_024  # whose every statistic is taken; whether they are dead or saturated is asked of all
UNIT_ROWS = 32  # elements of each unit that are asked


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to look in tensors of one shape and order in memory.

    ``shape`` ``(samples, positions, units)`` is that of the sample, and ``whole`` says that it is the whole tensor.
    ``places`` are indices into rows of ``width`` elements of its memory, ``reach`` of them in all, or ``None`` where
    the tensor itself has to be asked, by ``index`` and ``chosen`` units. Where the sample leaves
    units out, ``every`` tells at which samples and positions all of them are looked at, and ``seen`` at how many units
    and elements of each.
    """

    shape: torch.Size
    whole: bool
    index: tuple[Tensor, ...] = ()
    chosen: Tensor | None = None
    places: Tensor | None = None
    width: int = 1
    reach: int = 0
    every: tuple[slice, slice] | None = None
    seen: tuple[int, int] = (0, 0)


class Sampler:
    """Makes the plan for each shape once."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def plan(self, tensor: Tensor, unit_dim: int, *, gradient: bool) -> Plan:
        """How to look at ``tensor``; of ``gradient`` fewer elements, and not at each of its units."""
        ordered = in_order(tensor, unit_dim)
        shape = ordered.shape
        if tensor.numel() <= (GRADIENT_SAMPLE if gradient else SAMPLE):
            return Plan(torch.Size([shape[0], math.prod(shape[1:-1]), shape[-1]]), True)
        samples, middle, units = self._choose(shape, gradient)
        index = tuple(sent(i, tensor.device) for i in (samples[:, None], *(m[None, :] for m in middle)))
        chosen = sent(units, tensor.device) if len(units) < shape[-1] else None
        taken = torch.Size([len(samples), len(middle[0]) if middle else 1, len(units)])
        places, width, reach = _places(ordered, index, chosen) if _plain(tensor) else (None, 1, 0)
        if chosen is None or gradient:
            return Plan(taken, False, index, chosen, places, width, reach)
        every, looked = self._every(shape[0], math.prod(shape[1:-1]))
        return Plan(taken, False, index, chosen, places, width, reach, every, (shape[-1], looked))

    def _choose(self, shape: torch.Size, gradient: bool) -> tuple[Tensor, list[Tensor], Tensor]:
        """Numbers of samples, of positions in each dimension between, and of units, each in order."""
        generator = self._generator(shape)
        budget = GRADIENT_SAMPLE // 2 if gradient else BUDGET
        units = _pick(shape[-1], MAX_UNITS, generator)
        samples = _pick(shape[0], min(MAX_SAMPLES, budget // len(units)) if gradient else MAX_SAMPLES, generator)
        positions = _pick(math.prod(shape[1:-1]), max(1, budget // (len(units) * len(samples))), generator)
        return samples, _unravelled(positions, shape[1:-1]), units

    def _every(self, samples: int, positions: int) -> tuple[tuple[slice, slice], int]:
        """Evenly spaced samples and positions from a random start, which need no copy, and how many pairs these are."""
        several = min(samples, MAX_SAMPLES)
        slices, looked = [], 1
        for size, wanted in ((samples, several), (positions, max(1, UNIT_ROWS // several))):
            step = max(1, size // wanted)
            start = int(torch.randint(step, (), generator=self._generator((samples, positions, size)), device="cpu"))
            slices.append(slice(start, start + step * wanted, step))
            looked *= len(range(size)[slices[-1]])
        return (slices[0], slices[1]), looked

    def _generator(self, shape: Sequence[int]) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed + 7919 * sum((i + 1) * n for i, n in enumerate(shape)))


def _plain(tensor: Tensor) -> bool:
    """Whether its strides tell where its elements lie."""
    return type(tensor) is Tensor and not tensor.is_neg()


def in_order(tensor: Tensor, unit_dim: int) -> Tensor:
    """The tensor with its samples in front and its units behind; a vector is one sample of one unit."""
    return tensor.movedim(unit_dim, -1) if tensor.dim() > 1 else tensor.reshape(1, -1, 1)


def look_at_units(tensor: Tensor, unit_dim: int, plan: Plan, bounds: tuple[float, float] | None) -> Units:
    """What all units are, of which the sample leaves some out."""
    ordered = in_order(tensor, unit_dim)
    rows = ordered.reshape(len(ordered), -1, ordered.shape[-1])[plan.every]
    alive = rows.amax((0, 1)).ne_(0).logical_or_(rows.amin((0, 1))).bool()  # many times as fast as any
    outside = None if bounds is None else (rows <= bounds[0]) | (rows >= bounds[1])
    return Units(alive, None if outside is None else outside.sum((0, 1), dtype=torch.uint8), plan.seen[1])


def take(tensor: Tensor, unit_dim: int, plan: Plan, out: Tensor) -> None:
    """Copy what ``plan`` says into ``out``, of its shape."""
    if plan.places is not None:
        rows = tensor.as_strided((plan.reach, plan.width), (plan.width, 1))
        torch.index_select(rows, 0, plan.places, out=out.view(-1, plan.width))
        return
    ordered = in_order(tensor, unit_dim)
    if not plan.whole:
        ordered = ordered[plan.index]
        ordered = ordered if plan.chosen is None else ordered[..., plan.chosen]
    out.copy_(ordered.reshape(plan.shape))


def _places(ordered: Tensor, index: tuple[Tensor, ...], chosen: Tensor | None) -> tuple[Tensor, int, int]:
    """Where the elements lie in memory, counted in rows: whole rows of units where these lie side by side."""
    units, (*strides, step) = ordered.shape[-1], ordered.stride()
    first, *rest = (i * n for i, n in zip(index, strides, strict=True))
    at: Tensor = sum(rest, start=first)
    reach = 1 + sum((size - 1) * n for size, n in zip(ordered.shape, ordered.stride(), strict=True))
    if chosen is None and step == 1 and all(n % units == 0 for n in strides):
        return at.flatten() // units, units, reach // units
    if chosen is None:
        chosen = torch.arange(units, device=ordered.device)
    return (at[..., None] + chosen * step).flatten(), 1, reach


def _pick(n: int, most: int, generator: torch.Generator) -> Tensor:
    """Up to ``most`` of ``n`` numbers, in order and without repetition (with, where it is rare and costs as much)."""
    if n <= most:
        return torch.arange(n, device="cpu")
    if n > 1 << 16:
        return torch.randint(n, (most,), generator=generator, device="cpu").sort().values
    return torch.randperm(n, generator=generator, device="cpu")[:most].sort().values


def _unravelled(positions: Tensor, shape: torch.Size) -> list[Tensor]:
    found: list[Tensor] = []
    for n in reversed(shape):
        found.insert(0, positions % n)
        positions = positions // n
    return found
