"""One number for how badly an initialization harms training, continuous below and above the limits of the rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from initaudit.records import Finding, Severity, Trace
from initaudit.rules.drift import FAIL, WARN, forward_drift
from initaudit.rules.flow import Flow
from initaudit.rules.gradient_drift import gradient_drift, norm_drifts

# What is found by other means than a drift has no nats of its own: it weighs what a drift at that limit would.
LEVELS = {Severity.ERROR: FAIL, Severity.WARNING: WARN, Severity.NOTE: 0.0}


def severity_score(trace: Trace, findings: Iterable[Finding]) -> float:
    """The worst drift through depth, in nats of mean square, and at least the level of the worst finding.

    A drift is ``|ln|`` of the mean-square ratio between two ends: of the signal that tells samples apart or of the
    gradient, over a stretch that no normalization breaks, or of the gradient from one normalization to the next. It is
    the drift as measured: the rules allow for what chance does to a healthy network of that width and depth, since it
    is no fault of the initialization, but it harms training as much. So 0 means that nothing moves, training gets into
    trouble at :data:`~initaudit.theory.trainability.TROUBLE` and fails at
    :data:`~initaudit.theory.trainability.FAILURE`. The score is infinite where nothing arrives.
    """
    levels = (LEVELS[finding.severity] for finding in findings)
    return max((0.0, *levels, *(drift for drift in _drifts(Flow(trace)) if not math.isnan(drift))))


def _drifts(flow: Flow) -> Iterator[float]:
    for segment in flow.judged:
        yield abs(forward_drift(segment))
        yield abs(gradient_drift(flow, segment)[0])
    for amount, _, _ in norm_drifts(flow):
        yield abs(amount)
