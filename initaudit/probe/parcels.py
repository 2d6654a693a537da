"""What was measured as plain tensors of numbers, to be sent to other processes, and back again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from initaudit.probe.statistics import Measured
from initaudit.probe.sums import Between, Sums

# Names of numbers: sums over elements; counts of samples, of which there are more with more of the batch but not with
# more units; and what the least or the largest is taken of.
ADDED = ("count", "bad", "total", "squares", "fourth", "zeros", "spread", "norm", "check", "elements", "sampled")
_BY_SAMPLE = ("samples", "looked", "between", "directions")
_EXTREMES = ("low", "high", "limit")
NAMES = (*ADDED, *_BY_SAMPLE, *_EXTREMES)
AT = {name: i for i, name in enumerate(NAMES)}
_NAN = float("nan")


class Vectors(NamedTuple):
    """Of k tensors: counts of units ``(..., k, units)``, sums over samples ``(..., k, columns)``, products of pairs."""

    alive: Tensor
    saturated: Tensor
    columns: Tensor
    resultant: Tensor
    products: Tensor

    def rows(self, index: list[int]) -> Vectors:
        return Vectors(*(v[..., index, :] for v in self))


def numbers_of(part: Measured) -> Tensor:
    """What needs a place for each process, ``(k, names + bins)``."""
    sums, between = part.sums, part.sums.between
    blank = torch.zeros_like(sums.total)
    exact = torch.tensor([facts.exact for facts in part.facts], device=blank.device)
    known = torch.where(exact, sums.squares, part.norm.square())
    values = {
        "count": sums.count, "bad": sums.bad, "total": sums.total, "squares": sums.squares, "fourth": sums.fourth,
        "zeros": sums.zeros, "spread": blank, "norm": known, "check": torch.where(exact, sums.total, part.check),
        "looked": torch.full_like(blank, sums.looked), "between": blank, "directions": blank,
        "low": sums.low, "high": sums.high, "limit": sums.limit,
    }  # fmt: skip
    for name, counts in (
        ("elements", [facts.count for facts in part.facts]),
        ("sampled", [facts.sampled for facts in part.facts]),
        ("samples", [facts.samples for facts in part.facts]),
    ):
        values[name] = torch.tensor(counts, dtype=blank.dtype, device=blank.device)
    if between is not None:
        # The sum of squares about zero, since that adds up.
        values["spread"] = between.within + between.columns.square().nansum(1) / between.samples
        values["between"] = torch.full_like(blank, between.samples)
        values["directions"] = between.directions
    return torch.cat([torch.stack([values[name] for name in NAMES], 1), sums.bins.to(blank.dtype)], 1)


def vectors_of(part: Measured) -> Vectors:
    """What adds up where it is."""
    sums, between = part.sums, part.sums.between
    none = sums.total.new_zeros(len(part.rows), 0)
    return Vectors(
        sums.alive.to(sums.total.dtype),
        none if sums.saturated is None else sums.saturated.to(sums.total.dtype),
        none if between is None else between.columns,
        none if between is None else between.resultant,
        none if between is None or between.products is None else between.products,
    )


def each_row(part: Measured) -> Iterator[Measured]:
    """A part of several rows as parts of one row."""

    def at(record: Sums | Between, i: int) -> dict[str, Tensor]:
        values = {field.name: getattr(record, field.name) for field in fields(record)}
        return {name: value[i : i + 1] for name, value in values.items() if isinstance(value, Tensor)}

    for i, row in enumerate(part.rows):
        sums, between = part.sums, part.sums.between
        between = None if between is None else replace(between, **at(between, i))  # type: ignore[arg-type]
        one = replace(sums, between=between, **at(sums, i))  # type: ignore[arg-type]
        yield Measured([row], [part.facts[i]], one, part.norm[i : i + 1], part.check[i : i + 1])


def fitted(part: Measured, lengths: list[list[int]]) -> Measured:
    """``part`` with what fits the other processes, of whose :func:`vectors_of` the ``lengths`` are.

    Where a batch is smaller, or units are cut unevenly, columns do not stand for the same positions: they are left out.
    """
    sums, units = part.sums, min(length[0] for length in lengths)
    return replace(
        part,
        sums=replace(
            sums,
            alive=sums.alive[:, :units],
            saturated=None if sums.saturated is None else sums.saturated[:, :units],
            between=sums.between if len({tuple(length[2:]) for length in lengths}) == 1 else None,
        ),
    )


def measured_from(
    part: Measured, index: Sequence[int], numbers: Tensor, bins: Tensor, vectors: Vectors, factor: int
) -> Measured:
    """The rows ``index`` of ``part`` with merged numbers and vectors, and ``factor`` times as many units."""
    value = {name: numbers[:, i] for name, i in AT.items()}
    between = None
    samples = int(value["between"][0])
    if part.sums.between is not None and samples:
        common = vectors.columns.square().nansum(1) / samples
        between = Between(
            samples=samples,
            columns=vectors.columns,
            within=(value["spread"] - common).clamp_min(0),
            resultant=vectors.resultant,
            directions=value["directions"],
        )
    sums = Sums(
        **{
            name: value[name]
            for name in ("count", "bad", "total", "squares", "fourth", "low", "high", "zeros", "limit")
        },
        looked=int(value["looked"][0]),
        alive=vectors.alive,
        saturated=None if part.sums.saturated is None else vectors.saturated,
        bins=bins,
        between=between,
    )
    host = numbers[:, [AT["elements"], AT["sampled"], AT["samples"]]].tolist()
    facts = [
        replace(
            old,
            count=int(count),
            sampled=int(sampled),
            samples=int(many),
            units=old.units * factor,
            exact=sampled == count,
        )
        for old, (count, sampled, many) in zip((part.facts[i] for i in index), host, strict=True)
    ]
    exact = torch.tensor([f.exact for f in facts], device=numbers.device)
    norm = torch.where(exact, _NAN, value["norm"].sqrt())
    return Measured([part.rows[i] for i in index], facts, sums, norm, torch.where(exact, _NAN, value["check"]))
