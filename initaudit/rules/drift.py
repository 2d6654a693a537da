"""What the rules on signal and gradients share: the segments on which something drifts, and who drives it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from initaudit.records import Role, Severity
from initaudit.rules.flow import Segment, Step, drift_by_chance, expected_decay, power
from initaudit.theory.trainability import FAILURE, TROUBLE

WARN = TROUBLE
FAIL = FAILURE
# He's 30-layer Xavier net (-18.7) stalls, and batch-normalized nets train up to some sixteen depth scales (Yang 2019).
SURE = 18.7
SIGNIFICANT = 0.25  # of a deviation from the fan-in rule, in ln Var[w]: 13% of the std


@dataclass(frozen=True, slots=True)
class Drift:
    """A segment whose signal (or gradient) leaves the band: by how much, how bad, and the layers that drive it."""

    segment: Segment
    amount: float  # natural log of the mean-square ratio, after what a healthy net of that depth does by itself
    severity: Severity
    limit: float  # the limit that was passed, same unit
    first: Step  # the layer where it starts
    culprits: tuple[Step, ...]  # the layers whose weights account for it; none where weights are not the cause
    leap: Step | None = None  # the one factor that makes most of it, where weights do not

    @property
    def affected(self) -> tuple[str, ...]:
        """The other layers that drive it; where none deviates from the rule, all layers after the first."""
        if self.leap is not None:
            return ()
        steps = self.culprits or self.segment.layers
        return tuple(dict.fromkeys(s.layer.fqn for s in steps if s.layer and s.layer is not self.first.layer))

    @property
    def factor(self) -> float:
        """The ratio of rms, as a factor."""
        return math.exp(self.amount / 2) if self.amount < 1400 else math.inf


def forward_drift(segment: Segment) -> float:
    """The segment's drift of the signal, less what the correlation map of a healthy net takes away at that depth.

    A head that is small is no loss: it only starts the outputs near zero, as one at zero does on purpose (Fixup), and
    the first step mends it. So a decay is counted up to what the head receives, unless a normalization was to receive
    the head's output and it is too small even for that.
    """
    drift = segment.drift
    if drift >= 0:
        return drift
    if not segment.fails_a_norm:
        last = max(i for i, step in enumerate(segment.steps) if step.layer is not None)
        drift = sum(step.drift for step in segment.steps[:last])
    return min(0.0, drift - expected_decay(segment.activations))


def judge_signal(segment: Segment) -> Drift | None:
    """What :func:`judge` says of the signal; a single factor that makes most of it is told, at the layer before it."""
    found = judge(segment, forward_drift(segment))
    leap = _leap(segment, found.amount) if found is not None and not found.culprits else None
    if found is None or leap is None:
        return found
    before = [s for s in segment.steps[: segment.steps.index(leap)] if s.layer is not None]
    return replace(found, leap=leap, first=before[-1] if before else found.first)


def judge(segment: Segment, amount: float, end: Step | None = None) -> Drift | None:
    """The :class:`Drift` when ``amount`` is outside the band for the segment's depth and width, else ``None``.

    ``end`` is the layer where the gradient ends altogether, if it does.
    """
    chance = drift_by_chance(segment)
    # Trouble is judged beyond what chance may do to a healthy net; what fails to train does so by chance as well.
    for limit, severity in ((max(FAIL, chance), Severity.ERROR), (WARN + chance, Severity.WARNING)):
        if abs(amount) > limit:
            culprits = _culprits(segment, amount)
            first = culprits[0] if culprits else _cut(segment) or end or segment.layers[0]
            return Drift(segment, amount, severity, math.copysign(limit, amount), first, culprits)
    return None


def _culprits(segment: Segment, amount: float) -> tuple[Step, ...]:
    """Layers whose weights deviate from the fan-in rule the way the drift goes, if they account for half of it."""
    if not math.isfinite(amount):  # the end of a long decline, or a cut
        amount = sum(s.drift for s in segment.steps if math.isfinite(s.drift))
        if abs(amount) < WARN:
            return ()
    sign = math.copysign(1.0, amount)
    found = [s for s in segment.layers if sign * s.deviation > SIGNIFICANT]
    return tuple(found) if sum(abs(s.deviation) for s in found) >= abs(amount) / 2 else ()


def _cut(segment: Segment) -> Step | None:
    """The last layer before the signal ends, a layer of zeros included; ``None`` where it reaches the end."""
    last = segment.layers[0]
    for step in segment.steps:
        last = step if step.layer is not None else last
        if power(step.op.stats) == 0:
            return last
    return None


def _leap(segment: Segment, amount: float) -> Step | None:
    """The factor, a constant or another signal, that multiplies by more than half of ``amount`` at once."""
    sign = math.copysign(1.0, amount)
    factors = (s for s in segment.steps if s.op.role in (Role.SCALE, Role.GATE) and math.isfinite(s.drift))
    largest = max(factors, key=lambda s: sign * s.drift, default=None)
    return largest if largest is not None and sign * largest.drift > abs(amount) / 2 else None
