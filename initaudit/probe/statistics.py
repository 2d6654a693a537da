"""Statistics of tensors, measured where they live and read once at the end.

:meth:`Statistics.measure` copies a sample of a tensor and keeps nothing else of it. Samples of one shape are reduced
together, a group at a time, to one small float64 vector each, on the device of the tensor; :meth:`Statistics.collect`
brings all vectors over in a single transfer. A tensor of up to 32,768 elements (a gradient of up to 8,192) is its own
sample; what is taken of a larger one depends on its shape and the seed only, so two networks that compute the same
numbers report the same numbers (to 1e-6, where one of them keeps a value in another order of memory).

Of a larger tensor all elements are read for the rms and for non-finite values, and those of an activation of up to a
million for its mean and std: these are right to 1e-5. Every unit (channel, feature) is asked whether it is dead or
saturated. The rest comes from the sample, scaled by what its rms is off: ``sample_std``, and mean and std of what is
larger still, have a standard error of up to 1.3% of the rms, and of 4% where a few positions carry most of the signal,
as under causal attention; mean and std of a gradient one of up to 2%, since no rule needs them sharper.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from initaudit.probe.devices import one_thread_for
from initaudit.probe.sampling import Plan, Sampler, look_at_units, take
from initaudit.probe.shards import local
from initaudit.probe.sums import BINS, FIELDS, Sums, statistics_of, sums_of
from initaudit.probe.whole import norm_and_check, norm_and_total
from initaudit.probe.workspace import Group, Workspace
from initaudit.records import Histogram, Stats

SUMMED = 1 << 20  # elements up to which those of an activation are summed too
_SMALLEST, _LARGEST = 1e-15, 1e30  # beyond these, squares and sums of finite numbers may leave float32
_CENTRED = 1e-3  # variance over squared mean below which their difference has lost its digits
_WIDTH = len(FIELDS) + BINS + 2  # with what is known of the whole tensor


class Measurement(NamedTuple):
    """What :meth:`Statistics.stats` turns into a :class:`Stats`, after :meth:`Statistics.collect`."""

    device: torch.device
    row: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What the host knows of a measured tensor: ``count`` elements, ``sampled`` of them looked at, and its shape.

    ``exact`` says that the sample is the whole tensor, ``search`` that non-finite values in the rest count, and
    ``summed`` that what is known of the rest has its sum.
    """

    count: int
    sampled: int
    samples: int
    units: int
    exact: bool
    search: bool
    summed: bool = False


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
_Key = tuple[torch.Size, torch.dtype, torch.device, tuple[float, float] | None, bool, tuple[int, int]]


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
        self._facts: dict[Measurement, Facts] = {}
        self._groups: dict[_Key, Group] = {}
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
        held = local(tensor)
        if held is None:
            return None
        tensor = held
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
            unit_dim = -2
        if not _measurable(tensor):
            return None
        started = time.perf_counter()
        if 0 < sample_dim < tensor.dim() - 1 and unit_dim == -1:
            tensor = tensor.movedim(sample_dim, 0)
        with torch.no_grad(), one_thread_for(tensor.numel(), tensor.device):
            tensor = tensor.detach()
            plan = self._sampler.plan(tensor, unit_dim, gradient=not compare)
            summed = compare and tensor.numel() <= SUMMED
            measurement = self._add(tensor, unit_dim, plan, bounds, compare, summed)
        self._facts[measurement] = Facts(
            count=tensor.numel(),
            sampled=plan.shape.numel(),
            samples=tensor.shape[0] if tensor.dim() > 1 else 1,
            units=tensor.shape[unit_dim] if tensor.dim() else 1,
            exact=plan.whole,
            search=search,
            summed=summed,
        )
        self.seconds += time.perf_counter() - started
        return measurement

    # -- groups ----------------------------------------------------------------------------------------------------

    def _add(
        self,
        tensor: Tensor,
        unit_dim: int,
        plan: Plan,
        bounds: tuple[float, float] | None,
        compare: bool,
        summed: bool,
    ) -> Measurement:
        key = (plan.shape, tensor.dtype, tensor.device, bounds, compare, plan.seen)
        group, workspace = self._groups.get(key), self._workspaces.get(tensor.device)
        if workspace is None:
            workspace = self._workspaces[tensor.device] = Workspace(tensor.device, _WIDTH)
        if group is None:
            if not workspace.free:
                waiting = {k: len(g.rows) * k[0].numel() for k, g in self._groups.items() if k[2] == tensor.device}
                self._flush(max(waiting, key=waiting.__getitem__))
            group = self._groups[key] = workspace.group(plan.shape, tensor.dtype)
        row = workspace.new_row()
        take(tensor, unit_dim, plan, out=group.samples[len(group.rows)])
        group.rows.append(row)
        units = look_at_units(tensor, unit_dim, plan, bounds)
        if units is not None:
            group.units.append(units)
        if not plan.whole:
            workspace.keep_ends(row, *(norm_and_total(tensor) if summed else norm_and_check(tensor)))
        if len(group.rows) == len(group.samples):
            self._flush(key)
        return Measurement(tensor.device, row)

    def _flush(self, *keys: _Key) -> None:
        for key in keys:
            group, workspace = self._groups.pop(key), self._workspaces[key[2]]
            with one_thread_for(group.samples.numel(), key[2]):
                sums = sums_of(group, workspace, bounds=key[3], compare=key[4], products=self._products)
            if self._merge is None:
                workspace.keep(group.rows, statistics_of(sums))
            else:
                self._kept.setdefault(key[2], []).append(
                    Measured(group.rows, [], sums, *workspace.ends(group.rows, 2).T)
                )
            workspace.free.append(group.slab)

    def collect(self) -> None:
        """Bring every vector to the host: one transfer per device."""
        with torch.no_grad():
            self._flush(*self._groups)
            for device, kept in self._kept.items():
                kept = [replace(m, facts=[self._facts[Measurement(device, row)] for row in m.rows]) for m in kept]
                for merged in self._merge(kept) if self._merge else ():
                    self._take(device, merged)
            self._collected = {device: workspace.to_host() for device, workspace in self._workspaces.items()}
        self._workspaces.clear()
        self._kept.clear()

    def _take(self, device: torch.device, merged: Measured) -> None:
        workspace = self._workspaces[device]
        ends = torch.stack([merged.norm, merged.check], 1)
        workspace.keep(merged.rows, torch.cat([statistics_of(merged.sums), ends], 1))
        self._facts.update(zip((Measurement(device, row) for row in merged.rows), merged.facts, strict=True))

    # -- records ---------------------------------------------------------------------------------------------------

    def stats(self, measurement: Measurement | None) -> Stats | None:
        """The :class:`Stats` of a measurement, after :meth:`collect`."""
        if measurement is None:
            return None
        if measurement not in self._made:
            row = self._collected[measurement.device][measurement.row]
            self._made[measurement] = _made(self._facts[measurement], row)
        return self._made[measurement]


def _made(facts: Facts, row: list[float]) -> Stats:
    value = dict(zip(FIELDS, row, strict=False))
    *bins, norm, check = row[len(FIELDS) :]
    bad = _nonfinite(facts, int(value["bad"]), check, max(-value["min"], value["max"]))
    mean, std, rms = value["mean"], value["std"], value["rms"]
    sample_std, cosine = _known(value["sample_std"]), _known(value["cosine"])
    whole = norm / math.sqrt(facts.count)
    if not bad and _SMALLEST < whole < math.inf:
        if rms > 0:
            scale = whole / rms
            mean, std, sample_std = mean * scale, std * scale, None if sample_std is None else sample_std * scale
        else:  # none of the few that are not zero was sampled, so nothing is known of how they lie
            std, sample_std, cosine = whole, None, None
        rms = whole
        if facts.summed and math.isfinite(check):
            mean = check / facts.count
            variance = rms * rms - mean * mean
            if variance > _CENTRED * mean * mean:
                std = math.sqrt(variance)
    return Stats(
        count=facts.count,
        sampled=facts.sampled,
        mean=mean,
        std=std,
        rms=rms,
        min=value["min"],
        max=value["max"],
        nonfinite=bad,
        zero_fraction=value["zeros"],
        kappa=_known(value["kappa"]),
        samples=facts.samples,
        units=facts.units,
        sample_std=sample_std,
        cosine=cosine,
        dead_units=_known(value["dead_units"]),
        saturated=_known(value["saturated"]),
        saturated_units=_known(value["saturated_units"]),
        histogram=Histogram(value["limit"], tuple(map(int, bins))),
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
    return None if math.isnan(value) else value


def _measurable(tensor: Tensor) -> bool:
    return (
        tensor.is_floating_point()
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and not tensor.is_nested
        and tensor.numel() > 0
    )
