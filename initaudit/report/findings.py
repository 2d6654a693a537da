"""Findings in words: what, where, the figure beside its limit, the cure and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.text import Text

from initaudit.records import Finding, Layer, Report, Severity
from initaudit.report.figures import counted, cure, figure, listed
from initaudit.report.glyphs import Glyphs
from initaudit.report.layers import SEVERITY_STYLE
from initaudit.report.lines import paragraph

KEEP = 5  # findings of one code shown in full, unless verbose
INDENT = 2


def finding_lines(report: Report, glyphs: Glyphs, *, width: int, verbose: int = 0) -> Iterator[Text]:
    """Every error and warning, worst first, each followed by what follows from it; notes only when ``verbose``."""
    shown = [f for f in report.findings if verbose or f.severity is not Severity.NOTE]
    consequences = _consequences(shown)
    heads = [f for f in shown if id(f) not in {id(c) for found in consequences.values() for c in found}]
    seen: Counter[str] = Counter()
    for finding in heads:
        seen[finding.code] += 1
        if verbose or seen[finding.code] <= KEEP:
            yield Text()
            yield from _block(finding, report.layers, glyphs, width, verbose)
            for consequence in consequences.get(id(finding), ()):
                yield from _consequence(consequence, glyphs, width)
    yield from _summary(report, heads, glyphs, width, verbose)


def _consequences(findings: Sequence[Finding]) -> dict[int, list[Finding]]:
    """Findings that are no root cause, by the ``id`` of the worst root cause that counts their layer as affected."""
    found: dict[int, list[Finding]] = {}
    roots = [finding for finding in findings if finding.root_cause]
    for finding in findings:
        if not finding.root_cause:
            cause = next((root for root in roots if finding.fqn in (root.fqn, *root.affected)), None)
            if cause is not None:
                found.setdefault(id(cause), []).append(finding)
    return found


def _block(finding: Finding, layers: Sequence[Layer], glyphs: Glyphs, width: int, verbose: int) -> Iterator[Text]:
    title = f"{finding.severity.value} {finding.code} {finding.name}"
    place = glyphs.clean(finding.fqn) or "the whole model"
    heading = Text.assemble((title, SEVERITY_STYLE[finding.severity]), " at ", (place, "bold"))
    heading.no_wrap, heading.overflow = False, "fold"
    yield heading
    yield from paragraph(finding.message, glyphs, width=width, indent=INDENT)
    facts = [figure(finding)]
    if finding.affected:
        facts.append(f"affects {listed(finding.affected, len(finding.affected) if verbose else 3)}")
    if any(facts):
        text = glyphs.separator.join(filter(None, facts))
        yield from paragraph(text, glyphs, width=width, indent=INDENT, style="dim")
    if finding.advice is None:
        return
    yield from paragraph(cure(finding, layers), glyphs, width=width, indent=INDENT, label="cure: ")
    for line in finding.advice.code.splitlines():
        # Neither wrapped nor indented by a renderable: a terminal wraps it softly and it is copied whole.
        yield Text(" " * 2 * INDENT + glyphs.clean(line), "green")
    if finding.advice.why:
        yield from paragraph(finding.advice.why, glyphs, width=width, indent=INDENT, label="why: ")


def _consequence(finding: Finding, glyphs: Glyphs, width: int) -> Iterator[Text]:
    place = finding.fqn or "the whole model"
    text = f"{finding.severity.value} {finding.code} {finding.name} at {place}: {finding.message}"
    yield from paragraph(text, glyphs, width=width, indent=2 * INDENT, label=f"{glyphs.follows} ")


def _summary(report: Report, heads: Sequence[Finding], glyphs: Glyphs, width: int, verbose: int) -> Iterator[Text]:
    """What was not shown in full, and what was not judged: one line each, with the way to see the rest."""
    lines: list[str] = []
    if not verbose:
        for code, findings in _by_code(heads).items():
            if len(findings) > KEEP:
                hidden = [finding.fqn for finding in findings[KEEP:]]
                lines.append(f"{len(hidden)} more {code} {findings[0].name} at {listed(hidden)} (-v shows all)")
        notes = Counter(f"{f.code} {f.name}" for f in report.findings if f.severity is Severity.NOTE)
        if notes:
            kinds = ", ".join(f"{name} {glyphs.times}{n}" if n > 1 else name for name, n in sorted(notes.items()))
            lines.append(f"{counted(notes.total(), 'note')}: {kinds} (-v shows them)")
    trace = report.trace
    if trace and trace.unjudged:
        lines.append(f"not judged: {counted(len(trace.unjudged), 'part')}" + ("" if verbose else " (-v lists them)"))
        lines.extend(f"  {part.fqn or 'the whole model'}: {part.reason}" for part in trace.unjudged if verbose)
    if trace and trace.uncalled:
        lines.append(f"never called: {listed(trace.uncalled, len(trace.uncalled) if verbose else 3)}")
    if lines:
        yield Text()
    for line in lines:
        yield from paragraph(line.lstrip(), glyphs, width=width, indent=len(line) - len(line.lstrip()), style="dim")


def _by_code(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    grouped: dict[str, list[Finding]] = {}
    for finding in findings:
        grouped.setdefault(finding.code, []).append(finding)
    return grouped
