"""From an audit to a cure: plans of growing reach, each tried on a copy and audited again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from initaudit.advice.data_driven import scaled
from initaudit.advice.open_ends import grows_by_batch_norm
from initaudit.advice.plan import Planner, Reach
from initaudit.advice.settings import Setting
from initaudit.records import Finding, Report, Severity, Trace, Vitals

Attempt = Callable[[Sequence[Setting]], Report]
CLEARLY = 0.75  # of the severity score, which one draw of a healthy network moves by less
ROUNDS = 4  # of measuring and scaling
SIGNAL = ("IA1", "IA2")  # rules on the signal and the gradient: what a look at the whole model may mend


@dataclass(frozen=True, slots=True)
class Outcome:
    """The best that was found: its settings and the audit of a copy that has them; no settings where nothing helped."""

    settings: tuple[Setting, ...]
    report: Report


def search(before: Report, attempt: Attempt) -> Outcome:
    """Try plans of growing reach and keep what the audit says is better.

    What findings name is set first, offsets before weights, twice if the second audit names more; the whole model only
    while findings on the signal or the gradient remain, or new ones have come. Where a plan takes every fault away that
    it was made for and lays bare as many others, the next one goes on from there.
    """
    best = current = Outcome((), before)
    codes = {f.code for f in before.findings}
    for reach in (Reach.OFFSETS, Reach.NAMED, Reach.NAMED, Reach.ALL, Reach.DEEP):
        found, trace = alarms(current.report.findings), current.report.trace
        if not found or trace is None:
            break
        if reach > Reach.NAMED and not any(f.code not in codes or _of_the_signal(f, trace) for f in found):
            break
        planner = Planner(trace, current.report.findings, follows_advice=current.report is before)
        settings = merged(current.settings, planner.plan(reach))
        if settings == current.settings:
            continue
        tried = Outcome(settings, attempt(settings))
        if improves(tried.report, best.report):
            best = current = tried
        else:
            current = tried if _unmasks(tried.report, current.report) else best
    return _measured(before, best, attempt)


def _of_the_signal(finding: Finding, trace: Trace) -> bool:
    """Whether a look at the whole model may mend it: it is about signal or gradient, and about the initialization."""
    return finding.code.startswith(SIGNAL) and not grows_by_batch_norm(finding, trace)


def _unmasks(report: Report, before: Report) -> bool:
    """Whether what ``before`` found is gone, and no more than as many other findings have come."""
    if report.error is not None or _counts(report) > _counts(before):
        return False
    places = {(f.code, f.fqn) for f in alarms(report.findings)}
    return not any((f.code, f.fqn) in places for f in alarms(before.findings))


def _measured(before: Report, best: Outcome, attempt: Attempt) -> Outcome:
    """What a few rounds of scaling to unit size make of a plan for the whole model, where that helps."""
    trace = best.report.trace
    if trace is None or before.trace is None:
        return best
    if not any(_of_the_signal(f, trace) for f in alarms(best.report.findings)):
        return best
    settings = merged(best.settings, Planner(before.trace, before.findings).plan(Reach.EVERY))
    report = attempt(settings)
    for _ in range(ROUNDS):
        if report.trace is None or not settings:
            break
        finer = scaled(settings, report.trace)
        if finer == settings:
            break
        settings, report = finer, attempt(finer)
        if improves(report, best.report):
            best = Outcome(settings, report)
    return best


def alarms(findings: Iterable[Finding]) -> list[Finding]:
    """The findings above a note."""
    return [f for f in findings if f.severity is not Severity.NOTE]


def improves(report: Report, before: Report) -> bool:
    """Whether there are fewer errors, or as many and fewer warnings, or as many and a clearly lower severity score."""
    if report.error is not None:
        return False
    now, then = _counts(report), _counts(before)
    return now < then or (now == then and report.severity_score < CLEARLY * before.severity_score)


def _counts(report: Report) -> tuple[int, int]:
    severities = [f.severity for f in report.findings]
    return severities.count(Severity.ERROR), severities.count(Severity.WARNING)


def merged(old: Sequence[Setting], new: Sequence[Setting]) -> tuple[Setting, ...]:
    """``old`` with those of ``new`` in their place or behind them; a new setting of a whole parameter ends old rows."""
    whole = {s.parameter for s in new if s.rows is None}
    kept = [s for s in old if s.parameter not in whole]
    placed = {(s.parameter, s.rows) for s in kept}
    replaced = {(s.parameter, s.rows): s for s in new}
    return (
        *(replaced.get((s.parameter, s.rows), s) for s in kept),
        *(s for key, s in replaced.items() if key not in placed),
    )


def vitals(trace: Trace) -> Vitals:
    """The figures of one draw."""
    calls = [call for layer in trace.layers for call in layer.calls]
    sizes = [call.pre_activation.rms for call in calls if call.pre_activation is not None]
    finite = [size for size in sizes if not math.isnan(size)]
    gradients = [call.gradient.rms for call in sorted(calls, key=lambda c: c.op) if call.gradient is not None]
    ratio = gradients[0] / gradients[-1] if len(gradients) > 1 and gradients[-1] > 0 else None
    return Vitals(trace.environment.seed, min(finite, default=None), max(finite, default=None), ratio)
