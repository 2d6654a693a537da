"""What a parameter tensor holds: exact moments in float64, and which initializer it looks drawn from."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from initaudit.probe.fingerprint import Moments, looks_like
from initaudit.records import Parameter

CHUNK = 4096  # a float32 sum this short is right to 1e-5; longer ones lose digits
BLOCK = 1 << 20  # entries converted to float64 at a time
SAMPLE = 1 << 16  # entries looked at for kurtosis and zeros in a large tensor
LARGE = 1 << 17  # entries from which a sample stands for all

NAN = float("nan")


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
) -> Parameter:
    """Describe ``tensor``, of any shape, dtype and device, as it is; it is read and nothing else.

    ``fans`` are the effective ``(fan_in, fan_out)`` of the layer and ``torch_fans`` those that ``torch.nn.init``
    reads off the shape, where they exist; ``repeats`` is the number of row blocks that share one fan. Mean, rms,
    range and the count of non-finite entries are exact; the kurtosis and the fraction of zeros of a tensor above
    131,072 entries come from 65,536 of them, drawn with a generator of its own. ``std_uncertainty`` is
    ``sqrt((kurtosis - 1) / (4 N))``, the relative standard error of the std of N independent values. What holds no
    real numbers to judge (meta, empty, lazy, complex, integer, sparse) has NaN statistics and says so in ``init``.
    """
    lazy = isinstance(tensor, UninitializedParameter)
    shape = () if lazy else tuple(tensor.shape)
    blank = _blank(tensor, lazy)
    moments = Moments(0, NAN, NAN, NAN, NAN, NAN) if blank else measure(tensor)
    identical = not blank and _identical_rows(tensor)
    init = blank or looks_like(
        tensor, moments, fans=fans, torch_fans=torch_fans, repeats=repeats, identical_rows=identical
    )
    return Parameter(
        fqn=fqn,
        shape=shape,
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
        identical_rows=identical,
        requires_grad=requires_grad,
    )


def _blank(tensor: Tensor, lazy: bool) -> str | None:
    """Why there is nothing to measure, or ``None``."""
    if lazy:
        return "uninitialized (lazy)"
    if tensor.device.type == "meta":
        return "meta"
    if tensor.numel() == 0:
        return "empty"
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        return f"not judged ({str(tensor.dtype).removeprefix('torch.')})"
    return None


@torch.no_grad()
def measure(tensor: Tensor) -> Moments:
    """Moments of a non-empty floating-point tensor of any shape; over the finite entries, where some are not."""
    flat = tensor.detach().reshape(-1)
    if flat.element_size() == 1:  # float8 has no arithmetic of its own
        flat = flat.float()
    total, squares = _sums(flat)
    nonfinite = 0
    if not math.isfinite(total + squares):
        finite = flat.isfinite()
        nonfinite = flat.numel() - int(finite.sum())
        flat = flat[finite] if nonfinite else flat
        if flat.numel() == 0:
            return Moments(tensor.numel(), NAN, NAN, NAN, NAN, NAN, nonfinite=nonfinite)
        total, squares = _exact_sums(flat, 0.0)
    count = flat.numel()
    low, high = (float(end) for end in flat.aminmax())
    if 0 < max(-low, high) < 1e-15:  # squares below what float32 can hold
        total, squares = _exact_sums(flat, 0.0)
    mean = total / count
    variance = squares / count - mean**2
    if low == high:
        mean, variance = low, 0.0
    elif variance < 1e-3 * mean**2:  # the difference has lost its digits: centre first
        variance = _exact_sums(flat, mean)[1] / count
    kurtosis, looked_at, zero_fraction = _shape_of_law(flat, constant=low == high)
    return Moments(
        count=tensor.numel(),
        mean=mean,
        std=math.sqrt(max(variance, 0.0)),
        rms=math.sqrt(squares / count),
        min=low,
        max=high,
        kurtosis=kurtosis,
        looked_at=looked_at,
        nonfinite=nonfinite,
        zero_fraction=zero_fraction,
    )


def _sums(flat: Tensor) -> tuple[float, float]:
    """Sum and sum of squares: short sums in float32 (or better), combined in float64."""
    work = torch.float64 if flat.dtype == torch.float64 else torch.float32
    whole = flat.numel() // CHUNK * CHUNK
    total = squares = 0.0
    for part in (flat[:whole].view(-1, CHUNK), flat[whole:].view(1, -1)):
        if part.numel():
            total += float(part.sum(1, dtype=work).to("cpu", torch.float64).sum())
            norms = torch.linalg.vector_norm(part, dim=1, dtype=work)
            squares += float(norms.to("cpu", torch.float64).square().sum())
    return total, squares


def _exact_sums(flat: Tensor, centre: float) -> tuple[float, float]:
    """The same of ``flat - centre`` wholly in float64, block by block."""
    total = squares = 0.0
    for block in torch.split(flat, BLOCK):
        values = block.to("cpu", torch.float64) - centre
        total += float(values.sum())
        squares += float(values.square().sum())
    return total, squares


def _shape_of_law(flat: Tensor, *, constant: bool) -> tuple[float | None, int, float]:
    """Kurtosis of the entries that are not zero, how many were seen, and the fraction that is zero."""
    if constant:
        return None, 0, float(flat[0] == 0)
    values = flat
    if flat.numel() > LARGE:
        generator = torch.Generator().manual_seed(0)
        values = flat[torch.randint(flat.numel(), (SAMPLE,), generator=generator, device="cpu").to(flat.device)]
    values = values.to("cpu", torch.float64)  # not every device has float64
    alive = values[values != 0]
    zero_fraction = 1 - alive.numel() / values.numel()
    if alive.numel() < 2:
        return None, alive.numel(), zero_fraction
    centred = alive - alive.mean()
    # Scaled by the largest first, because the fourth power of 1e-100 is zero.
    centred = centred / centred.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    second = float(centred.square().mean())
    kurtosis = float(centred.square().square().mean()) / second**2 if second else None
    return kurtosis, alive.numel(), zero_fraction


def _identical_rows(tensor: Tensor) -> bool:
    if tensor.dim() < 2 or tensor.shape[0] < 2:
        return False
    rows = tensor.detach()
    return bool(torch.equal(rows[0], rows[1])) and bool((rows == rows[:1]).all())
