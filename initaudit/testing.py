"""The audit as an assertion, for any test runner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from initaudit.records import Finding, Layer, Report, Severity
from initaudit.report.figures import counted, cure, figure, listed
from initaudit.report.outcome import failing

if TYPE_CHECKING:
    import torch
    from torch import nn


def assert_initialized(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Any = None,
    *,
    fail_on: str = "error",
    ignore: str | Sequence[str] = (),
    select: str | Sequence[str] = (),
    loss: Callable[[Any], torch.Tensor] | str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
    seeds: int = 1,
    distributed: bool | None = None,
) -> Report:
    """Audit ``model`` and return the report, or say what is wrong with its initialization.

    ``fail_on`` is the least severity that fails: ``"error"``, ``"warning"``, ``"note"``, or ``"never"``. ``ignore`` and
    ``select`` are rule codes or their prefixes. Everything else is as for :func:`initaudit.audit`.

    Raises:
        AssertionError: there are findings at or above ``fail_on``; the message names layer, figure and cure of each.
        AuditError: the model could not be built or run.
        UsageError: an argument makes no sense.
    """
    __tracebackhide__ = True
    failing((), fail_on)  # an unknown level is told before the model runs
    from initaudit.engine import audit

    report = audit(
        model, inputs, loss=loss, device=device, dtype=dtype, seed=seed, seeds=seeds,
        select=codes(select), ignore=codes(ignore), distributed=distributed,
    )  # fmt: skip
    if message := failure_message(report, fail_on):
        raise AssertionError(message)
    return report


def codes(given: str | Sequence[str]) -> list[str]:
    """Rule codes as a list, from one string (``"IA101,IA3"``) or several."""
    parts = [given] if isinstance(given, str) else given
    return [code.strip() for part in parts for code in part.split(",") if code.strip()]


def failure_message(report: Report, fail_on: str = "error") -> str:
    """What is wrong at or above ``fail_on``, with figure, cure and the way to silence it; ``""`` when nothing is."""
    findings = failing(report.findings, fail_on)
    if not findings:
        return ""
    counts = Counter(finding.severity for finding in findings)
    found = ", ".join(counted(counts[severity], severity.value) for severity in Severity if counts[severity])
    fed = f" (inputs {report.trace.inputs}, {report.trace.inputs_source})" if report.trace else ""
    heading = f"{report.target} is not well initialized: {found}{fed}"
    return "\n\n".join([heading, *(_block(finding, report.layers) for finding in findings)])


def _block(finding: Finding, layers: Sequence[Layer]) -> str:
    facts = {
        "figure": figure(finding),
        "affects": listed(finding.affected),
        "cure": "\n".join(filter(None, (cure(finding, layers), finding.advice.code if finding.advice else ""))),
        "silence": f'ignore=["{finding.code}"]',
    }
    title = f"{finding.severity.value} {finding.code} {finding.name} at {finding.fqn or 'the whole model'}"
    lines = [title, *(f"  {line}" for line in finding.message.splitlines())]
    for label, text in facts.items():
        for position, line in enumerate(text.splitlines()):
            lines.append(f"  {'' if position else label + ':':<9}{line}")
    return "\n".join(lines)
