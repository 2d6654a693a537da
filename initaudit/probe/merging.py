"""What several processes saw of one tensor, put together as if one process had seen it all.

Every process takes part with a buffer that holds zeros where the others write, so that one ``all_reduce`` brings all
to all: numbers that need more than a sum (extremes, histograms) have a place for each process, vectors over units and
columns are added where they are. All come to the same result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from initaudit.errors import AuditError
from initaudit.probe.parcels import ADDED, AT, NAMES, Vectors, each_row, fitted, measured_from, numbers_of, vectors_of
from initaudit.probe.ranks import Ranks, agree_on, gather
from initaudit.probe.statistics import Measured, Statistics
from initaudit.probe.sums import BINS

_TELLING = [AT[n] for n in ("count", "total", "squares", "fourth", "zeros", "low", "high")]


class Share(Enum):
    """What one replica's tensor is to that of the whole batch."""

    ROWS = "rows"  # some of its samples
    COPY = "copy"  # all of it: no sample reaches it
    MEAN = "mean"  # one number for the batch, such as a loss: the mean is that of all
    TERM = "term"  # a gradient that is summed over the batch


@dataclass(frozen=True, slots=True)
class Shares:
    """By number of measurement: what is not a share of the samples, and what is cut along its units in each replica."""

    kinds: dict[int, Share]
    by_units: frozenset[int]


class Merger:
    """Merges what :class:`Statistics` kept; ``shares`` is filled in when the run is over and all nodes are known."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.shares: dict[torch.device, Shares] = {}

    def statistics(self, seed: int) -> Statistics:
        """Statistics that are merged when they are collected."""
        # Of samples that lie in parts on several processes, where all pairs of samples are in one replica.
        products = self._ranks.members > 1 and len(self._ranks) == 1
        return Statistics(seed, self.merge, products=products)

    def merge(self, measured: list[Measured]) -> list[Measured]:
        """The same rows with what the other processes saw of them; every process must call at the same time."""
        parts = self._aligned(sorted(measured, key=lambda part: part.rows[0]))
        device = parts[0].norm.device
        numbers = torch.cat([numbers_of(part) for part in parts])
        vectors = [vectors_of(part) for part in parts]
        flat = torch.cat([v.flatten() for four in vectors for v in four])
        ranks, size = self._ranks, self._ranks.size * numbers.numel()
        buffer = torch.zeros(size + ranks.members * len(flat), dtype=numbers.dtype, device=device)
        places = buffer[:size].view(ranks.size, *numbers.shape)
        shared = buffer[size:].view(ranks.members, -1)
        places[ranks.rank], shared[ranks.member] = numbers, flat
        ranks.add_up(buffer)
        places = places[torch.tensor(ranks.replicas, device=device)]  # (replicas, members, rows, numbers)
        shares = self.shares.get(device, Shares({}, frozenset()))
        merged: list[Measured] = []
        row = start = 0
        for part, four in zip(parts, vectors, strict=True):
            found = []
            for v in four:
                found.append(shared[:, start : start + v.numel()].view(ranks.members, *v.shape))
                start += v.numel()
            merged += _merged(part, places[:, :, row : row + len(part.rows)], Vectors(*found), shares)
            row += len(part.rows)
        return merged

    def _aligned(self, parts: list[Measured]) -> list[Measured]:
        """Parts that have the same rows and vectors of the same length on every process."""
        layout = [(part.rows, [v.shape[-1] for v in vectors_of(part)]) for part in parts]
        if agree_on(layout):
            return parts
        single = sorted((one for part in parts for one in each_row(part)), key=lambda part: part.rows[0])
        lengths = gather([[v.shape[-1] for v in vectors_of(part)] for part in single])
        if len({len(found) for found in lengths}) > 1:
            raise AuditError(
                "forward",
                f"the ranks measured {', '.join(str(len(found)) for found in lengths)} tensors; expected the same on "
                "each: give every rank a batch of the same shape, of which no part of the model gets nothing",
            )
        return [fitted(part, list(every)) for part, every in zip(single, zip(*lengths, strict=True), strict=True)]


def _merged(part: Measured, places: Tensor, vectors: Vectors, shares: Shares) -> Iterator[Measured]:
    """``places`` ``(replicas, members, k, numbers)`` and ``vectors`` ``(members, k, ...)``, summed over replicas."""
    told = places[..., _TELLING]
    same = (told == told[:, :1]).all(-1).all(0).all(0).tolist()  # in all members of a replica: copies, not parts
    treatments: dict[tuple[Share, bool, bool], list[int]] = {}
    for i, row in enumerate(part.rows):
        kind = shares.kinds.get(row, Share.ROWS)
        by_units = row in shares.by_units and places.shape[1] > 1
        treatments.setdefault((kind, same[i] and not by_units, by_units), []).append(i)
    for (kind, copies, by_units), index in treatments.items():
        some, theirs = _of_members(places[:, :, index], vectors.rows(index), copies, by_units)
        numbers, bins = _of_replicas(some, kind)
        if kind in (Share.COPY, Share.MEAN):
            theirs = Vectors(*(v / len(places) for v in theirs))
        factor = places.shape[1] if by_units else 1
        yield measured_from(part, index, numbers, bins, theirs, factor)


def _of_members(places: Tensor, vectors: Vectors, copies: bool, by_units: bool) -> tuple[Tensor, Vectors]:
    """What each replica has, ``(replicas, k, numbers)``, from those that compute it together."""
    if copies:
        return places[:, 0], Vectors(*(v[0] for v in vectors))
    some = places[:, 0].clone()
    n = len(ADDED)
    some[..., :n] = places[..., :n].sum(1)
    some[..., AT["low"]] = places[..., AT["low"]].amin(1)
    some[..., AT["high"]] = places[..., AT["high"]].amax(1)
    some[..., AT["directions"]] = places[..., AT["directions"]].amax(1)
    some[..., AT["limit"]], some[..., len(NAMES) :] = _folded(places.transpose(0, 1))
    if not by_units:
        some[..., AT["looked"]] = places[..., AT["looked"]].sum(1)
    alive, saturated = (torch.cat(list(v), -1) if by_units else v.sum(0) for v in (vectors.alive, vectors.saturated))
    columns = torch.cat(list(vectors.columns), -1)
    return some, Vectors(alive, saturated, columns, _resultant(places, vectors), vectors.products[0])


def _resultant(places: Tensor, vectors: Vectors) -> Tensor:
    """A vector as long as the sum of all samples, each scaled to norm one.

    Each member has scaled its part of a sample to norm one. What a part is of the whole sample tells the products, or,
    on average over the samples, the energy of the members.
    """
    if vectors.products.shape[-1]:
        products = vectors.products.sum(0)
        n = math.isqrt(products.shape[-1])
        norms = products[:, :: n + 1].clamp_min(0).sqrt()
        inverse = torch.where(norms > 0, 1 / norms, 0.0)
        squared = torch.einsum("ki,kij,kj->k", inverse, products.view(-1, n, n), inverse)
        return squared.clamp_min(0).sqrt()[:, None]
    energy = places[..., AT["squares"]].sum(0)
    shares = (energy / energy.sum(0)).sqrt().nan_to_num()[..., None]
    return torch.cat(list(vectors.resultant * shares), -1)


def _of_replicas(places: Tensor, kind: Share) -> tuple[Tensor, Tensor]:
    """Numbers and bins of the whole, ``(k, numbers)`` and ``(k, bins)``, from ``(replicas, k, numbers)``."""
    first, count = places[0], len(places)
    numbers, bins = first[:, : len(NAMES)].clone(), first[:, len(NAMES) :]
    if kind is Share.COPY:
        return numbers, bins
    added = places[..., : AT["low"]].sum(0)
    numbers[:, AT["low"]] = places[..., AT["low"]].amin(0)
    numbers[:, AT["high"]] = places[..., AT["high"]].amax(0)
    numbers[:, AT["limit"]], bins = _folded(places)
    if kind is Share.ROWS:
        numbers[:, : AT["low"]] = added
        return numbers, bins
    for name in ("total", "squares", "norm", "check"):
        numbers[:, AT[name]] = added[:, AT[name]]
    if kind is Share.TERM:
        # Parts of a batch pull in directions of their own: squares add up, and the largest grows with their root.
        numbers[:, AT["fourth"]] = count * added[:, AT["fourth"]]
        numbers[:, [AT["low"], AT["high"]]] *= count**0.5
        numbers[:, AT["limit"]] *= 2.0 ** (count - 1).bit_length()
        single = numbers[:, AT["elements"]] == 1
    else:
        numbers[:, AT["total"]] /= count
        single = torch.ones_like(numbers[:, 0], dtype=torch.bool)
    total = numbers[single, AT["total"]]
    for name, power in (("squares", 2), ("norm", 2), ("fourth", 4), ("low", 1), ("high", 1)):
        numbers[single, AT[name]] = total**power
    return numbers, bins


def _folded(places: Tensor) -> tuple[Tensor, Tensor]:
    """Histograms ``(parts, ..., numbers)`` in the widest range among the parts: its limit, and the counts."""
    limits, bins = places[..., AT["limit"]], places[..., len(NAMES) :]
    limit = limits.amax(0)
    narrower = (limit / limits)[..., None]
    centres = torch.arange(BINS, device=places.device, dtype=places.dtype) + 0.5 - BINS / 2
    index = (torch.floor(centres / narrower) + BINS / 2).long()
    return limit, torch.zeros_like(bins).scatter_add_(-1, index, bins).sum(0)
