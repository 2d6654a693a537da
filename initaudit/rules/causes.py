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
_SCALES = ("IA301", "IA302", "IA303", "IA307", "IA503")  # of them those on a weight's size, which is wrong one way
_DRIFTS = ("IA101", "IA102", "IA105")  # of the signal, along the layers from the one that they are told at
_LARGE, _SMALL = ("IA102", "IA104", "IA401"), ("IA101",)  # what weights that are too small, or too large, cannot do
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
            cause = next((c for c in causes if _leads_to(trace, findings[c], findings[i])), None)
            if cause is not None:
                linked[cause] = _absorb(linked[cause], findings[i])
                linked[i] = replace(linked[i], root_cause=False)
    return linked


def _leads_to(trace: Trace, cause: Finding, symptom: Finding) -> bool:
    """Whether the parameters at ``cause`` are on the way to the symptom, or to where its gradient comes from.

    What the sizes of the weights on a way add up to, the rules on drifts count by themselves.
    """
    fqn, scale = cause.fqn, cause.code in _SCALES
    if scale and symptom.code in {-1: _LARGE, 0: (), 1: _SMALL}[_direction(trace, cause)]:
        return False
    if fqn == symptom.fqn or (symptom.code in _DRIFTS and fqn in symptom.affected):
        return not scale
    readers = {op.id for op in trace.ops if any(n == fqn or n.rpartition(".")[0] == fqn for n in op.parameters)}
    ends = _ends(trace, symptom.fqn)
    if not readers.isdisjoint(upstream(trace.ops, ends)):
        return True
    return symptom.code.startswith("IA20") and not readers.isdisjoint(op.id for op in downstream(trace.ops, ends))


def _direction(trace: Trace, cause: Finding) -> int:
    """1 where the cure is smaller weights, -1 where it is larger ones, 0 where that cannot be told."""
    std = cause.advice.std if cause.advice else None
    layer = next((layer for layer in trace.layers if layer.fqn == cause.fqn), None)
    if std is None or layer is None or layer.weight.std == std:
        return 0
    return 1 if layer.weight.std > std else -1


def _absorb(cause: Finding, symptom: Finding) -> Finding:
    # A drift that the cause lies in names all its layers, of which those before it have nothing to do with it.
    inside = cause.fqn in (symptom.fqn, *symptom.affected)
    follow = () if inside else (symptom.fqn, *symptom.affected)
    affected = (*cause.affected, *(n for n in follow if n not in cause.affected))
    worse = min(cause.severity, symptom.severity, key=lambda s: s.rank)
    return replace(
        cause,
        severity=worse,
        root_cause=True,
        message=f"{cause.message}; it leads to {symptom.name} {_place(cause, symptom)}",
        affected=tuple(n for n in affected if n and n != cause.fqn),
    )


def _place(cause: Finding, symptom: Finding) -> str:
    return "here" if symptom.fqn == cause.fqn else f"at {symptom.fqn or 'the output'}"


def _ends(trace: Trace, fqn: str) -> set[int]:
    """The operations at which a finding at ``fqn`` was made: the calls of the layer, with the activation behind."""
    calls = [call for layer in trace.layers if layer.fqn == fqn for call in layer.calls]
    ends = {i for call in calls for i in (call.op, call.activation_op) if i is not None}
    return ends or {op.id for op in trace.ops if op.scope == fqn and op.moving}
