"""What a parameter tensor holds: exact moments, and which initializer it looks drawn from.

All parameters of a model are looked at together: what can be told is reduced on their devices and comes to the host
in one transfer; only what is rare (values that are not finite, a mean far above the std) is looked at once more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from initaudit.probe.devices import one_thread_for, sent
from initaudit.probe.fingerprint import Moments, looks_like
from initaudit.probe.orthogonal import orthogonal_gains
from initaudit.probe.whole import chunks, widened
from initaudit.records import Parameter

BLOCK = 1 << 20  # entries converted to float64 at a time
SAMPLE = 1 << 15  # entries looked at for kurtosis and zeros in a large tensor
LARGE = 1 << 17  # entries from which a sample stands for all
SMALL = 1 << 14  # entries up to which tensors of one size are measured together, in float64
TOGETHER = 1 << 18  # entries of such tensors at a time

NAN = float("nan")
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
) -> Parameter:
    """Describe ``tensor``, of any shape, dtype and device, as it is; it is read and nothing else.

    ``fans`` are the effective ``(fan_in, fan_out)`` of the layer and ``torch_fans`` those that ``torch.nn.init``
    reads off the shape, where they exist; ``repeats`` is the number of row blocks that share one fan. Mean, rms,
    range and the count of non-finite entries are exact; the kurtosis and the fraction of zeros of a tensor above
    131,072 entries come from 32,768 of them, drawn with a generator of its own. ``std_uncertainty`` is
    ``sqrt((kurtosis - 1) / (4 N))``, the relative standard error of the std of N independent values. What holds no
    real numbers to judge (meta, empty, lazy, complex, integer, sparse) has NaN statistics and says so in ``init``.
    ``seen`` is what :func:`look` saw of the tensor, where it looked at many together.
    """
    seen = seen or look([tensor])[0]
    moments = seen.moments
    init = seen.blank or looks_like(
        tensor,
        moments,
        fans=fans,
        torch_fans=torch_fans,
        repeats=repeats,
        identical_rows=seen.identical_rows,
        orthogonal=seen.orthogonal,
        maybe_blocks=seen.maybe_blocks,
    )
    return Parameter(
        fqn=fqn,
        shape=() if isinstance(tensor, UninitializedParameter) else tuple(tensor.shape),
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
    alike = _true_of([(i, (tensors[i][0] == tensors[i][1]).all()) for i in matrices])
    identical = _true_of([(i, (tensors[i] == tensors[i][:1]).all()) for i in alike])
    drawn = [i for i in matrices if not moments[i].constant and not moments[i].nonfinite]
    gains = dict(zip(drawn, orthogonal_gains([tensors[i].detach().flatten(1) for i in drawn]), strict=True))
    starting = [i for i in drawn if i in stacked]
    starts = dict(zip(starting, orthogonal_gains([tensors[i].detach().flatten(1)[:2] for i in starting]), strict=True))
    return [
        Seen(moments.get(i, _UNKNOWN), i in identical, gains.get(i), starts.get(i, 1.0) is not None, reason)
        for i, reason in enumerate(blank)
    ]


def _blank(tensor: Tensor) -> str | None:
    """Why there is nothing to measure, or ``None``."""
    if isinstance(tensor, UninitializedParameter):
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
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, tensor in enumerate(tensors):
        size = tensor.numel()
        groups.setdefault((size, tensor.dtype, tensor.device, i if size > SMALL else -1), []).append(i)
    reduced: dict[torch.device, list[tuple[list[int], Tensor]]] = {}
    samples: dict[tuple[int, torch.device], Tensor] = {}
    for members in groups.values():
        step = max(1, TOGETHER // tensors[members[0]].numel())
        for part in (members[start : start + step] for start in range(0, len(members), step)):
            rows = [_flat(tensors[i]) for i in part]
            with one_thread_for(sum(map(len, rows)), rows[0].device):
                vectors = _vectors(torch.stack(rows) if len(rows) > 1 else rows[0][None], samples)
            reduced.setdefault(vectors.device, []).append((part, vectors))
    found: dict[int, list[float]] = {}
    for parts in reduced.values():
        numbers = [i for part, _ in parts for i in part]
        found.update(zip(numbers, torch.cat([vectors for _, vectors in parts]).tolist(), strict=True))
    return [_moments(tensor, *found[i]) for i, tensor in enumerate(tensors)]


def _flat(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat.float() if flat.element_size() == 1 else flat  # float8 has no arithmetic of its own


def _vectors(rows: Tensor, samples: dict[tuple[int, torch.device], Tensor]) -> Tensor:
    """The arguments of :func:`_moments` for each of ``rows`` ``(k, n)``, of which there is one where n is large."""
    n = rows.shape[1]
    wide = torch.float32 if rows.device.type == "mps" else torch.float64
    if n <= SMALL:
        work = wide
        values = rows.to(work)
        sums = (values.sum(1), values.square().sum(1))
        low, high = values.amin(1), values.amax(1)
    else:
        work = torch.promote_types(rows.dtype, torch.float32)
        sums = _sums(rows[0], work, wide)
        low, high = (end[None].to(work) for end in torch.aminmax(rows))
        values = (rows.index_select(1, _places(n, rows.device, samples)) if n > LARGE else rows).to(work)
    # Scaled by the largest first, because the fourth power of 1e-100 is zero.
    values = values / torch.maximum(-low, high).clamp_min(torch.finfo(work).tiny)[:, None]
    alive = torch.ne(values, 0, out=torch.empty_like(values))
    seen = alive.sum(1)
    squares = (values - (values.sum(1) / seen)[:, None]).mul_(alive).square_()
    fourth = torch.linalg.vector_norm(squares, dim=1).square() / seen
    return torch.stack([v.to(wide) for v in (*sums, low, high, seen, squares.sum(1) / seen, fourth)], 1)


def _sums(flat: Tensor, work: torch.dtype, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares, ``(1,)`` each: of short pieces in ``work``, combined in ``wide``."""
    totals, norms = [], []
    for part in widened(chunks(flat), work):
        totals.append(part.sum(1, dtype=work))
        norms.append(torch.linalg.vector_norm(part, dim=1, dtype=work))
    return (
        torch.cat(totals).sum(0, keepdim=True, dtype=wide),
        torch.cat(norms).to(wide).square().sum(0, keepdim=True),
    )


def _places(n: int, device: torch.device, known: dict[tuple[int, torch.device], Tensor]) -> Tensor:
    """Which of ``n`` entries are looked at: the same ones at each call, drawn with a generator of their own."""
    if (n, device) not in known:
        generator = torch.Generator().manual_seed(0)
        known[n, device] = sent(torch.randint(n, (SAMPLE,), generator=generator, device="cpu"), device)
    return known[n, device]


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
    if 0 < max(-low, high) < 1e-15:  # squares below what float32 can hold
        total, squares = _exact_sums(_flat(tensor), 0.0)
    mean = total / count
    variance = squares / count - mean**2
    if low == high:
        mean, variance = low, 0.0
    elif variance < 1e-3 * mean**2:  # the difference has lost its digits: centre first
        variance = _exact_sums(_flat(tensor), mean)[1] / count
    looked_at = SAMPLE if count > LARGE else count
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


def _exact_sums(flat: Tensor, centre: float) -> tuple[float, float]:
    """Sum and sum of squares of ``flat - centre`` wholly in float64, block by block."""
    total = squares = 0.0
    for block in torch.split(flat, BLOCK):
        values = block.to("cpu", torch.float64) - centre
        total += float(values.sum())
        squares += float(values.square().sum())
    return total, squares
