"""What a parameter tensor holds: exact moments, and which initializer it looks drawn from.

All parameters of a model are looked at together: what can be told is reduced on their devices and comes to the host
in one transfer; only what is rare (values that are not finite, a mean far above the std) is looked at once more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from initaudit.probe.devices import one_thread_for, sent
from initaudit.probe.fingerprint import Moments, looks_like
from initaudit.probe.orthogonal import orthogonal_gains
from initaudit.probe.whole import Ends, norm_and_total, stacked
from initaudit.records import Parameter

BLOCK = 1 << 20  # entries converted to float64 at a time
CACHED = 1 << 21  # entries read several times before the next are
SAMPLE = 1 << 14  # entries looked at for kurtosis and zeros in a large tensor
LINE = 16  # of which that many lie side by side
LARGE = 1 << 17  # entries from which a sample stands for all
SMALL = 1 << 14  # entries up to which tensors of one size are measured together, in float64
TOGETHER = 1 << 17  # entries of such tensors, or of samples, at a time

NAN = float("nan")
_SHRUNK = 2.0**600  # exact to divide by, and the squares of what float64 holds are finite then
_UNKNOWN = Moments(0, NAN, NAN, NAN, NAN, NAN)


@dataclass(frozen=True, slots=True)
class Seen:
    """What :func:`look` saw of one tensor; ``blank`` says why there was nothing to see.

    ``orthogonal`` is the common norm of rows that are orthogonal to each other; ``maybe_blocks`` is false where the
    first two show that not even those of a block of them are.
    """

    moments: Moments = _UNKNOWN
    identical_rows: bool = False
    orthogonal: float | None = None
    maybe_blocks: bool = True
    blank: str | None = None


@torch.no_grad()
def parameter_record(
    fqn: str,
    tensor: Tensor,
    *,
    fans: tuple[float, float] | None,
    torch_fans: tuple[int, int] | None,
    repeats: int = 1,
    aliases: tuple[str, ...] = (),
    requires_grad: bool = True,
    seen: Seen | None = None,
    unwritten: bool = False,
    gradient: tuple[float, int] | None = None,
) -> Parameter:
    """Describe ``tensor``, of any shape, dtype and device, as it is; it is read and nothing else.

    ``fans`` are the effective ``(fan_in, fan_out)`` of the layer and ``torch_fans`` those that ``torch.nn.init``
    reads off the shape, where they exist; ``repeats`` is the number of row blocks that share one fan. Mean, rms,
    range and the count of non-finite entries are exact; the kurtosis and the fraction of zeros of a tensor above
    131,072 entries come from 16,384 of them, drawn with a generator of its own. ``std_uncertainty`` is
    ``sqrt((kurtosis - 1) / (4 N))``, the relative standard error of the std of N independent values. What holds no
    real numbers to judge (meta, empty, lazy, complex, integer, sparse) has NaN statistics and says so in ``init``.
    ``seen`` is what :func:`look` saw of the tensor, where it looked at many together; ``gradient`` the rms of its
    gradient and how many entries of that are not finite.
    """
    seen = seen or look([tensor])[0]
    moments = seen.moments
    init = (
        "never written"
        if unwritten
        else seen.blank
        or looks_like(
            tensor,
            moments,
            fans=fans,
            torch_fans=torch_fans,
            repeats=repeats,
            identical_rows=seen.identical_rows,
            orthogonal=seen.orthogonal,
            maybe_blocks=seen.maybe_blocks,
        )
    )
    return Parameter(
        fqn=fqn,
        shape=() if is_lazy(tensor) else tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        mean=moments.mean,
        std=moments.std,
        rms=moments.rms,
        min=moments.min,
        max=moments.max,
        init=init,
        aliases=aliases,
        kurtosis=moments.kurtosis,
        std_uncertainty=moments.std_uncertainty,
        nonfinite=moments.nonfinite,
        zero_fraction=moments.zero_fraction,
        constant=moments.constant,
        identical_rows=seen.identical_rows,
        requires_grad=requires_grad,
        unwritten=unwritten,
        grad_rms=None if gradient is None else gradient[0],
        grad_nonfinite=0 if gradient is None else gradient[1],
    )


@torch.no_grad()
def look(tensors: Sequence[Tensor], *, stacked: Collection[int] = ()) -> list[Seen]:
    """Look at tensors of any shape, dtype and device; see the module's docstring.

    ``stacked`` are the numbers of those that may be blocks of rows on top of each other: gates, or a packed qkv.
    """
    blank = [_blank(t) for t in tensors]
    whole = [i for i, reason in enumerate(blank) if reason is None]
    moments = dict(zip(whole, measure([tensors[i] for i in whole]), strict=True))
    matrices = [i for i in whole if tensors[i].dim() > 1 and len(tensors[i]) > 1]
    drawn = [i for i in matrices if not moments[i].constant and not moments[i].nonfinite]
    alike = _true_of([(i, (tensors[i][0] == tensors[i][1]).all()) for i in drawn])
    identical = _true_of([(i, (tensors[i] == tensors[i][:1]).all()) for i in alike])
    identical |= {i for i in matrices if moments[i].constant}
    gains = dict(zip(drawn, orthogonal_gains([tensors[i].detach().flatten(1) for i in drawn]), strict=True))
    starting = [i for i in drawn if i in stacked]
    starts = dict(zip(starting, orthogonal_gains([tensors[i].detach().flatten(1)[:2] for i in starting]), strict=True))
    return [
        Seen(moments.get(i, _UNKNOWN), i in identical, gains.get(i), starts.get(i, 1.0) is not None, reason)
        for i, reason in enumerate(blank)
    ]


def _blank(tensor: Tensor) -> str | None:
    """Why there is nothing to measure, or ``None``."""
    if is_lazy(tensor):
        return "uninitialized (lazy)"
    if tensor.device.type == "meta":
        return "meta"
    if tensor.numel() == 0:
        return "empty"
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        return f"not judged ({str(tensor.dtype).removeprefix('torch.')})"
    return None


def _true_of(flags: Sequence[tuple[int, Tensor]]) -> set[int]:
    """The numbers whose flag is true: one transfer per device."""
    by_device: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for number, flag in flags:
        by_device.setdefault(flag.device, []).append((number, flag))
    found = ((group, torch.stack([flag for _, flag in group]).tolist()) for group in by_device.values())
    return {number for group, values in found for (number, _), true in zip(group, values, strict=True) if true}


@torch.no_grad()
def measure(tensors: Sequence[Tensor]) -> list[Moments]:
    """Moments of non-empty floating-point tensors of any shape; over the finite entries, where some are not."""
    groups: dict[tuple[int, torch.dtype, torch.device], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault((tensor.numel(), tensor.dtype, tensor.device), []).append(i)
    reduced: dict[torch.device, list[tuple[list[int], Tensor]]] = {}
    rooms: dict[tuple[torch.dtype, torch.device], Tensor] = {}  # used again and again: fresh memory takes longer
    for (count, _, device), members in groups.items():
        seen = _seen_of(count)
        step = max(1, TOGETHER // seen)
        places = None if seen == count else _places(count, device)
        for part in (members[start : start + step] for start in range(0, len(members), step)):
            with one_thread_for(count, device):
                vectors = _vectors([_flat(tensors[i]) for i in part], places, rooms)
            reduced.setdefault(device, []).append((part, vectors))
    found: dict[int, list[float]] = {}
    for parts in reduced.values():
        numbers = [i for part, _ in parts for i in part]
        found.update(zip(numbers, torch.cat([vectors for _, vectors in parts]).tolist(), strict=True))
    return [_moments(tensor, *found[i]) for i, tensor in enumerate(tensors)]


def _seen_of(count: int) -> int:
    """How many of ``count`` entries are looked at for what lies beyond mean, std and range."""
    return count if count <= LARGE else SAMPLE


def _flat(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1).contiguous()  # of an expanded tensor even the reshaped one repeats memory
    return flat.float() if flat.element_size() == 1 else flat  # float8 has no arithmetic of its own


def _vectors(
    rows: Sequence[Tensor], places: Tensor | None, rooms: dict[tuple[torch.dtype, torch.device], Tensor]
) -> Tensor:
    """The arguments of :func:`_moments` for each of ``rows`` of one length, looked at in ``places`` or as a whole."""
    n, device = len(rows[0]), rows[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    work = wide if n <= SMALL else torch.promote_types(rows[0].dtype, torch.float32)
    shape = torch.Size((len(rows), n if places is None else places.numel() * LINE))
    if (work, device) not in rooms:
        rooms[work, device] = torch.empty(2, TOGETHER, dtype=work, device=device)
    values, alive = (room[: shape.numel()].view(shape) for room in rooms[work, device])
    if n <= SMALL:
        torch.stack([row.to(work) for row in rows], out=values)
        totals, squares = values.sum(1), values.square().sum(1)
        low, high = values.amin(1), values.amax(1)
    else:
        sums: list[Ends] = []
        ends: list[Tensor] = []
        for row, room in zip(rows, values, strict=True):
            for part in _blocks(row, work):
                sums.append(norm_and_total(part))
                ends += torch.aminmax(part)
            if places is None:
                room.copy_(row)
                continue
            lines = row.as_strided((n // LINE, LINE), (LINE, 1))
            if row.dtype is work:
                torch.index_select(lines, 0, places, out=room.view(-1, LINE))
            else:
                room.copy_(lines.index_select(0, places).view(-1))
        norms, totals = stacked(sums).to(wide).view(len(rows), -1, 2).unbind(2)
        squares, totals = norms.square().sum(1), totals.sum(1)
        lows, highs = torch.stack(ends).to(work).view(len(rows), -1, 2).unbind(2)
        low, high = lows.amin(1), highs.amax(1)
    # Scaled by the largest first, because the fourth power of 1e-100 is zero.
    values = values.mul_(1 / torch.maximum(-low, high).clamp_min(torch.finfo(work).tiny)[:, None])
    torch.ne(values, 0, out=alive)
    many = alive.sum(1)
    powers = (values.sub_((values.sum(1) / many)[:, None])).mul_(alive).square_()
    fourth = torch.linalg.vector_norm(powers, dim=1).square() / many
    columns = (totals, squares, low, high, many, powers.sum(1) / many, fourth)
    return torch.stack([v.to(wide) for v in columns], 1)


def _blocks(row: Tensor, work: torch.dtype) -> Sequence[Tensor]:
    """Parts that stay in the cache while they are read three times; what must be widened finds its own."""
    return torch.chunk(row, -(-row.numel() // CACHED)) if row.dtype is work and row.numel() > CACHED else (row,)


@lru_cache(maxsize=64)
def _places(count: int, device: torch.device) -> Tensor:
    """Which lines of ``count`` entries are looked at: the same ones at each call, drawn with a generator of their own.

    Entries that lie side by side come with one look at the memory.
    """
    generator = torch.Generator().manual_seed(0)
    lines = torch.randint(count // LINE, (SAMPLE // LINE,), generator=generator, device="cpu")
    return sent(lines.sort().values, device)


def _moments(
    tensor: Tensor, total: float, squares: float, low: float, high: float, seen: float, second: float, fourth: float
) -> Moments:
    """From sums over all entries, and central moments of the ``seen`` ones that are not zero among those looked at."""
    count = tensor.numel()
    if not math.isfinite(total + squares):
        flat = _flat(tensor)
        finite = flat.isfinite()
        nonfinite = count - int(finite.sum())
        if nonfinite == count:
            return Moments(count, NAN, NAN, NAN, NAN, NAN, nonfinite=count)
        if nonfinite:
            return replace(measure([flat[finite]])[0], count=count, nonfinite=nonfinite)
        total, squares = _exact_sums(flat, 0.0)
        if not math.isfinite(total + squares):  # the squares of 1e200 are beyond float64
            return _magnified(measure([flat / _SHRUNK])[0], _SHRUNK)
    if 0 < max(-low, high) < 1e-15:  # squares below what float32 can hold
        total, squares = _exact_sums(_flat(tensor), 0.0)
    mean = total / count
    variance = squares / count - mean**2
    if low == high:
        mean, variance = low, 0.0
    elif variance < 1e-3 * mean**2:  # the difference has lost its digits: centre first
        variance = _exact_sums(_flat(tensor), mean)[1] / count
    looked_at = _seen_of(count)
    return Moments(
        count=count,
        mean=mean,
        std=math.sqrt(max(variance, 0.0)),
        rms=math.sqrt(squares / count),
        min=low,
        max=high,
        kurtosis=fourth / second**2 if low < high and seen > 1 and second else None,
        looked_at=int(seen) if low < high else 0,
        zero_fraction=1 - seen / looked_at,
    )


def _magnified(moments: Moments, factor: float) -> Moments:
    """The moments of ``factor`` times as large values, of which those without a unit stay."""
    lengths = ("mean", "std", "rms", "min", "max")
    return replace(moments, **{name: factor * getattr(moments, name) for name in lengths})


def _exact_sums(flat: Tensor, centre: float) -> tuple[float, float]:
    """Sum and sum of squares of ``flat - centre`` wholly in float64, block by block."""
    total = squares = 0.0
    for block in torch.split(flat, BLOCK):
        values = block.to("cpu", torch.float64) - centre
        total += float(values.sum())
        squares += float(values.square().sum())
    return total, squares
