"""One verdict over several draws of a model: which faults are the rule's, and which are one unlucky draw's.

A fault keeps its severity when at least half of the draws have one of its code that is as severe, wherever it is: dead
units in another layer at each draw are still a bad rule. Otherwise it is one step milder: an error becomes a warning,
a warning a note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from initaudit.errors import AuditError
from initaudit.records import Finding, Report, Severity, Trace
from initaudit.rules import RULES, not_random, not_reproducible
from initaudit.rules.severity import severity_score

_NO_HARM = {not_reproducible.RULE.code, not_random.RULE.code}  # such a model trains like any other
_OF_THE_FACTORY = {rule.code for rule in RULES if rule.stands_alone}  # no matter of draws
_MILDER = {Severity.ERROR: Severity.WARNING, Severity.WARNING: Severity.NOTE, Severity.NOTE: Severity.NOTE}


@dataclass
class _Fault:
    """The findings of one code at one place, by seed."""

    found: dict[int, Finding] = field(default_factory=dict)

    @property
    def worst(self) -> tuple[int, Finding]:
        """The first of the most severe, with its seed."""
        return min(self.found.items(), key=lambda item: item[1].severity.rank)

    def is_at(self, finding: Finding) -> bool:
        return any(f.fqn == finding.fqn for f in self.found.values())

    def overlaps(self, finding: Finding) -> bool:
        """Whether either starts among what the other affects: where a drift starts moves from draw to draw."""
        return any(f.fqn in finding.affected or finding.fqn in f.affected for f in self.found.values())


def audit_draws(
    seeds: Sequence[int],
    probe: Callable[[int], Trace],
    diagnose: Callable[[Trace], tuple[Finding, ...]],
) -> Report:
    """Probe and diagnose a draw for each seed: a report with the trace of the first and the findings over all.

    Of a single draw the findings are what ``diagnose`` says; of several the severity score is the median.

    Raises:
        AuditError: a draw could not be run; with several, the message names its seed.
    """
    first: Trace | None = None
    spent: list[tuple[float, float, float]] = []
    found: list[tuple[int, tuple[Finding, ...]]] = []
    scores: list[float] = []
    for seed in seeds:
        try:
            trace = probe(seed)
        except AuditError as error:
            if len(seeds) == 1:
                raise
            raise AuditError(error.stage, f"with seed {seed}: {error}") from error
        first = first or trace
        spent.append((trace.seconds, trace.model_seconds, trace.build_seconds))
        findings = diagnose(trace if trace is first else with_origin_of(first, trace))
        found.append((seed, findings))
        scores.append(severity_score(trace, [f for f in findings if f.code not in _NO_HARM]))
    if first is None:
        raise ValueError("no seeds, expected at least one")
    several = len(found) > 1
    seconds, passes, building = (sum(parts) for parts in zip(*spent, strict=True))
    return Report(
        first.target,
        over_draws(found) if several else found[0][1],
        replace(first, seconds=seconds, model_seconds=passes, build_seconds=building),
        seeds=tuple(seeds) if several else (),
        severity_score=median(scores),
    )


def with_origin_of(first: Trace, trace: Trace) -> Trace:
    """``trace`` with what was learned of the factory, once, at the ``first`` draw."""
    known = {p.fqn: p for p in first.parameters}
    parameters = (
        replace(p, reproducible=known[p.fqn].reproducible, follows_seed=known[p.fqn].follows_seed)
        if p.fqn in known
        else p
        for p in trace.parameters
    )
    unjudged = dict.fromkeys((*first.unjudged, *trace.unjudged))
    return replace(trace, parameters=tuple(parameters), unjudged=tuple(unjudged))


def over_draws(found: Sequence[tuple[int, Iterable[Finding]]]) -> tuple[Finding, ...]:
    """The findings of several draws, given with their seeds, as one list: each fault once, worst first.

    A fault is shown as in the first of the draws in which it is most severe. ``draws`` are the seeds that have it, and
    its message says in how many of them it is.
    """
    draws = [(seed, tuple(findings)) for seed, findings in found]
    faults: list[_Fault] = []
    by_code: dict[str, list[_Fault]] = {}
    for seed, findings in draws:
        for finding in findings:
            alike = by_code.setdefault(finding.code, [])
            open_ones = [fault for fault in alike if seed not in fault.found]
            fault = next((f for f in open_ones if f.is_at(finding)), None)
            fault = fault or next((f for f in open_ones if f.overlaps(finding)), None)
            if fault is None:
                fault = _Fault()
                alike.append(fault)
                faults.append(fault)
            fault.found[seed] = finding
    judged = [_judged(fault, draws) for fault in faults]
    return tuple(sorted(judged, key=lambda f: (f.severity.rank, not f.root_cause)))


def _judged(fault: _Fault, draws: Sequence[tuple[int, tuple[Finding, ...]]]) -> Finding:
    _, finding = fault.worst
    rank = finding.severity.rank
    having = [s for s, others in draws if any(o.code == finding.code and o.severity.rank <= rank for o in others)]
    lucky = 2 * len(having) >= len(draws)
    severity = finding.severity if lucky else _MILDER[finding.severity]
    draws_of = replace(finding, severity=severity, draws=tuple(fault.found))
    if finding.code == not_random.RULE.code and finding.severity is Severity.NOTE:
        several = f"{finding.message}; so these {len(draws)} draws are one"
        return replace(draws_of, severity=Severity.WARNING, message=several)
    if finding.severity is Severity.NOTE or finding.code in _OF_THE_FACTORY:
        return draws_of
    return replace(draws_of, message=finding.message + _words(fault, draws, having, bad_rule=lucky))


def _words(
    fault: _Fault, draws: Sequence[tuple[int, tuple[Finding, ...]]], having: Sequence[int], *, bad_rule: bool
) -> str:
    seed, finding = fault.worst
    here = sum(f.severity.rank <= finding.severity.rank for f in fault.found.values())
    total = len(draws)
    where = f" (first with seed {seed})" if seed != draws[0][0] else ""
    if not bad_rule:
        return f"; {_a(finding.severity)} in {here} of {total} draws (seed {seed}): an unlucky draw"
    if len(having) > here:
        return f"; in {here} of {total} draws here{where}, in {len(having)} of {total} at one place or another"
    reason = ": it is the initialization and not the draw" if finding.root_cause else ""
    return f"; in {here} of {total} draws{where}{reason}"


def _a(severity: Severity) -> str:
    return "an error" if severity is Severity.ERROR else f"a {severity.value}"
