"""Numbers, fractions, times and lists of names, as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

from initaudit.records import Finding, Layer, Report, Role

FRACTION = "fraction of "


def number(value: float | None, *, aligned: bool = False) -> str:
    """``value`` to 3 significant digits, as ``0.0361`` or ``512``; outside 1e-3 to 1e5 as ``1.2e-09``; ``""`` for None.

    ``aligned`` keeps the trailing zeros, so that a column of figures stands in line.
    """
    if value is None:
        return ""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    rounded = float(f"{value:.3g}")
    if not 1e-3 <= abs(rounded) < 1e5:
        return f"{value:.1e}"
    return f"{rounded:#.3g}".removesuffix(".") if aligned and abs(rounded) < 1000 else f"{rounded:g}"


def whole(value: float) -> str:
    """A count that may be fractional (an effective fan): all its digits when whole, else three significant ones."""
    return f"{value:.0f}" if math.isfinite(value) and value == int(value) else number(value)


def percent(fraction: float | None) -> str:
    """``0.12`` as ``12%``; ``<1%`` and ``>99%`` where rounding would claim none or all."""
    if fraction is None or not math.isfinite(fraction):
        return "" if fraction is None else f"{fraction:g}"
    if 0 < fraction < 0.005:
        return "<1%"
    if 0.995 <= fraction < 1:
        return ">99%"
    return f"{fraction:.0%}"


def duration(seconds: float) -> str:
    """``0.04 s``, ``3.2 s``, ``2 min 5 s``."""
    if seconds < 0.1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def counted(count: int, noun: str) -> str:
    """``1 error``, ``3 errors``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(names: Sequence[str], keep: int = 3) -> str:
    """``a, b and c``, or ``a, b, c and 17 more``; one name over ``keep`` is named and not counted."""
    if len(names) <= keep + 1:
        return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
    return f"{', '.join(names[:keep])} and {len(names) - keep} more"


def figure(finding: Finding) -> str:
    """What was observed beside its limit: ``1.2e-09 rms, limit 1.0e-04``; ``""`` for a finding without a figure."""
    if finding.observed is None:
        return ""
    if finding.unit.startswith(FRACTION):
        observed, limit = percent(finding.observed), percent(finding.limit)
        observed += f" of {finding.unit.removeprefix(FRACTION)}"
    else:
        observed, limit = f"{number(finding.observed)} {finding.unit}".rstrip(), number(finding.limit)
    return f"{observed}, limit {limit}" if limit else observed


def expected_std(layer: Layer, lookups: Container[str] = ()) -> float | None:
    """The weight std that keeps the signal's scale: ``gain / sqrt(fan_in)`` (He et al. 2015, eq. 10).

    The gain is that of the activation that follows, 1 where none does. ``None`` where nothing is summed, so that the
    rule has nothing to say: a layer without a fan-in, and those in ``lookups``; and where nothing ran, so that nobody
    knows what follows.
    """
    if layer.fqn in lookups or not layer.fan_in > 0 or not layer.calls:
        return None
    gain = layer.nonlinearity.gain if layer.nonlinearity else 1.0
    return gain / math.sqrt(layer.fan_in)


def lookups(report: Report) -> frozenset[str]:
    """The ``fqn`` of layers whose weight is a table to look rows up in."""
    ops = report.trace.ops if report.trace else ()
    return frozenset(op.layer for op in ops if op.role is Role.EMBEDDING and op.layer is not None)


def cure(finding: Finding, layers: Sequence[Layer] = ()) -> str:
    """The advice in words: ``kaiming_normal_ with gain 1.41: std 0.0884, found 0.0361``.

    The std found is that of the weight of the layer the finding is at, when it is among ``layers``.
    """
    advice = finding.advice
    if advice is None:
        return ""
    text = advice.scheme if advice.gain is None else f"{advice.scheme} with gain {number(advice.gain)}"
    if advice.std is None:
        return text
    found = next((f", found {number(layer.weight.std)}" for layer in layers if layer.fqn == finding.fqn), "")
    return f"{text}: std {number(advice.std)}{found}"
