"""Statistics of tensors, measured where they live and read once at the end.

:meth:`Statistics.measure` copies a sample of a tensor and keeps nothing else of it. Samples of one shape are reduced
together, a group at a time, to one small float64 vector each, on the device of the tensor: when the run is over, or
there is no more room for samples. :meth:`Statistics.collect` brings all vectors over in a single transfer. A tensor of
up to 32,768 elements (a gradient of up to 8,192) is its own sample; what is taken of a larger one depends on its shape
and the seed only, so two networks that compute the same numbers report the same numbers (to 1e-6, where one of them
keeps a value in another order of memory).

Of a larger tensor all elements are read for the rms, which is right to 1e-5 (to 1e-4 where all elements are equal), and
for non-finite values. Every unit (channel, feature) is asked whether it is dead or saturated. The rest comes from the
sample, scaled by what its rms is off: mean, std and ``sample_std`` have a standard error of up to 1.3% of the rms, and
of 4% where a few positions carry most of the signal, as under causal attention; mean and std of a gradient one of up to
3%, since no rule needs them sharper.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from initaudit.probe.devices import one_thread_for
from initaudit.probe.sampling import Plan, Sampler, look_at_units, take
from initaudit.probe.shards import local
from initaudit.probe.sums import BINS, FIELDS, Sums, statistics_of, sums_of
from initaudit.probe.whole import Ends, reader
from initaudit.probe.workspace import Group, Workspace
from initaudit.records import Histogram, Stats

_SMALLEST, _LARGEST = 1e-15, 1e30  # beyond these, squares and sums of finite numbers may leave float32
_WIDTH = len(FIELDS) + BINS + 2  # with what is known of the whole tensor


@dataclass(frozen=True, slots=True)
class Facts:
    """What the host knows of a measured tensor: ``count`` elements, ``sampled`` of them looked at, and its shape.

    ``exact`` says that the sample is the whole tensor, and ``search`` that non-finite values in the rest count.
    """

    count: int
    sampled: int
    samples: int
    units: int
    exact: bool
    search: bool


@dataclass(slots=True, eq=False)
class Measurement:
    """What :meth:`Statistics.stats` turns into a :class:`Stats`, after :meth:`Statistics.collect`."""

    device: torch.device
    row: int
    facts: Facts


@dataclass(frozen=True, slots=True)
class Measured:
    """Tensors of one kind: the row, facts and sums of each, and what is known of all their elements.

    ``norm`` ``(k,)`` is theirs, and ``check`` ``(k,)`` is their sum, or another number that is finite where they are;
    NaN where the sample is everything.
    """

    rows: list[int]
    facts: list[Facts]
    sums: Sums
    norm: Tensor
    check: Tensor


Merge = Callable[[list[Measured]], list[Measured]]


@dataclass(slots=True)
class _Pool:
    """Samples of one shape and what they are asked; ``group`` is the one that is being filled."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    width: int
    bounds: tuple[float, float] | None
    compare: bool
    group: Group | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    """What tensors of one shape have in common.

    ``read`` tells what is known of all elements, where the sample has not all of them.
    """

    plan: Plan
    unit_dim: int
    facts: Facts
    pool: _Pool
    read: Callable[[Tensor], Ends] | None


class Statistics:
    """Measures tensors and hands out :class:`Stats` at the end. One per probe run.

    ``merge``, where given, is called once per device by :meth:`collect`, with all that was measured there, and returns
    the same rows with what other processes saw of them; ``products`` are those of :class:`Between`, for it.
    """

    def __init__(self, seed: int, merge: Merge | None = None, *, products: bool = False) -> None:
        self.seconds = 0.0  # spent on measuring, so that a report can tell its own cost from the model's
        self._sampler = Sampler(seed)
        self._merge = merge
        self._products = products
        self._kept: dict[torch.device, list[Measured]] = {}
        self._measured: dict[torch.device, list[Measurement]] = {}  # by row
        self._kinds: dict[tuple[object, ...], _Kind | None] = {}
        self._pools: dict[tuple[object, ...], _Pool] = {}
        self._full: list[Group] = []
        self._workspaces: dict[torch.device, Workspace] = {}
        self._collected: dict[torch.device, list[list[float]]] = {}
        self._made: dict[Measurement, Stats] = {}

    def measure(
        self,
        tensor: Tensor,
        unit_dim: int = -1,
        bounds: tuple[float, float] | None = None,
        sample_dim: int = 0,
        *,
        search: bool = True,
        compare: bool = True,
    ) -> Measurement | None:
        """Measure ``tensor`` of shape ``(samples, ..., units, ...)``; ``unit_dim`` tells where the units are.

        ``sample_dim`` tells where the samples are, when not in front (sequence-first layouts). ``search`` looks for
        non-finite values in every element, not only in those that are sampled; ``compare`` takes the statistics between
        samples, which gradients do without.
        ``bounds`` are the outputs beyond which an activation counts as saturated. Returns ``None`` for a tensor
        that has no statistics: empty, not floating point, on the meta device, or not strided. Of a DTensor the part
        that this process holds is measured.
        """
        # Between two layers of a model all that is touched here has left the caches: few steps, few objects.
        started = time.perf_counter()
        held = tensor if type(tensor) is Tensor else local(tensor)
        if held is not None and held.layout is torch.jagged:
            held = held.values()  # all rows, of whichever sample
        if held is None or held.layout is not torch.strided or held.is_nested:
            return None
        tensor = held.detach()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
            unit_dim = -2
        if 0 < sample_dim < tensor.dim() - 1 and unit_dim == -1:
            tensor = tensor.movedim(sample_dim, 0)
        key = (tensor.shape, tensor.stride(), tensor.dtype, tensor.device, unit_dim, bounds, compare, search)
        kind = self._kinds.get(key)
        if kind is None or type(tensor) is not Tensor or tensor.is_neg():
            kind = self._described(tensor, key)
            if kind is None:
                return None
        measurement = self._add(tensor, kind)
        self.seconds += time.perf_counter() - started
        return measurement

    def _described(self, tensor: Tensor, key: tuple[Any, ...]) -> _Kind | None:
        """All that is the same for every tensor of one ``key``; ``None`` for those that have no statistics."""
        *_, unit_dim, bounds, compare, search = key
        plain = type(tensor) is Tensor and not tensor.is_neg()  # its strides tell where its elements lie
        if (key, plain) in self._kinds:
            return self._kinds[key, plain]
        kind = None
        if tensor.is_floating_point() and not tensor.is_meta and tensor.numel():
            kind = self._kind(tensor, unit_dim, bounds, compare, search)
        self._kinds[key if plain else (key, plain)] = kind
        return kind

    def _kind(
        self, tensor: Tensor, unit_dim: int, bounds: tuple[float, float] | None, compare: bool, search: bool
    ) -> _Kind:
        plan = self._sampler.plan(tensor, unit_dim, gradient=not compare)
        facts = Facts(
            count=tensor.numel(),
            sampled=plan.shape.numel(),
            samples=tensor.shape[0] if tensor.dim() > 1 else 1,
            units=tensor.shape[unit_dim] if tensor.dim() else 1,
            exact=plan.whole,
            search=search,
        )
        what = (plan.shape, tensor.dtype, tensor.device, plan.width, bounds, compare)
        return _Kind(
            plan=plan,
            unit_dim=unit_dim,
            facts=facts,
            pool=self._pools.setdefault((*what, plan.seen), _Pool(*what)),
            read=None if plan.whole else reader(tensor),
        )

    # -- groups ----------------------------------------------------------------------------------------------------

    def _add(self, tensor: Tensor, kind: _Kind) -> Measurement:
        pool = kind.pool
        group = pool.group or self._begin(pool)
        row = group.workspace.new_row()
        if kind.read is not None:  # before a sample is taken, for which all then is in the cache
            group.workspace.keep_ends(row, kind.read(tensor))
        take(tensor, kind.unit_dim, kind.plan, group.rooms[len(group.rows)])
        group.rows.append(row)
        if kind.plan.every is not None:
            group.units.append(look_at_units(tensor, kind.unit_dim, kind.plan, pool.bounds))
        if len(group.rows) == len(group.rooms):
            self._full.append(group)
            pool.group = None
        measurement = Measurement(pool.device, row, kind.facts)
        self._measured[pool.device].append(measurement)
        return measurement

    def _begin(self, pool: _Pool) -> Group:
        """A group of this pool to be filled."""
        workspace = self._workspaces.get(pool.device)
        if workspace is None:
            workspace = self._workspaces[pool.device] = Workspace(pool.device, _WIDTH)
            self._measured[pool.device] = []
        if not workspace.free:
            self._flush(pool.device)
        pool.group = workspace.group(pool.shape, pool.dtype, pool.width, pool.bounds, pool.compare)
        return pool.group

    def _flush(self, device: torch.device) -> None:
        """Reduce all groups that wait: in a row, for between two layers of a model all code has left the caches."""
        workspace = self._workspaces[device]
        waiting = [group for group in self._full if group.workspace is workspace]
        self._full = [group for group in self._full if group.workspace is not workspace]
        for pool in self._pools.values():
            if pool.group is not None and pool.device == device:
                waiting.append(pool.group)
                pool.group = None
        with one_thread_for(0, device):
            for group in waiting:
                self._reduce(group, device)
                workspace.free.append(group.slab)

    def _reduce(self, group: Group, device: torch.device) -> None:
        workspace = group.workspace
        sums = sums_of(group, workspace, products=self._products)
        if self._merge is None:
            workspace.keep(group.rows, statistics_of(sums))
        else:
            ends = workspace.ends(group.rows).T
            self._kept.setdefault(device, []).append(Measured(group.rows, [], sums, *ends))

    def collect(self) -> None:
        """Bring every vector to the host: one transfer per device."""
        with torch.no_grad():
            for device in self._workspaces:
                self._flush(device)
            for device, kept in self._kept.items():
                known = self._measured[device]
                kept = [replace(m, facts=[known[row].facts for row in m.rows]) for m in kept]
                for merged in self._merge(kept) if self._merge else ():
                    self._take(device, merged)
            self._collected = {device: workspace.to_host() for device, workspace in self._workspaces.items()}
        self._workspaces.clear()
        self._kept.clear()

    def _take(self, device: torch.device, merged: Measured) -> None:
        workspace = self._workspaces[device]
        ends = torch.stack([merged.norm, merged.check], 1)
        workspace.keep(merged.rows, torch.cat([statistics_of(merged.sums), ends], 1))
        for row, facts in zip(merged.rows, merged.facts, strict=True):
            self._measured[device][row].facts = facts

    # -- records ---------------------------------------------------------------------------------------------------

    def stats(self, measurement: Measurement | None) -> Stats | None:
        """The :class:`Stats` of a measurement, after :meth:`collect`."""
        if measurement is None:
            return None
        if measurement not in self._made:
            row = self._collected[measurement.device][measurement.row]
            self._made[measurement] = _made(measurement.facts, row)
        return self._made[measurement]


def _made(facts: Facts, row: list[float]) -> Stats:
    mean, std, rms, low, high, bad, zeros, kappa, *rest = row
    sample_std, cosine, dead_units, saturated, saturated_units, limit, *bins, norm, check = rest
    nonfinite = _nonfinite(facts, int(bad), check, max(-low, high))
    whole = norm / math.sqrt(facts.count)
    if not nonfinite and _SMALLEST < whole < math.inf:
        if rms > 0:
            scale = whole / rms
            mean, std, sample_std = mean * scale, std * scale, sample_std * scale
        else:  # none of the few that are not zero was sampled, so nothing is known of how they lie
            std, sample_std, cosine = whole, math.nan, math.nan
        rms = whole
    return Stats(
        count=facts.count,
        sampled=facts.sampled,
        mean=mean,
        std=std,
        rms=rms,
        min=low,
        max=high,
        nonfinite=nonfinite,
        zero_fraction=zeros,
        kappa=_known(kappa),
        samples=facts.samples,
        units=facts.units,
        sample_std=_known(sample_std),
        cosine=_known(cosine),
        dead_units=_known(dead_units),
        saturated=_known(saturated),
        saturated_units=_known(saturated_units),
        histogram=Histogram(limit, tuple(map(int, bins))),
    )


def _nonfinite(facts: Facts, bad: int, check: float, largest: float) -> int:
    """How many elements are not finite: as many as were sampled, or at least one where ``check`` says so."""
    if facts.exact:
        return bad
    overflow = largest >= _LARGEST  # merely a sum of huge but finite numbers
    if facts.search and not math.isfinite(check) and not overflow:
        bad = max(bad, 1)
    return max(1, round(bad / facts.sampled * facts.count)) if 0 < bad < facts.count else bad


def _known(value: float) -> float | None:
    return value if value == value else None  # many times as fast as math.isnan
