"""Which finding about a parameter explains which finding about the signal.

A rule on the signal sees where it goes wrong, a rule on parameters sees what is wrong in itself. Where the second lies
on the way to the first, and the first has no culprit of its own, they are one fault: its root is the parameter, and it
is as bad as what it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from initaudit.records import Finding, Severity, Trace
from initaudit.rules.paths import downstream, upstream

_PARAMETERS = ("IA30", "IA501", "IA502", "IA503")  # rules that judge the values of a parameter by themselves
_SIGNAL = ("IA10", "IA111", "IA20", "IA40")
_ZEROS = ("IA103", "IA304")  # they explain a division by zero


def link(trace: Trace, findings: Sequence[Finding], blameless: set[int]) -> list[Finding]:
    """``findings``, each that another explains made its consequence.

    ``blameless`` are the indices of those that name no culprit of their own.
    """
    linked = list(findings)
    alarms = [i for i, f in enumerate(findings) if f.severity is not Severity.NOTE]
    for i in alarms:
        codes = _PARAMETERS + _ZEROS if findings[i].code == "IA106" else _PARAMETERS
        causes = [c for c in alarms if findings[c].code.startswith(codes)]
        if causes and i in blameless and findings[i].code.startswith(_SIGNAL):
            cause = next((c for c in causes if _leads_to(trace, findings[c].fqn, findings[i])), None)
            if cause is not None:
                linked[cause] = _absorb(linked[cause], findings[i])
                linked[i] = replace(linked[i], root_cause=False)
    return linked


def _leads_to(trace: Trace, fqn: str, symptom: Finding) -> bool:
    """Whether the parameters at ``fqn`` are on the way to the symptom, or to where its gradient comes from."""
    if fqn == symptom.fqn:
        return False
    readers = {op.id for op in trace.ops if any(n == fqn or n.rpartition(".")[0] == fqn for n in op.parameters)}
    ends = _ends(trace, symptom.fqn)
    if not readers.isdisjoint(upstream(trace.ops, ends)):
        return True
    return symptom.code.startswith("IA20") and not readers.isdisjoint(op.id for op in downstream(trace.ops, ends))


def _absorb(cause: Finding, symptom: Finding) -> Finding:
    affected = (*cause.affected, *(n for n in (symptom.fqn, *symptom.affected) if n not in cause.affected))
    worse = min(cause.severity, symptom.severity, key=lambda s: s.rank)
    return replace(
        cause,
        severity=worse,
        root_cause=True,
        message=f"{cause.message}; it leads to {symptom.name} at {symptom.fqn or 'the output'}",
        affected=tuple(n for n in affected if n and n != cause.fqn),
    )


def _ends(trace: Trace, fqn: str) -> set[int]:
    """The operations at which a finding at ``fqn`` was made: the calls of the layer, with the activation behind."""
    calls = [call for layer in trace.layers if layer.fqn == fqn for call in layer.calls]
    ends = {i for call in calls for i in (call.op, call.activation_op) if i is not None}
    return ends or {op.id for op in trace.ops if op.scope == fqn and op.moving}
