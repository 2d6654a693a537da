"""From what single rules saw to findings: one cause, one finding, with its cure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from initaudit.advice.computed import Computed, reaching
from initaudit.advice.recommend import advise
from initaudit.records import Advice, Finding, Severity, Trace
from initaudit.rules.base import Observation, Rule
from initaudit.rules.causes import link
from initaudit.rules.flow import Flow


def diagnose_with(rules: Iterable[Rule], trace: Trace) -> tuple[Finding, ...]:
    """Run ``rules``, given in causal order, and sort what they find: root causes before what follows, worst first.

    A finding at a layer that an earlier one explains is kept as a consequence (``root_cause=False``); a mere note on
    such a layer is dropped, since the finding already says it.
    """
    flow, computed = Flow(trace), Computed(trace)
    explained: dict[str, Finding] = {}
    findings: list[Finding] = []
    blameless: set[int] = set()
    drawn: dict[int, Observation] = {}
    for rule in rules:
        for seen in rule.check(flow):
            finding = _finding(rule, seen, computed, root_cause=rule.stands_alone or seen.fqn not in explained)
            if finding.severity is Severity.NOTE and not finding.root_cause:
                continue
            if seen.layer is None and seen.code is None:
                blameless.add(len(findings))
            elif seen.code is None:
                drawn[len(findings)] = seen
            findings.append(finding)
            if finding.root_cause and finding.severity is not Severity.NOTE and not rule.stands_alone:
                for fqn in (finding.fqn, *finding.affected):
                    explained.setdefault(fqn, finding)
    findings = link(trace, _with_one_cure(findings, drawn), blameless)
    order = {id(f): i for i, f in enumerate(findings)}
    return tuple(sorted(findings, key=lambda f: (f.severity.rank, not f.root_cause, order[id(f)])))


def _with_one_cure(findings: list[Finding], drawn: dict[int, Observation]) -> list[Finding]:
    """``findings``, those whose layer another one asks a gain of its own for with the same line as that.

    ``drawn`` are what was seen of layers that shall be drawn anew, by the place of the finding.
    """
    asked: dict[str, Advice | None] = {}
    for i, seen in drawn.items():
        if seen.layer is not None and seen.gain is not None and findings[i].severity is not Severity.NOTE:
            asked.setdefault(seen.layer.weight.fqn, findings[i].advice)
    cures = {
        i: asked[seen.layer.weight.fqn] for i, seen in drawn.items() if seen.layer and seen.layer.weight.fqn in asked
    }
    return [replace(f, advice=cures[i]) if i in cures else f for i, f in enumerate(findings)]


def _finding(rule: Rule, seen: Observation, computed: Computed, *, root_cause: bool) -> Finding:
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=seen.severity or rule.severity,
        fqn=seen.fqn,
        message=seen.message,
        observed=seen.observed,
        limit=seen.limit if seen.limit is not None else rule.limit.value,
        unit=rule.limit.unit,
        root_cause=root_cause,
        affected=seen.affected,
        advice=_advice(seen, computed),
    )


def _advice(seen: Observation, computed: Computed) -> Advice | None:
    if seen.code is not None:
        return Advice(scheme=seen.code.partition("(")[0].removeprefix("nn.init."), gain=None, std=None, code=seen.code)
    if seen.layer is None or not seen.layer.calls:  # without a run nobody knows what follows a layer, nor its gain
        return None
    return reaching(advise(seen.layer, gain=seen.gain), seen.layer, computed)
