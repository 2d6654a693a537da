"""The JSON document: ``docs/json-schema.json`` is its schema, and says what each key means."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, overload

from initaudit.records import SCHEMA_VERSION, Finding, Layer, LayerCall, Recurrence, Report, Severity, Stats, Trace
from initaudit.report.figures import expected_std, lookups
from initaudit.report.merge import merge

# The schema's keys, one by one: a new field of a record is not at once a promise to scripts.
ENVIRONMENT = ("torch", "device", "dtype", "seed", "ranks")
ERROR = ("stage", "message")
UNJUDGED = ("fqn", "reason")
HISTOGRAM = ("limit", "counts")
STATS = (
    *("count", "sampled", "mean", "std", "rms", "min", "max", "nonfinite", "zero_fraction", "kappa"),
    *("samples", "units", "sample_std", "cosine", "dead_units", "saturated", "saturated_units"),
)
PARAMETER = (
    *("fqn", "aliases", "shape", "dtype", "init", "mean", "std", "rms", "min", "max", "nonfinite", "zero_fraction"),
    *("constant", "identical_rows", "unwritten", "reproducible", "follows_seed", "copy_of"),
    *("requires_grad", "grad_rms", "grad_nonfinite"),
)
FINDING = ("code", "name", "fqn", "root_cause", "observed", "limit", "unit", "message", "affected", "draws")
ATTENTION = ("keys", "logit_std", "entropy", "concentration", "saturated", "token_spread")
RECURRENCE = ("weight", "kind", "steps", "hidden_size", "retention", "saturated")
GATE = ("name", "open", "input_bias", "state_bias")
ADVICE = ("scheme", "gain", "std", "code", "why")


def render_json(reports: Sequence[Report]) -> str:
    """One JSON document with every report in the order audited, without NaN or Infinity literals."""
    environments = [_keys(report.trace.environment, ENVIRONMENT) for report in reports if report.trace]
    verdicts = [report.verdict for report in reports]
    severities = [finding.severity for report in reports for finding in report.findings]
    document = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "initaudit", "version": _version()},
        "environment": environments[0] if environments else dict.fromkeys(ENVIRONMENT),
        "audits": [audit_to_dict(report) for report in reports],
        "summary": {
            "passed": verdicts.count("pass"),
            "failed": verdicts.count("fail"),
            "errors": verdicts.count("error"),
            "findings": {severity.value: severities.count(severity) for severity in Severity},
        },
    }
    return json.dumps(document, allow_nan=False)


def audit_to_dict(report: Report) -> dict[str, Any]:
    """One entry of ``audits``. Non-finite numbers are the strings ``"nan"``, ``"inf"`` and ``"-inf"``.

    A layer's statistics are those of all its calls together. A model that could not be run has the same keys as any
    other, with no layers.
    """
    trace = report.trace
    unjudged = trace.unjudged if trace else ()
    tables = lookups(report)
    audit = {
        "target": report.target,
        "verdict": report.verdict,
        "severity_score": None if report.trace is None else report.severity_score,
        "error": _keys(report.error, ERROR),
        "inputs": trace.inputs if trace else None,
        "inputs_source": trace.inputs_source if trace else None,
        "loss": trace.loss if trace else None,
        "loss_value": trace.loss_value if trace else None,
        "environment": _keys(trace.environment, ENVIRONMENT) if trace else None,
        "seeds": list(report.seeds),
        "seconds": report.seconds,
        "model_seconds": trace.model_seconds if trace else None,
        "build_seconds": trace.build_seconds if trace else None,
        "layers": [_layer(layer, tables) for layer in report.layers],
        "parameters": [_keys(parameter, PARAMETER) for parameter in trace.parameters] if trace else [],
        "attentions": _attentions(trace) if trace else [],
        "recurrences": [_recurrence(r) for r in trace.recurrences] if trace else [],
        "findings": [_finding(finding) for finding in report.findings],
        "not_judged": [_keys(part, UNJUDGED) for part in unjudged],
        "uncalled": list(trace.uncalled) if trace else [],
    }
    return {key: _plain(value) for key, value in audit.items()}


def _layer(layer: Layer, tables: frozenset[str]) -> dict[str, Any]:
    def merged(tensor: Callable[[LayerCall], Stats | None]) -> dict[str, Any] | None:
        stats = merge(tensor(call) for call in layer.calls)
        return {**_keys(stats, STATS), "histogram": _keys(stats.histogram, HISTOGRAM)} if stats else None

    activation = layer.nonlinearity
    return {
        "fqn": layer.fqn,
        "kind": layer.kind,
        "access": layer.access,
        "calls": len(layer.calls),
        "fan_in": _count(layer.fan_in),
        "fan_out": _count(layer.fan_out),
        "nonlinearity": activation.name if activation else None,
        "gain": activation.gain if activation else 1.0,
        "weight": {
            "parameter": layer.weight.fqn,
            "mean": layer.weight.mean,
            "std": layer.weight.std,
            "expected_std": expected_std(layer, tables),
            "init": layer.weight.init,
        },
        "factor": {"declared": layer.declared_factor, "measured": layer.measured_factor},
        "input": merged(lambda call: call.input),
        "pre_activation": merged(lambda call: call.pre_activation),
        "activation": merged(lambda call: call.activation),
        "gradient": merged(lambda call: call.gradient),
    }


def _attentions(trace: Trace) -> list[dict[str, Any]]:
    return [{"fqn": trace.ops[a.op].scope, **_keys(a, ATTENTION)} for a in trace.attentions]


def _recurrence(recurrence: Recurrence) -> dict[str, Any]:
    return {**_keys(recurrence, RECURRENCE), "gates": [_keys(gate, GATE) for gate in recurrence.gates]}


def _finding(finding: Finding) -> dict[str, Any]:
    severity, advice = finding.severity.value, _keys(finding.advice, ADVICE)
    return {**_keys(finding, FINDING), "severity": severity, "advice": advice}


@overload
def _keys(record: None, keys: tuple[str, ...]) -> None: ...
@overload
def _keys(record: object, keys: tuple[str, ...]) -> dict[str, Any]: ...
def _keys(record: object, keys: tuple[str, ...]) -> dict[str, Any] | None:
    return None if record is None else {key: getattr(record, key) for key in keys}


def _count(fan: float) -> float:
    """A fan as an integer where it is one: 256, and not 256.0."""
    return int(fan) if math.isfinite(fan) and fan == int(fan) else fan


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types, with non-finite numbers as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _version() -> str:
    try:
        return version("initaudit")
    except PackageNotFoundError:
        return "0+unknown"
